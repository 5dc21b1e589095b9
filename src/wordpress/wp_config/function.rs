//! Functions of PHP by what they can do to the rest of a configuration file.

use tree_sitter::Node;

use super::expression::operand;
use super::literal;

/// They take everything by value, run no code of the site, and change nothing that is read here.
/// Not in the list: what takes a callback in any form, or an object whose methods it runs on purpose.
const WITHOUT_EFFECT: &str = "\
    abs addslashes array_combine array_diff array_fill array_flip array_intersect_key array_is_list array_key_exists \
    array_key_first array_key_last array_keys array_merge array_pad array_reverse array_search array_slice array_sum \
    array_unique array_values base64_decode base64_encode basename bin2hex boolval ceil checkdate chop chr \
    class_exists compact constant count crc32 ctype_alnum ctype_alpha ctype_digit ctype_lower ctype_punct \
    ctype_space ctype_upper ctype_xdigit date date_default_timezone_get date_default_timezone_set defined dirname \
    error_log error_reporting explode extension_loaded file_exists file_get_contents filemtime filesize floatval \
    floor function_exists get_cfg_var get_current_user get_include_path getcwd getenv gethostbyname gethostname \
    getmypid getmyuid gettype gmdate hash hash_algos hash_equals hash_hmac header hex2bin hrtime \
    htmlentities htmlspecialchars http_build_query http_response_code ignore_user_abort implode in_array inet_pton \
    ini_get intdiv intval ip2long is_array is_bool is_dir is_file is_float is_int is_integer is_link is_null \
    is_numeric is_object is_readable is_scalar is_string is_writable is_writeable join json_decode lcfirst lcg_value \
    long2ip ltrim max mb_convert_case mb_internal_encoding mb_strlen mb_strpos mb_strrpos mb_strtolower \
    mb_strtoupper mb_substr md5 md5_file memory_get_usage microtime min mktime mt_rand nl2br number_format ord \
    parse_ini_file parse_ini_string parse_url pathinfo php_ini_loaded_file php_sapi_name php_uname phpversion pi pow \
    preg_quote preg_split print_r rand random_bytes random_int range rawurldecode rawurlencode readlink realpath \
    round rtrim set_time_limit setcookie setlocale sha1 sha1_file sleep sprintf sqrt str_contains str_ends_with \
    str_pad str_repeat str_split str_starts_with str_word_count strcasecmp strcmp strip_tags stripos stripslashes \
    stristr strlen strnatcmp strncasecmp strncmp strpbrk strpos strrchr strrev strripos strrpos strspn strstr \
    strtolower strtotime strtoupper strtr strval substr substr_count substr_replace sys_get_temp_dir time \
    timezone_identifiers_list trim ucfirst ucwords umask uniqid urldecode urlencode usleep var_dump var_export \
    version_compare vsprintf wordwrap zend_version";

/// They run no code of the site either, but change variables that they are handed.
const CHANGES_ARGUMENTS: &str = "\
    array_pop array_push array_shift array_splice array_unshift asort headers_sent ksort preg_match preg_match_all preg_replace \
    rsort settype similar_text sort str_ireplace str_replace";

/// Settings by which PHP finds other files, or runs code.
const SETTINGS_WITH_EFFECT: [&str; 4] = ["include_path", "open_basedir", "unserialize_callback_func", "assert."];

pub(super) fn has_no_effect(name: &str, arguments: Node<'_>, source: &[u8]) -> bool {
    match name {
        "ini_set" => {
            let setting = operand(arguments).and_then(operand).and_then(|setting| literal::text_of(setting, source));
            setting.is_some_and(|setting| !SETTINGS_WITH_EFFECT.iter().any(|known| setting.starts_with(known)))
        }
        name => is_in(WITHOUT_EFFECT, name),
    }
}

pub(super) fn changes_arguments_only(name: &str) -> bool {
    is_in(CHANGES_ARGUMENTS, name)
}

fn is_in(names: &str, name: &str) -> bool {
    names.split(' ').any(|known| known == name)
}

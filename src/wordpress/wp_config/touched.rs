//! What code may touch that may or may not run, or that is not understood: all of that becomes unknown.

use tree_sitter::Node;

use super::call::function_name;
use super::environment::{ARRAY, PROCESS};
use super::expression::{operand, variable_name};
use super::value::Doubt;
use super::{Reader, WpConfigError, line, literal, text};

/// PHP changes these by itself, and nothing that is read depends on them.
const SUPERGLOBALS: [&str; 8] = ["_SERVER", "_GET", "_POST", "_COOKIE", "_REQUEST", "_FILES", "_SESSION", "this"];

/// They take everything by value, run no code of the site, and change nothing that is read here.
/// Not in the list: what takes a callback in any form, or an object whose methods it runs on purpose.
const WITHOUT_EFFECT: &str = "\
    abs addslashes array_combine array_diff array_fill array_flip array_intersect_key array_is_list array_key_exists \
    array_key_first array_key_last array_keys array_merge array_pad array_reverse array_search array_slice array_sum array_unique \
    array_values base64_decode base64_encode basename bin2hex boolval ceil checkdate chop chr class_exists compact constant count \
    crc32 ctype_alnum ctype_alpha ctype_digit ctype_lower ctype_punct ctype_space ctype_upper ctype_xdigit date \
    date_default_timezone_get date_default_timezone_set defined die dirname empty error_log error_reporting exit explode \
    extension_loaded file_exists file_get_contents filemtime filesize floatval floor function_exists get_cfg_var get_current_user \
    get_include_path getcwd getenv getenv_docker gethostbyname gethostname getmypid getmyuid gettype gmdate hash hash_algos \
    hash_equals hash_hmac header hex2bin hrtime htmlentities htmlspecialchars http_build_query http_response_code \
    ignore_user_abort implode in_array inet_pton ini_get intdiv intval ip2long is_array is_bool is_dir is_file is_float is_int \
    is_integer is_link is_null is_numeric is_object is_readable is_scalar is_string is_writable is_writeable isset join \
    json_decode lcfirst lcg_value long2ip ltrim max mb_convert_case mb_internal_encoding mb_strlen mb_strpos mb_strrpos \
    mb_strtolower mb_strtoupper mb_substr md5 md5_file memory_get_usage microtime min mktime mt_rand nl2br number_format ord \
    parse_ini_file parse_ini_string parse_url pathinfo php_ini_loaded_file php_sapi_name php_uname phpversion pi pow preg_quote \
    preg_split print_r rand random_bytes random_int range rawurldecode rawurlencode readlink realpath round rtrim set_time_limit \
    setcookie setlocale sha1 sha1_file sleep sprintf sqrt str_contains str_ends_with str_pad str_repeat str_split str_starts_with \
    str_word_count strcasecmp strcmp strip_tags stripos stripslashes stristr strlen strnatcmp strncasecmp strncmp strpbrk strpos \
    strrchr strrev strripos strrpos strspn strstr strtolower strtotime strtoupper strtr strval substr substr_count substr_replace \
    sys_get_temp_dir time timezone_identifiers_list trim ucfirst ucwords umask uniqid urldecode urlencode usleep var_dump \
    var_export version_compare vsprintf wordwrap zend_version";

/// They run no code of the site either, but change variables that they are handed.
const CHANGES_ARGUMENTS: &str = "\
    array_pop array_push array_shift array_splice array_unshift asort headers_sent ksort preg_match preg_match_all \
    preg_replace rsort settype similar_text sort str_ireplace str_replace";

/// WordPress's own, once it is loaded. What is handed over is looked into like all else.
const OF_WORDPRESS: &str = "add_action add_filter remove_action remove_filter";

/// Settings by which PHP finds other files, or runs code.
const SETTINGS_WITH_EFFECT: [&str; 4] = ["include_path", "open_basedir", "unserialize_callback_func", "assert."];

fn is_in(names: &str, name: &str) -> bool {
    names.split(' ').any(|known| known == name)
}

impl Reader<'_> {
    pub(super) fn touch(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        self.nested(node, (), |reader| reader.touch_node(node, source, doubt));
    }

    pub(super) fn touch_children(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            self.touch(child, source, doubt);
        }
    }

    fn touch_node(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        match node.kind() {
            // Declared, not run. A call of one loses track.
            "function_definition"
            | "class_declaration"
            | "interface_declaration"
            | "trait_declaration"
            | "enum_declaration"
            | "comment"
            | "string" => return,
            // Whether it is read, assigned to or referred to is not looked into.
            "variable_name" => match variable_name(node, source).as_deref() {
                Some("_ENV") => self.scope.hide(ARRAY, doubt),
                Some(name) if SUPERGLOBALS.contains(&name) => {}
                Some(name) if name != "GLOBALS" => self.scope.hide(name, doubt),
                _ => self.scope.lose(doubt),
            },
            "function_call_expression" => return self.touch_call(node, source, doubt),
            "include_expression"
            | "include_once_expression"
            | "require_expression"
            | "require_once_expression"
            | "member_call_expression"
            | "nullsafe_member_call_expression"
            | "scoped_call_expression"
            | "object_creation_expression"
            | "clone_expression"
            | "yield_expression"
            | "dynamic_variable_name"
            | "ERROR" => self.scope.lose(doubt),
            // What follows in an included file may not be run.
            "return_statement" if self.files.len() > 1 => self.scope.lose(doubt),
            "const_element" => {
                if let Some(name) = operand(node) {
                    let name = String::from_utf8_lossy(text(name, source)).into_owned();
                    self.scope.may_define(&name, self.place(node), doubt);
                }
            }
            "goto_statement" => _ = self.error.get_or_insert(WpConfigError::Goto { line: line(node) }),
            _ => {}
        }
        self.touch_children(node, source, doubt);
    }

    fn touch_call(&mut self, node: Node<'_>, source: &[u8], doubt: &Doubt) {
        let name = node.child_by_field_name("function").and_then(|name| function_name(name, source));
        let name = name.filter(|name| !self.is_other_function(name));
        let arguments = node.child_by_field_name("arguments");
        let first = arguments.and_then(operand).and_then(operand);
        let is_by_value = match name.as_deref() {
            Some("define") => {
                self.touch_define(node, first, source, doubt);
                true
            }
            Some("putenv") => {
                self.scope.hide(PROCESS, doubt);
                true
            }
            Some("ini_set") => {
                let setting = first.and_then(|setting| literal::text_of(setting, source));
                let has_effect = |setting: String| SETTINGS_WITH_EFFECT.iter().any(|known| setting.starts_with(known));
                if setting.is_none_or(has_effect) {
                    self.scope.lose(doubt);
                }
                true
            }
            Some(name) if is_in(WITHOUT_EFFECT, name) => true,
            Some(name) if is_in(CHANGES_ARGUMENTS, name) || self.is_late && is_in(OF_WORDPRESS, name) => false,
            _ => {
                self.scope.lose(doubt);
                false
            }
        };
        let mut cursor = node.walk();
        let arguments =
            arguments.into_iter().flat_map(|arguments| arguments.named_children(&mut cursor).collect::<Vec<_>>());
        for argument in arguments {
            let is_variable = operand(argument).is_some_and(|value| value.kind() == "variable_name");
            if !(is_by_value && is_variable) {
                self.touch(argument, source, doubt);
            }
        }
    }
}

//! Makes unknown what code may change that may or may not run, or that is not understood.

use super::code::Code;
use super::environment::PROCESS;
use super::value::{Doubt, Value};
use super::{Reader, literal};

/// PHP changes these by itself, and no supported value depends on them.
const SUPERGLOBALS: [&str; 8] = ["_SERVER", "_GET", "_POST", "_COOKIE", "_REQUEST", "_FILES", "_SESSION", "this"];

/// These functions take everything by value, run no code of the site, and change nothing that is
/// read here. Functions that take a callback in any form, or an object whose methods they run on
/// purpose, are not in the list.
const WITHOUT_EFFECT: &str = "\
    addslashes array_combine array_key_exists array_keys array_merge array_search array_slice array_values base64_decode \
    base64_encode basename bin2hex class_exists compact constant count crc32 date date_default_timezone_get \
    date_default_timezone_set defined die dirname empty error_log error_reporting exit explode extension_loaded \
    file_exists file_get_contents filemtime filesize floatval function_exists getcwd getenv getenv_docker gethostname gmdate \
    hash hash_hmac header htmlspecialchars http_response_code ignore_user_abort implode in_array ini_get intval \
    is_array is_bool is_dir is_file is_int is_link is_null is_numeric is_readable is_string is_writable isset join json_decode \
    lcfirst ltrim max mb_internal_encoding mb_strtolower mb_substr md5 microtime min mt_rand number_format ord \
    parse_ini_file parse_url pathinfo php_sapi_name php_uname phpversion print_r rand random_bytes random_int rawurldecode \
    rawurlencode realpath round rtrim set_time_limit setcookie setlocale sha1 sprintf str_contains str_ends_with \
    str_pad str_repeat str_starts_with strcasecmp strcmp stripos stripslashes stristr strlen strncasecmp strncmp strpos strrchr \
    strrpos strstr strtolower strtotime strtoupper strtr strval substr substr_count sys_get_temp_dir time trim ucfirst ucwords \
    umask uniqid urldecode urlencode var_export version_compare vsprintf";

/// These run no code of the site either, but change variables passed to them. WordPress's own exist
/// once it is loaded.
const CHANGES_ARGUMENTS: &str = "\
    add_action add_filter array_pop array_push array_shift array_unshift asort headers_sent ksort preg_match \
    preg_match_all preg_replace remove_action remove_filter settype sort str_ireplace str_replace";

/// Settings that make PHP find other files, or run code.
const SETTINGS_WITH_EFFECT: [&str; 4] = ["include_path", "open_basedir", "unserialize_callback_func", "assert."];

fn is_in(names: &str, name: &str) -> bool {
    names.split(' ').any(|known| known == name)
}

impl Reader<'_> {
    pub(super) fn touch(&mut self, code: Code<'_>, doubt: &Doubt) {
        self.nested(code, (), |reader| reader.touch_code(code, doubt));
    }

    fn touch_code(&mut self, code: Code<'_>, doubt: &Doubt) {
        match code.kind() {
            // Declared, not run. A call makes everything unknown.
            "function_definition"
            | "class_declaration"
            | "interface_declaration"
            | "trait_declaration"
            | "enum_declaration"
            | "string" => return,
            // Reading, assigning and referring are not distinguished.
            "variable_name" => match code.variable() {
                Some(name) if SUPERGLOBALS.contains(&name) => {}
                Some(name) if name != "GLOBALS" => self.scope.assign(name, Value::Unknown(doubt.clone())),
                _ => self.scope.lose(doubt),
            },
            "function_call_expression" => return self.touch_call(code, doubt),
            "clone_expression" | "yield_expression" | "dynamic_variable_name" | "ERROR" => self.scope.lose(doubt),
            _ if code.is_include() || code.runs_class() => self.scope.lose(doubt),
            // Statements may run in another order than that of the lines.
            "goto_statement" => {
                let doubt = self.doubt(code, "uses goto, which is not followed");
                self.scope.lose(&doubt);
            }
            // The rest of an included file may not run.
            "return_statement" if self.files.len() > 1 => self.scope.lose(doubt),
            "const_element" => {
                let name = code.operand().map(Code::text).unwrap_or_default();
                self.scope.define(&name, Value::Unknown(doubt.clone()), code.line());
            }
            _ => {}
        }
        code.children().into_iter().for_each(|child| self.touch(child, doubt));
    }

    fn touch_call(&mut self, code: Code<'_>, doubt: &Doubt) {
        let name = code.field("function").and_then(Code::function).filter(|name| !self.is_other_function(name));
        let name = name.unwrap_or_default();
        let arguments = code.field("arguments").map(Code::children).unwrap_or_default();
        let text = arguments.first().and_then(|first| literal::text_of(first.operand()?));
        let changes_arguments = is_in(CHANGES_ARGUMENTS, &name);
        match (name.as_str(), text) {
            ("define", Some(constant)) => self.scope.define(&constant, Value::Unknown(doubt.clone()), code.line()),
            ("putenv", _) => self.scope.assign(PROCESS, Value::Unknown(doubt.clone())),
            ("ini_set", Some(setting)) if !SETTINGS_WITH_EFFECT.iter().any(|known| setting.starts_with(known)) => {}
            (name, _) if changes_arguments || is_in(WITHOUT_EFFECT, name) => {}
            _ => self.scope.lose(doubt),
        }
        for argument in arguments {
            let is_variable = argument.operand().is_some_and(|value| value.kind() == "variable_name");
            if changes_arguments || !is_variable {
                self.touch(argument, doubt);
            }
        }
    }
}

// Runs a site's wp-config.php like a request, and reports what it defined, instead of loading WordPress. The sidecar puts a line
// with $wp_jwt_import in front (what to run, as base64 of JSON) and passes the whole on standard input, after the other files
// of this directory. The code is for PHP 7.2, the oldest version that WordPress runs on.
final class WpJwtRun
{
    private static $task;
    private static $answered = false;
    private static $request = array();

    public static function begin($task)
    {
        self::$task = $task;
        ini_set('display_errors', '0');
        ini_set('log_errors', '0');
        register_shutdown_function(array(__CLASS__, 'ended'));
        // In pieces: endless input must not fill the memory.
        ob_start(array(__CLASS__, 'nothing'), 4096);
        // The site does not get the variables of the administrator who runs this.
        foreach (array_keys(getenv()) as $name) {
            putenv($name);
            unset($_SERVER[$name], $_ENV[$name]);
        }
        unset($_SERVER['argv'], $_SERVER['argc']);
        $given = array();
        foreach ($task['environment'] as $pair) {
            list($name, $value) = array(base64_decode($pair[0]), base64_decode($pair[1]));
            putenv("$name=$value");
            $_SERVER[$name] = $value;
            $given[$name] = 1;
            if (strpos((string) ini_get('variables_order'), 'E') !== false) {
                $_ENV[$name] = $value;
            }
        }
        foreach ($task['server'] as $name => $value) {
            $_SERVER[$name] = $value;
        }
        $_SERVER['REQUEST_TIME'] = time();
        $_SERVER['REQUEST_TIME_FLOAT'] = microtime(true);
        $_SERVER['DOCUMENT_ROOT'] = getcwd();
        $_SERVER['SCRIPT_FILENAME'] = $_SERVER['PATH_TRANSLATED'] = getcwd() . '/index.php';
        $_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = '/index.php';
        // In a request getenv() knows all of these (sapi_getenv() of PHP-FPM and of mod_php).
        foreach ($_SERVER as $name => $value) {
            if (is_string($value)) {
                putenv("$name=$value");
                self::$request[$name] = $value;
            }
        }
        self::$request = array_diff_key(self::$request, $given);
        // As index.php and wp-blog-header.php of WordPress have it by then.
        define('WP_USE_THEMES', true);
        $GLOBALS['wp_did_header'] = true;
        if ($task['abspath'] !== null) {
            define('ABSPATH', $task['abspath']);
        }
        WpJwtFiles::on();
    }

    public static function nothing()
    {
        return '';
    }

    public static function loaded()
    {
        self::answer('loaded');
        exit;
    }

    /** At the end of a run that did not load WordPress: by exit, by an error, or because nothing is left. */
    public static function ended()
    {
        if (self::$answered) {
            return;
        }
        $error = error_get_last();
        $fatal = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;
        if ($error !== null && $error['type'] & $fatal) {
            self::answer('error', $error);
        } else {
            self::answer(isset($GLOBALS['wp_jwt_import_returned']) ? 'returned' : 'exit');
        }
    }

    private static function answer($end, $error = null)
    {
        self::$answered = true;
        WpJwtFiles::off();
        foreach (self::$request as $name => $value) {
            // A request's getenv() ignores putenv() for these.
            if (getenv($name) !== $value) {
                WpJwtQuestions::$asks['request'] = base64_encode($name);
            }
        }
        $answer = array(
            'end' => $end,
            'sapi' => PHP_SAPI,
            'php' => PHP_VERSION,
            'error' => $error === null ? null : WpJwtError::reduced($error),
            'constants' => (object) array(),
            'table_prefix' => null,
            'files' => array(),
            'overflow' => WpJwtFiles::$overflow,
            'asks' => (object) WpJwtQuestions::$asks,
            'late' => WpJwtQuestions::$late,
        );
        if ($end === 'loaded') {
            $values = array();
            foreach (self::$task['constants'] as $name) {
                if (defined($name)) {
                    $values[$name] = self::value(constant($name), $name);
                }
            }
            $answer['constants'] = (object) $values;
            if (isset($GLOBALS['table_prefix'])) {
                $answer['table_prefix'] = self::value($GLOBALS['table_prefix'], '$table_prefix');
            }
            foreach (WpJwtFiles::$seen as $path => $file) {
                $answer['files'][] = array_merge(array(base64_encode((string) $path)), $file);
            }
        }
        while (ob_get_level() > 0 && @ob_end_clean()) {
            continue;
        }
        $out = fopen('php://stdout', 'w');
        fwrite($out, "\n" . self::$task['nonce'] . json_encode($answer) . "\n");
        fflush($out);
    }

    private static function value($value, $name)
    {
        $place = self::place($name);
        switch (gettype($value)) {
            case 'string':
                return array('text', base64_encode($value), $place);
            case 'integer':
                return array('integer', (string) $value, $place);
            case 'boolean':
                return array('boolean', $value ? '1' : '', $place);
            case 'NULL':
                return array('null', '', $place);
            default:
                return array(gettype($value), '', $place);
        }
    }

    /** A line of what was read that gives the constant its value, as well as can be seen. */
    private static function place($name)
    {
        $quoted = preg_quote($name, '/');
        $pattern = $name[0] === '$'
            ? '/' . $quoted . '\s*=[^=]/'
            : '/\bdefine\s*\(\s*[\'"]' . $quoted . '[\'"]|\bconst\s+' . $quoted . '\s*=|^\s*(export\s+)?' . $quoted . '\s*=/';
        foreach (WpJwtFiles::$seen as $path => $file) {
            if ($file[0] !== 'read' || $file[1] > 262144 || strpos($path, '/vendor/') !== false) {
                continue;
            }
            foreach (explode("\n", (string) @file_get_contents($path)) as $at => $line) {
                if (preg_match($pattern, $line)) {
                    return base64_encode($path . ':' . ($at + 1));
                }
            }
        }
        return '';
    }
}

WpJwtRun::begin(json_decode(base64_decode($wp_jwt_import), true));
$wp_jwt_import_file = base64_decode(json_decode(base64_decode($wp_jwt_import), true)['file']);
unset($wp_jwt_import, $argv, $argc);
require $wp_jwt_import_file;
$wp_jwt_import_returned = true;

// Finds what the answer may depend on although a second run does not show it. All with the wrapper of files off.
final class WpJwtQuestions
{
    const OF_COMMAND_LINE = '/\b(PHP_SAPI|php_sapi_name|WP_CLI|STDIN|STDOUT|STDERR)\b/i';
    const OF_SAPI = '/\b(PHP_SAPI|php_sapi_name)\b/i';
    const OF_SERVER = '/[\'"]((?:fpm|cgi|apache|litespeed|frankenphp|uwsgi|embed|cli-server)[a-z0-9_-]*)[\'"]/i';
    const OF_HOST = '/\b(HTTP_HOST|SERVER_NAME)\b/';
    // Values that are the same for all processes of a machine or container, and are read to identify it.
    const OF_PROCESS = '~^/proc/(?:\d+|self|thread-self)/(?!(?:cgroup|mounts|mountinfo)$)~';
    const INCLUDE_WORD = '/^(?:include|require)(?:_once)?$/i';
    public static $asks = array();
    public static $late = null;
    private static $included = array();
    private static $behind = array();

    /** A file that is run. */
    public static function look($real)
    {
        if (isset(self::$included[$real]) || count(self::$included) > WpJwtFiles::MOST) {
            return;
        }
        self::$included[$real] = 1;
        // What Composer makes itself asks only whether it may print an error.
        if (strpos($real, '/vendor/composer/') !== false
            || (basename($real) === 'autoload.php' && is_file(dirname($real) . '/composer/autoload_real.php'))) {
            return;
        }
        // Without comments, which keeps no lines.
        $code = (string) @php_strip_whitespace($real);
        self::look_for('cli', self::OF_COMMAND_LINE, $code, $real);
        self::look_for('host', self::OF_HOST, $code, $real);
        // php-cgi is no command line either, and that is all that can be known by it.
        if (preg_match(self::OF_SAPI, $code)) {
            self::look_for('server', self::OF_SERVER, $code, $real);
            if (!preg_match('/[\'"]cli[\'"]/', $code)) {
                self::look_for('server', self::OF_SAPI, $code, $real);
            }
        }
    }

    private static function look_for($what, $pattern, $code, $file)
    {
        if (isset(self::$asks[$what]) || !preg_match($pattern, $code, $match)) {
            return;
        }
        $number = 1;
        foreach (explode("\n", (string) @file_get_contents($file)) as $at => $line) {
            if (!preg_match('~^\s*(//|#|\*|/\*)~', $line) && preg_match($pattern, $line)) {
                $number = $at + 1;
                break;
            }
        }
        self::$asks[$what] = array(base64_encode($file), $number, $match[1]);
    }

    /** A file that is read. */
    public static function look_at_path($path)
    {
        if (isset(self::$asks['process']) || !preg_match(self::OF_PROCESS, $path)) {
            return;
        }
        foreach (debug_backtrace(DEBUG_BACKTRACE_IGNORE_ARGS) as $call) {
            if (isset($call['file'], $call['line']) && is_file($call['file'])) {
                self::$asks['process'] = array(base64_encode($call['file']), $call['line'], '/proc');
                return;
            }
        }
    }

    /**
     * The run ends where WordPress is loaded, and what follows that line counts in a request, too: a constant of the plugin
     * would be lost that is defined there, or by what is called or included there.
     */
    public static function look_behind($calls)
    {
        foreach ($calls as $call) {
            if (self::$late === null && isset($call['file'], $call['line']) && is_file($call['file'])) {
                $words = self::words((string) @file_get_contents($call['file']));
                self::look_after(self::rest($words, $call['line']), $call['file']);
            }
        }
    }

    private static function look_after($words, $file)
    {
        foreach ($words as $at => list($text, $line)) {
            $before = $at > 0 ? strtolower($words[$at - 1][0]) : '';
            $after = isset($words[$at + 1]) ? $words[$at + 1][0] : '';
            $found = null;
            if (preg_match('/JWT_AUTH_[A-Z_]+/', $text, $match)) {
                $found = $match[0];
            } elseif (preg_match(self::INCLUDE_WORD, $text)) {
                $found = self::look_into(self::path($words, $at + 1, $file)) ? null : $text;
            } elseif (strtolower($text) === 'eval') {
                $found = $text;
            } elseif (self::may_run($text, $before, $after)) {
                $found = 'a call';
            }
            if (self::$late !== null) {
                return;
            }
            if ($found !== null) {
                self::$late = array(base64_encode($file), $line, $found);
                return;
            }
        }
    }

    /** A file that is included there, as SiteGround has it. Whether it is known which. */
    private static function look_into($path)
    {
        if ($path !== null && !isset(self::$behind[$path])) {
            self::$behind[$path] = 1;
            WpJwtFiles::note($path, true);
            self::look_after(is_file($path) ? self::words((string) @file_get_contents($path)) : array(), $path);
        }
        return $path !== null;
    }

    /** An absolute one that stands there plainly. */
    private static function path($words, $at, $file)
    {
        $path = '';
        for (; isset($words[$at]) && $words[$at][0] !== ';'; $at++) {
            $word = $words[$at][0];
            if ($word[0] === "'" || ($word[0] === '"' && strpos($word, '$') === false)) {
                if (strpos($word, '\\') !== false) {
                    return null;
                }
                $path .= substr($word, 1, -1);
            } elseif (strcasecmp($word, '__DIR__') === 0) {
                $path .= dirname($file);
            } elseif ($word === 'ABSPATH' && defined('ABSPATH')) {
                $path .= ABSPATH;
            } elseif (!in_array($word, array('.', '(', ')'), true)) {
                return null;
            }
        }
        return strpos($path, '/') === 0 ? $path : null;
    }

    /**
     * Of PHP code, each with its line: names, variables, texts and signs. Not by token_get_all(), which is an extension's and
     * not there in every PHP.
     */
    private static function words($source)
    {
        $html = '\?>.*?(?:<\?(?:php\b|=)|\z)|\A.*?(?:<\?(?:php\b|=)|\z)';
        $comment = '//(?:(?!\?>)[^\n])*+|#(?!\[)(?:(?!\?>)[^\n])*+|/\*.*?(?:\*/|\z)|\s++';
        $text = '\'[^\'\\\\]*+(?:\\\\.[^\'\\\\]*+)*+\'|"[^"\\\\]*+(?:\\\\.[^"\\\\]*+)*+"';
        $pattern = "~(?<none>$html|$comment)|$text|\\$?[A-Za-z_\\x80-\\xff\\\\][\\w\\x80-\\xff\\\\]*+|\\?->|->|::|.~s";
        if (preg_match_all($pattern, $source, $found, PREG_SET_ORDER) === false) {
            // PCRE's limits: what stands there is as code that cannot be looked into.
            return array(array('eval', 1));
        }
        $words = array();
        $line = 1;
        foreach ($found as $match) {
            if (!isset($match['none']) || $match['none'] === '') {
                $words[] = array($match[0], $line);
            }
            $line += substr_count($match[0], "\n");
        }
        return $words;
    }

    /** What comes after the statement that includes wp-settings.php, or the file that does. */
    private static function rest($words, $from)
    {
        $best = array(0, 0);
        foreach ($words as $at => list($text, $line)) {
            if ($line > $from || !preg_match(self::INCLUDE_WORD, $text)) {
                continue;
            }
            for ($end = $at, $statement = ''; isset($words[$end]) && $words[$end][0] !== ';'; $end++) {
                $statement .= $words[$end][0];
            }
            $score = ($line === $from ? 2 : 0) + (strpos($statement, 'wp-settings') !== false ? 1 : 0);
            if ($score > $best[0]) {
                $best = array($score, $end + 1);
            }
        }
        return array_slice($words, $best[1]);
    }

    /** Whether a word runs code that is there before WordPress is: what WordPress brings along defines nothing of the plugin's. */
    private static function may_run($text, $before, $after)
    {
        if ($text[0] === '$') {
            $name = substr($text, 1);
            $value = isset($GLOBALS[$name]) ? $GLOBALS[$name] : null;
            return $after === '(' ? $value !== null : is_object($value) && in_array($after, array('->', '?->', '::'), true);
        }
        $parts = explode('\\', strtolower(trim($text, '\'"')));
        $name = end($parts);
        $is_text = $text[0] === '"' || $text[0] === "'";
        if (!$is_text && ($after === '::' || $before === 'new')) {
            return in_array($name, self::last_parts(get_declared_classes(), 'ReflectionClass'), true);
        }
        $is_call = $is_text || ($after === '(' && !in_array($before, array('->', '?->', '::', 'function'), true));
        return $is_call && in_array($name, self::last_parts(get_defined_functions()['user'], 'ReflectionFunction'), true);
    }

    private static function last_parts($names, $reflection)
    {
        $last = array();
        foreach ($names as $name) {
            $parts = explode('\\', strtolower($name));
            if (strpos($name, 'WpJwt') !== 0 && (new $reflection($name))->isUserDefined()) {
                $last[] = end($parts);
            }
        }
        return $last;
    }
}

// Runs a site's wp-config.php as a request would, and says what it defined, instead of loading WordPress. The sidecar puts a
// line with $wp_jwt_import in front (what to run, as base64 of JSON) and hands the whole over on standard input.
//
// The file wrapper is replaced: includes of wp-settings.php get a line that ends the run, and whatever is read, or looked for
// and not there, is noted. The language is that of PHP 7.2, the oldest that WordPress runs on.
final class WpJwtImport
{
    const FILES = 4000;
    const HASHED = 8388608;
    public $context;
    private $handle;
    private $directory;
    private $stub = null;
    private $at = 0;
    private static $task;
    private static $files = array();
    private static $included = array();
    private static $asks = array();
    private static $overflow = false;
    private static $answered = false;
    private static $late = null;

    public static function begin($task)
    {
        self::$task = $task;
        ini_set('display_errors', '0');
        ini_set('log_errors', '0');
        register_shutdown_function(array(__CLASS__, 'ended'));
        // In pieces: what has no end must not fill the memory.
        ob_start(array(__CLASS__, 'nothing'), 4096);
        // The site does not get the variables of the administrator who runs this.
        foreach (array_keys(getenv()) as $name) {
            putenv($name);
            unset($_SERVER[$name], $_ENV[$name]);
        }
        unset($_SERVER['argv'], $_SERVER['argc']);
        foreach ($task['environment'] as $pair) {
            list($name, $value) = array(base64_decode($pair[0]), base64_decode($pair[1]));
            putenv("$name=$value");
            $_SERVER[$name] = $value;
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
            }
        }
        // As index.php and wp-blog-header.php of WordPress have it by then.
        define('WP_USE_THEMES', true);
        $GLOBALS['wp_did_header'] = true;
        if ($task['abspath'] !== null) {
            define('ABSPATH', $task['abspath']);
        }
        self::on();
    }

    public static function nothing()
    {
        return '';
    }

    private static function on()
    {
        stream_wrapper_unregister('file');
        stream_wrapper_register('file', __CLASS__);
    }

    private static function off()
    {
        stream_wrapper_restore('file');
    }

    private static function native($do)
    {
        self::off();
        try {
            return $do();
        } finally {
            self::on();
        }
    }

    private static function plain($path)
    {
        return strncasecmp($path, 'file://', 7) === 0 ? substr($path, 7) : $path;
    }

    private static function is_settings($path)
    {
        $real = realpath(self::plain($path));
        return $real !== false && basename($real) === 'wp-settings.php'
            && is_file(dirname($real) . '/wp-includes/version.php');
    }

    /** With the wrapper off. */
    private static function note($path, $read)
    {
        $path = self::plain($path);
        if ($path === '' || strpos($path, "\0") !== false) {
            return;
        }
        if ($path[0] !== '/') {
            $path = getcwd() . '/' . $path;
        }
        $real = realpath($path);
        if ($real !== false && !is_file($real)) {
            return;
        }
        $key = $real !== false ? $real : $path;
        if (preg_match('~^/(proc|sys|dev)/~', $key)) {
            return;
        }
        if (isset(self::$files[$key]) && (self::$files[$key][0] === 'read' || !$read)) {
            return;
        }
        if (count(self::$files) >= self::FILES && !isset(self::$files[$key])) {
            self::$overflow = true;
            return;
        }
        if ($real === false) {
            self::$files[$key] = array('missing', 0, 0, '');
            return;
        }
        clearstatcache(true, $real);
        $size = (int) @filesize($real);
        $hash = $read && $size <= self::HASHED ? @hash_file('sha256', $real) : false;
        self::$files[$key] = $hash === false
            ? array('there', 0, 0, '')
            : array('read', $size, (int) @filemtime($real), $hash);
    }

    /** What the answer may depend on without showing it in a second run. With the wrapper off. */
    private static function look($path)
    {
        $real = realpath(self::plain($path));
        if ($real === false || isset(self::$included[$real]) || count(self::$included) > self::FILES) {
            return;
        }
        self::$included[$real] = 1;
        // What Composer makes itself asks only whether it may print an error.
        if (strpos($real, '/vendor/composer/') !== false
            || (basename($real) === 'autoload.php' && is_file(dirname($real) . '/composer/autoload_real.php'))) {
            return;
        }
        self::look_for('sapi', '/\b(PHP_SAPI|php_sapi_name|WP_CLI|STDIN|STDOUT|STDERR)\b/i', $real);
        self::look_for('host', '/\b(HTTP_HOST|SERVER_NAME)\b/', $real);
    }

    private static function look_for($what, $pattern, $file)
    {
        // Without comments, which keeps no lines.
        if (isset(self::$asks[$what]) || !preg_match($pattern, (string) @php_strip_whitespace($file), $match)) {
            return;
        }
        $word = $match[1];
        $number = 1;
        foreach (explode("\n", (string) @file_get_contents($file)) as $at => $line) {
            if (!preg_match('~^\s*(//|#|\*|/\*)~', $line) && preg_match($pattern, $line)) {
                $number = $at + 1;
                break;
            }
        }
        self::$asks[$what] = array(base64_encode($file), $number, $word);
    }

    /**
     * The run ends where WordPress is loaded, and what follows that line in the file counts in a request, too: a constant of the
     * plugin there would be lost. With the wrapper off.
     */
    private static function look_behind($calls)
    {
        foreach ($calls as $call) {
            if (!isset($call['file'], $call['line']) || !is_file($call['file'])) {
                continue;
            }
            $lines = explode("\n", (string) @file_get_contents($call['file']));
            $rest = "<?php\n" . implode("\n", array_slice($lines, $call['line']));
            $tokens = function_exists('token_get_all') ? token_get_all($rest) : array(array(0, $rest, 2));
            foreach ($tokens as $token) {
                $is_comment = is_array($token) && isset($token[2]) && function_exists('token_get_all')
                    && ($token[0] === T_COMMENT || $token[0] === T_DOC_COMMENT);
                if (is_array($token) && !$is_comment && preg_match('/JWT_AUTH_[A-Z_]+/', $token[1], $match)) {
                    self::$late = array(base64_encode($call['file']), $call['line'] + $token[2] - 1, $match[0]);
                    return;
                }
            }
        }
    }

    public function stream_open($path, $mode, $options, &$opened)
    {
        $self = $this;
        $includes = (bool) ($options & 0x80); // STREAM_OPEN_FOR_INCLUDE
        return self::native(function () use ($self, $path, $mode, $options, $includes) {
            if ($includes && WpJwtImport::is_settings($path)) {
                WpJwtImport::look_behind(debug_backtrace(DEBUG_BACKTRACE_IGNORE_ARGS));
                $self->stub = '<?php WpJwtImport::loaded();';
                return true;
            }
            if ($mode[0] === 'r' && strpos($mode, '+') === false) {
                WpJwtImport::note($path, true);
            }
            $searches = (bool) ($options & STREAM_USE_PATH);
            $self->handle = is_resource($self->context)
                ? @fopen($path, $mode, $searches, $self->context)
                : @fopen($path, $mode, $searches);
            if (!$self->handle) {
                if ($options & STREAM_REPORT_ERRORS) {
                    trigger_error('failed to open stream', E_USER_WARNING);
                }
                return false;
            }
            if ($includes) {
                WpJwtImport::look($path);
            }
            return true;
        });
    }

    public function stream_read($count)
    {
        if ($this->stub === null) {
            return fread($this->handle, $count);
        }
        $piece = (string) substr($this->stub, $this->at, $count);
        $this->at += strlen($piece);
        return $piece;
    }

    public function stream_write($data)
    {
        return fwrite($this->handle, $data);
    }

    public function stream_eof()
    {
        return $this->stub === null ? feof($this->handle) : $this->at >= strlen($this->stub);
    }

    public function stream_tell()
    {
        return $this->stub === null ? ftell($this->handle) : $this->at;
    }

    public function stream_seek($offset, $whence = SEEK_SET)
    {
        return $this->stub === null && fseek($this->handle, $offset, $whence) === 0;
    }

    public function stream_stat()
    {
        return $this->stub === null ? fstat($this->handle) : array('size' => strlen($this->stub));
    }

    public function stream_close()
    {
        if ($this->handle) {
            fclose($this->handle);
        }
    }

    public function stream_flush()
    {
        return $this->handle ? fflush($this->handle) : true;
    }

    public function stream_lock($operation)
    {
        return $operation === 0 || flock($this->handle, $operation);
    }

    public function stream_truncate(int $size)
    {
        return ftruncate($this->handle, $size);
    }

    public function stream_set_option($option, $one, $two)
    {
        return false;
    }

    public function stream_cast($as)
    {
        return $this->handle ? $this->handle : false;
    }

    public function stream_metadata($path, $option, $value)
    {
        return self::native(function () use ($path, $option, $value) {
            switch ($option) {
                case STREAM_META_TOUCH:
                    return touch(...array_merge(array($path), (array) $value));
                case STREAM_META_ACCESS:
                    return chmod($path, $value);
                default:
                    return false;
            }
        });
    }

    public function url_stat($path, $flags)
    {
        return self::native(function () use ($path, $flags) {
            WpJwtImport::note($path, false);
            $path = WpJwtImport::plain($path);
            return $flags & STREAM_URL_STAT_LINK ? @lstat($path) : @stat($path);
        });
    }

    public function dir_opendir($path, $options)
    {
        $self = $this;
        return self::native(function () use ($self, $path) {
            $self->directory = @opendir($path);
            return (bool) $self->directory;
        });
    }

    public function dir_readdir()
    {
        return readdir($this->directory);
    }

    public function dir_closedir()
    {
        closedir($this->directory);
        return true;
    }

    public function dir_rewinddir()
    {
        rewinddir($this->directory);
        return true;
    }

    public function mkdir($path, $mode, $options)
    {
        return self::native(function () use ($path, $mode, $options) {
            return mkdir($path, $mode, (bool) ($options & STREAM_MKDIR_RECURSIVE));
        });
    }

    public function rmdir($path, $options)
    {
        return self::native(function () use ($path) {
            return rmdir($path);
        });
    }

    public function unlink($path)
    {
        return self::native(function () use ($path) {
            return unlink($path);
        });
    }

    public function rename($from, $to)
    {
        return self::native(function () use ($from, $to) {
            return rename($from, $to);
        });
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
        self::off();
        $answer = array(
            'end' => $end,
            'sapi' => PHP_SAPI,
            'php' => PHP_VERSION,
            'error' => $error === null ? null : self::reduced($error),
            'constants' => (object) array(),
            'table_prefix' => null,
            'files' => array(),
            'overflow' => self::$overflow,
            'asks' => (object) self::$asks,
            'late' => self::$late,
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
            foreach (self::$files as $path => $file) {
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
        foreach (self::$files as $path => $file) {
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

    /** SECURITY: messages quote values, so that only their class leaves, and names of what is not there. */
    private static function reduced($error)
    {
        $message = $error['message'];
        $kind = $error['type'] === E_PARSE ? 'a syntax error' : 'a fatal error';
        $what = '';
        if (preg_match('/^Uncaught ([A-Za-z_\\\\][A-Za-z0-9_\\\\]*)/', $message, $match)) {
            $kind = 'an uncaught ' . $match[1];
        } elseif (strpos($message, 'Allowed memory size') === 0) {
            $kind = 'the memory limit';
        } elseif (strpos($message, 'Maximum execution time') === 0) {
            $kind = 'the time limit';
        }
        if (preg_match('/Call to undefined function ([A-Za-z0-9_\\\\]+)\(\)/', $message, $match)) {
            $what = 'there is no function ' . $match[1] . '()';
        } elseif (preg_match('/Class "?\'?([A-Za-z0-9_\\\\]+)"?\'? not found/', $message, $match)) {
            $what = 'there is no class ' . $match[1];
        } elseif (preg_match('/Failed opening required \'(.*?)\' \(include_path=/', $message, $match)) {
            $what = 'it cannot open ' . $match[1];
        }
        return array(base64_encode($kind), base64_encode($what), base64_encode($error['file']), $error['line']);
    }
}

WpJwtImport::begin(json_decode(base64_decode($wp_jwt_import), true));
$wp_jwt_import_file = base64_decode(json_decode(base64_decode($wp_jwt_import), true)['file']);
unset($wp_jwt_import, $argv, $argc);
require $wp_jwt_import_file;
$wp_jwt_import_returned = true;

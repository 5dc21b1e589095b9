// Replaces PHP's wrapper of files: records every file that is read, or looked for in vain, and gives includes of wp-settings.php a
// line that ends the run.
final class WpJwtFiles
{
    const MOST = 4000;
    const HASHED = 8388608;
    public $context;
    private $handle;
    private $directory;
    private $stub = null;
    private $at = 0;
    /** The files that were accessed, by path. */
    public static $seen = array();
    public static $overflow = false;

    public static function on()
    {
        stream_wrapper_unregister('file');
        stream_wrapper_register('file', __CLASS__);
    }

    public static function off()
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
    public static function note($path, $read)
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
            $read && WpJwtQuestions::look_at_path($key);
            return;
        }
        if (isset(self::$seen[$key]) && (self::$seen[$key][0] === 'read' || !$read)) {
            return;
        }
        if (count(self::$seen) >= self::MOST && !isset(self::$seen[$key])) {
            self::$overflow = true;
            return;
        }
        if ($real === false) {
            self::$seen[$key] = array('missing', 0, 0, '');
            return;
        }
        clearstatcache(true, $real);
        $size = (int) @filesize($real);
        $hash = $read && $size <= self::HASHED ? @hash_file('sha256', $real) : false;
        self::$seen[$key] = $hash === false
            ? array('there', 0, 0, '')
            : array('read', $size, (int) @filemtime($real), $hash);
    }

    public function stream_open($path, $mode, $options, &$opened)
    {
        $self = $this;
        $includes = (bool) ($options & 0x80); // STREAM_OPEN_FOR_INCLUDE
        return self::native(function () use ($self, $path, $mode, $options, $includes) {
            if ($includes && WpJwtFiles::is_settings($path)) {
                WpJwtQuestions::look_behind(debug_backtrace(DEBUG_BACKTRACE_IGNORE_ARGS));
                $self->stub = '<?php WpJwtRun::loaded();';
                return true;
            }
            if ($mode[0] === 'r' && strpos($mode, '+') === false) {
                WpJwtFiles::note($path, true);
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
                WpJwtQuestions::look(realpath(WpJwtFiles::plain($path)));
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
            WpJwtFiles::note($path, false);
            $path = WpJwtFiles::plain($path);
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
}

<?php
/*
 * Runs a site's wp-config.php up to where it loads WordPress, and says which of the constants that the sidecar
 * asks for it has defined by then, and which files it has read or looked for. PHP 7.2 or later.
 *
 * `file://` gets a stream wrapper of its own, through which all of PHP's own file functions go: it notes the files,
 * and in the place of wp-settings.php it hands out a piece of PHP that ends the run.
 *
 * SECURITY: the site's code runs in this process and can make it say anything. The reader believes nothing of it but
 * what the site could say of itself.
 */
final class WpJwtSidecarImport {
	/** PHP sets it. */
	public $context;
	private $handle;
	private $directory;
	/** What is handed out in the place of wp-settings.php. */
	private $stub;
	private $position = 0;

	private static $asked;
	private static $files = [];
	private static $askers = [];
	private static $last;
	private static $thrown;
	private static $answered = false;

	/** A file that is larger is noted by its size and time alone. */
	const LARGEST = 16777216;
	const MOST_FILES = 10000;
	const STREAM_FOR_INCLUDE = 0x80;

	static function start(array $asked) {
		self::$asked = $asked;
		ob_start(function () { return ''; });
		register_shutdown_function([self::class, 'end']);
		self::on();
	}

	private static function on() {
		stream_wrapper_unregister('file');
		stream_wrapper_register('file', self::class);
	}

	private static function native(callable $act) {
		stream_wrapper_restore('file');
		try {
			return $act();
		} finally {
			self::on();
		}
	}

	private static function plain($path) {
		$path = strncasecmp($path, 'file://', 7) === 0 ? substr($path, 7) : $path;
		return $path !== '' && $path[0] === '/' ? $path : getcwd() . '/' . $path;
	}

	/** Notes a file as it is now. What is noted of its content stays. */
	private static function note($path, $is_read) {
		if (isset(self::$files[$path]['sha256']) || count(self::$files) >= self::MOST_FILES) {
			return;
		}
		$stat = @stat($path);
		if (!$stat) {
			self::$files[$path] = ['missing' => true];
			return;
		}
		$is_file = ($stat['mode'] & 0170000) === 0100000;
		if (!$is_read || !$is_file) {
			self::$files += [$path => ['there' => true]];
			return;
		}
		$noted = ['size' => $stat['size'], 'mtime' => $stat['mtime']];
		if ($stat['size'] <= self::LARGEST && ($digest = @hash_file('sha256', $path))) {
			$noted['sha256'] = $digest;
		}
		self::$files[$path] = $noted;
	}

	private static function is_settings($path) {
		$real = realpath($path);
		return $real && basename($real) === 'wp-settings.php' && is_file(dirname($real) . '/wp-includes/version.php');
	}

	/** Whether a file asks for the SAPI. Comments do not count. */
	private static function look_for_sapi($path) {
		// Composer asks it only for where its complaint goes.
		if (basename($path) === 'platform_check.php' && is_file(dirname($path) . '/autoload_real.php')) {
			return;
		}
		$code = @php_strip_whitespace($path);
		if (is_string($code) && preg_match('/\b(PHP_SAPI|php_sapi_name|WP_CLI)\b/i', $code, $found)) {
			self::$askers[$path] = $found[1];
		}
	}

	function stream_open($path, $mode, $options, &$opened) {
		return self::native(function () use ($path, $mode, $options) {
			$plain = self::plain($path);
			$is_include = ($options & self::STREAM_FOR_INCLUDE) !== 0;
			if ($is_include && self::is_settings($plain)) {
				$this->stub = '<?php \WpJwtSidecarImport::answer();';
				return true;
			}
			if ($mode[0] === 'r') {
				self::note($plain, true);
			}
			if ($is_include) {
				self::$last = $plain;
				self::look_for_sapi($plain);
			}
			$uses_path = ($options & STREAM_USE_PATH) !== 0;
			$this->handle = is_resource($this->context)
				? @fopen($path, $mode, $uses_path, $this->context)
				: @fopen($path, $mode, $uses_path);
			return (bool) $this->handle;
		});
	}

	function stream_read($count) {
		if ($this->stub === null) {
			return fread($this->handle, $count);
		}
		$read = (string) substr($this->stub, $this->position, $count);
		$this->position += strlen($read);
		return $read;
	}

	function stream_eof() {
		return $this->stub === null ? feof($this->handle) : $this->position >= strlen($this->stub);
	}

	function stream_stat() {
		return $this->stub === null ? fstat($this->handle) : ['size' => strlen($this->stub)];
	}

	function stream_seek($offset, $whence = SEEK_SET) {
		return $this->stub === null && fseek($this->handle, $offset, $whence) === 0;
	}

	function stream_write($data) { return (int) @fwrite($this->handle, $data); }
	function stream_tell() { return ftell($this->handle); }
	function stream_close() { if ($this->handle) { fclose($this->handle); } }
	function stream_flush() { return $this->handle && fflush($this->handle); }
	function stream_lock($operation) { return flock($this->handle, $operation); }
	function stream_truncate(int $size) { return ftruncate($this->handle, $size); }
	function stream_set_option($option, $one, $two) { return false; }

	function stream_metadata($path, $option, $value) {
		return self::native(function () use ($path, $option, $value) {
			switch ($option) {
				case STREAM_META_TOUCH: return touch($path, ...array_values((array) $value));
				case STREAM_META_ACCESS: return chmod($path, $value);
			}
			return false;
		});
	}

	function url_stat($path, $flags) {
		return self::native(function () use ($path, $flags) {
			$plain = self::plain($path);
			self::note($plain, false);
			return ($flags & STREAM_URL_STAT_LINK) ? @lstat($plain) : @stat($plain);
		});
	}

	function dir_opendir($path, $options) {
		return self::native(function () use ($path) {
			return (bool) ($this->directory = @opendir($path));
		});
	}

	function dir_readdir() { return readdir($this->directory); }
	function dir_closedir() { closedir($this->directory); return true; }
	function dir_rewinddir() { rewinddir($this->directory); return true; }

	function mkdir($path, $mode, $options) {
		return self::native(function () use ($path, $mode, $options) {
			return @mkdir($path, $mode, (bool) ($options & STREAM_MKDIR_RECURSIVE));
		});
	}

	function rmdir($path, $options) { return self::native(function () use ($path) { return @rmdir($path); }); }
	function unlink($path) { return self::native(function () use ($path) { return @unlink($path); }); }
	function rename($from, $to) { return self::native(function () use ($from, $to) { return @rename($from, $to); }); }

	/** In the place of wp-settings.php. */
	static function answer() {
		self::say('settings', null);
		exit;
	}

	static function caught($thrown) {
		self::say('error', [
			'kind' => get_class($thrown),
			'file' => $thrown->getFile(),
			'line' => $thrown->getLine(),
			'about' => self::harmless($thrown->getMessage()),
		]);
		exit;
	}

	static function returned() {
		self::say('returned', null);
		exit;
	}

	/** The first of the shutdown functions: here without an answer, the file has ended the run by itself. */
	static function end() {
		$error = error_get_last();
		$kinds = [E_ERROR => 'E_ERROR', E_PARSE => 'E_PARSE', E_CORE_ERROR => 'E_CORE_ERROR',
			E_COMPILE_ERROR => 'E_COMPILE_ERROR', E_USER_ERROR => 'E_USER_ERROR', E_RECOVERABLE_ERROR => 'E_RECOVERABLE_ERROR'];
		if (!$error || !isset($kinds[$error['type']])) {
			self::say('exit', null);
			return;
		}
		self::say('error', [
			'kind' => $kinds[$error['type']],
			'file' => $error['file'],
			'line' => $error['line'],
			'about' => self::harmless($error['message']),
		]);
	}

	/** SECURITY: a message can quote a secret, so only names are taken out of those that hold nothing else. */
	private static function harmless($message) {
		$known = [
			'/^(?:Uncaught Error: )?(Call to undefined (?:function|method) [\w\\\\:]+\(\))/',
			'/^(?:Uncaught Error: )?(Class ["\'][\w\\\\]+["\'] not found)/',
			'/^(?:Uncaught Error: )?(Undefined constant ["\'][\w\\\\:]+["\'])/',
			'/(Failed opening required \'[^\']*\')/',
			'/^(Allowed memory size of \d+ bytes exhausted)/',
			'/^(Maximum execution time of \d+ seconds? exceeded)/',
			'/((?:[A-Z][A-Z0-9_]* is missing(?:, )?)+)\.?$/',
		];
		foreach ($known as $pattern) {
			if (preg_match($pattern, $message, $found)) {
				return $found[1];
			}
		}
		return null;
	}

	private static function typed($value) {
		if (is_string($value)) {
			return ['text' => base64_encode($value)];
		}
		if (is_int($value)) {
			return ['integer' => $value];
		}
		if (is_bool($value)) {
			return ['boolean' => $value];
		}
		return $value === null ? ['null' => true] : ['other' => gettype($value)];
	}

	private static function say($how, $error) {
		if (self::$answered) {
			return;
		}
		self::$answered = true;
		stream_wrapper_restore('file');
		$constants = new stdClass();
		foreach (self::$asked['constants'] as $name) {
			if (defined($name)) {
				$constants->$name = self::typed(constant($name));
			}
		}
		$files = [];
		foreach (self::$files as $path => $noted) {
			$files[] = ['path' => base64_encode($path)] + $noted;
		}
		$askers = [];
		foreach (self::$askers as $path => $word) {
			$askers[] = ['path' => base64_encode($path), 'word' => $word];
		}
		if ($error) {
			$error['file'] = base64_encode($error['file']);
		}
		$answer = [
			'ended' => $how,
			'error' => $error,
			'last' => self::$last === null ? null : base64_encode(self::$last),
			'php' => PHP_VERSION,
			'sapi' => PHP_SAPI,
			'constants' => $constants,
			'table_prefix' => array_key_exists('table_prefix', $GLOBALS) ? self::typed($GLOBALS['table_prefix']) : null,
			'files' => $files,
			'askers' => $askers,
		];
		$out = fopen('php://stdout', 'w');
		fwrite($out, "\n" . self::$asked['nonce'] . json_encode($answer, JSON_PARTIAL_OUTPUT_ON_ERROR) . "\n");
		fflush($out);
		fclose($out);
	}
}

(function () {
	$asked = json_decode(base64_decode('@ASKED@'), true);
	foreach ($asked['environment'] as $name => $value) {
		$value = base64_decode($value);
		putenv("$name=$value");
		$_SERVER[$name] = $value;
		if (strpos((string) ini_get('variables_order'), 'E') !== false) {
			$_ENV[$name] = $value;
		}
	}
	unset($_SERVER['argv'], $_SERVER['argc'], $GLOBALS['argv'], $GLOBALS['argc']);
	$root = $asked['document_root'];
	foreach ($asked['server'] as $name => $value) {
		$_SERVER[$name] = $value;
	}
	$_SERVER['DOCUMENT_ROOT'] = $root;
	$_SERVER['SCRIPT_FILENAME'] = "$root/index.php";
	$_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = '/index.php';
	foreach (['PATH_TRANSLATED'] as $name) {
		unset($_SERVER[$name]);
	}
	if (isset($asked['abspath'])) {
		define('ABSPATH', $asked['abspath']);
	}
	$GLOBALS['wp_jwt_sidecar_import'] = $asked['config'];
	WpJwtSidecarImport::start($asked);
})();
try {
	require $GLOBALS['wp_jwt_sidecar_import'];
	WpJwtSidecarImport::returned();
} catch (\Throwable $wp_jwt_sidecar_import) {
	WpJwtSidecarImport::caught($wp_jwt_sidecar_import);
}

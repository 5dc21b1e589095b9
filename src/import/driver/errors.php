// SECURITY: PHP's messages quote values, and the site's code can make them up. Only their class is reported, and what is certainly
// not a value: names that the code spells out, and existing directories.
final class WpJwtError
{
    public static function reduced($error)
    {
        $message = $error['message'];
        $file = preg_replace('/\(\d+\) : eval\(\)\'d code$/', '', $error['file']);
        // An ErrorException says any place that it is given.
        $is_known = realpath($file) !== false && isset(WpJwtFiles::$seen[realpath($file)]);
        $lines = $is_known ? explode("\n", (string) @file_get_contents($file)) : array();
        $line = isset($lines[$error['line'] - 1]) ? $lines[$error['line'] - 1] : '';
        $place = $is_known ? $file : 'a file that it does not name';
        return array(
            base64_encode(self::kind($error['type'], $message)),
            base64_encode(self::lack($message, $line)),
            base64_encode($place),
            $is_known ? $error['line'] : 0,
        );
    }

    private static function kind($type, $message)
    {
        if (preg_match('/^Uncaught ([A-Za-z_\\\\][A-Za-z0-9_\\\\]*)/', $message, $match)) {
            $is_class = class_exists($match[1], false) && is_subclass_of($match[1], 'Throwable');
            return $is_class ? 'an uncaught ' . $match[1] : 'an uncaught exception';
        }
        if (strpos($message, 'Allowed memory size') === 0) {
            return 'the memory limit';
        }
        if (strpos($message, 'Maximum execution time') === 0) {
            return 'the time limit';
        }
        return $type === E_PARSE ? 'a syntax error' : 'a fatal error';
    }

    private static function lack($message, $line)
    {
        if (preg_match('/^Uncaught Error: Call to undefined function ([A-Za-z0-9_\\\\]+)\(\)/', $message, $match)) {
            return self::is_spelled($match[1], $line, '\s*\(') ? 'there is no function ' . $match[1] . '()' : '';
        }
        if (preg_match('/^(?:Uncaught Error: )?Class "?\'?([A-Za-z0-9_\\\\]+)"?\'? not found/', $message, $match)) {
            return self::is_spelled($match[1], $line, '(?![\'"\w])') ? 'there is no class ' . $match[1] : '';
        }
        if (preg_match('/^(?:Uncaught Error: |\w+\(\): )Failed opening required \'(.*?)\' \(include_path=/', $message, $match)) {
            $path = $match[1];
            while ($path !== '' && $path !== '.' && !@is_dir($path)) {
                $path = dirname($path);
            }
            return 'it cannot open a file' . (isset($path[0]) && $path[0] === '/' ? ' below ' . $path : '');
        }
        return '';
    }

    /** In code: neither in a text nor a variable. */
    private static function is_spelled($name, $line, $behind)
    {
        $parts = explode('\\', $name);
        return (bool) preg_match('/(?<![\'"$\w])' . end($parts) . $behind . '/i', $line);
    }
}

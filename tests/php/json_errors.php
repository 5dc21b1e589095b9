<?php
// Says for each line of standard input, a JSON text in base64, what WordPress's call of
// json_decode() makes of it: the error number, and for an object what refresh_token is.
while (false !== ($line = fgets(STDIN))) {
    $value = json_decode(base64_decode($line), true);
    $error = json_last_error();
    $token = '-';
    if (0 === $error && is_array($value) && array_key_exists('refresh_token', $value)) {
        $token = $value['refresh_token'];
        $token = is_string($token) ? 's' . base64_encode($token) : (null === $token ? 'null' : 'other');
    }
    echo $error, ' ', $token, "\n";
}

<?php
// Runs configuration files, each as WordPress would include it, and tells what they define.
// Standard input: a JSON list of {"source": hex, "files": {name: hex}, "environment": {name: value},
// "array": whether $_ENV holds it as well, as variables_order may say}. Output: a JSON list
// of {"constants": {name: [type, hex]}, "prefix": [type, hex] or null}. Every file runs in a
// process of its own (a fork), as constants cannot be undefined.
// Argument 1: an empty directory to put the files in.

/** @return array{string, string} */
function described( mixed $value ): array {
	return array( get_debug_type( $value ), is_array( $value ) ? '' : bin2hex( (string) $value ) );
}

function run_one( string $path ): array {
	include $path;
	$constants = array_map( 'described', get_defined_constants( true )['user'] ?? array() );
	return array( 'constants' => (object) $constants, 'prefix' => array_key_exists( 'table_prefix', get_defined_vars() ) ? described( $table_prefix ) : null );
}

$directory = $argv[1];
$answers   = array();
foreach ( json_decode( stream_get_contents( STDIN ), true ) as $case ) {
	$path = "$directory/wp-config.php";
	file_put_contents( $path, hex2bin( $case['source'] ) );
	foreach ( $case['files'] as $name => $content ) {
		file_put_contents( "$directory/$name", hex2bin( $content ) );
	}
	foreach ( $case['environment'] as $name => $value ) {
		putenv( "$name=$value" );
		if ( $case['array'] ) {
			$_ENV[ $name ] = $value;
		}
	}
	$child = pcntl_fork();
	if ( 0 === $child ) {
		ini_set( 'display_errors', '0' ); // The caller shows the file that PHP refuses.
		ini_set( 'log_errors', '0' );
		error_reporting( E_ALL & ~E_WARNING ); // A constant that is defined again is one of the cases.
		ob_start();
		$answer = run_one( $path );
		ob_end_clean();
		file_put_contents( "$directory/answer.json", json_encode( $answer ) );
		posix_kill( getmypid(), SIGKILL ); // An orderly end takes four times as long as all the rest.
	}
	pcntl_waitpid( $child, $status );
	$answers[] = pcntl_wifsignaled( $status ) ? json_decode( file_get_contents( "$directory/answer.json" ) ) : null;
	@unlink( "$directory/answer.json" );
	foreach ( $case['environment'] as $name => $value ) {
		putenv( $name );
		unset( $_ENV[ $name ] );
	}
}
echo json_encode( $answers );

<?php
// Stands in for what Composer writes into vendor, with the line of it that asks for the command line.
if ( PHP_VERSION_ID < 50600 ) {
	if ( ! ini_get( 'display_errors' ) && PHP_SAPI === 'cli' ) {
		fwrite( STDERR, 'too old' );
	}
	exit( 1 );
}
require_once __DIR__ . '/composer/autoload_real.php';

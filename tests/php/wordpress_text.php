<?php
// Runs WordPress's own text functions over a batch of inputs. Standard input: a JSON list of
// hex strings. Output: a JSON list of lists of hex strings, in the order below.
// Argument 1: WordPress's directory.
define( 'ABSPATH', rtrim( $argv[1], '/' ) . '/' );
define( 'WPINC', 'wp-includes' );
define( 'WP_DEBUG', false );
foreach ( array( 'version', 'compat', 'load', 'plugin', 'cache', 'functions', 'http', 'formatting', 'kses' ) as $file ) {
	require ABSPATH . WPINC . "/$file.php";
}
wp_cache_init();
wp_cache_set( 'alloptions', array( 'blog_charset' => 'UTF-8' ), 'options' );

$results = array();
foreach ( json_decode( stream_get_contents( STDIN ), true ) as $encoded ) {
	$input     = hex2bin( $encoded );
	$slashed   = wp_slash( $input );
	$results[] = array_map(
		'bin2hex',
		array(
			sanitize_text_field( $input ),
			$slashed,
			(string) json_encode( $slashed ),
			'/' === substr( ltrim( $input ), 0, 1 ) ? esc_url_raw( $input ) : '', // The promise is for paths.
		)
	);
}
echo json_encode( $results );

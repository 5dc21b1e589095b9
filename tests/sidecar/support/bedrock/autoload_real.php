<?php
spl_autoload_register(
	function ( $class ) {
		$map = array(
			'Dotenv\Dotenv'          => 'vlucas/phpdotenv/src/Dotenv.php',
			'Roots\WPConfig\Config'  => 'roots/wp-config/src/Config.php',
		);
		if ( isset( $map[ $class ] ) ) {
			require __DIR__ . '/../' . $map[ $class ];
		}
	}
);
require __DIR__ . '/../oscarotero/env/src/env_function.php';

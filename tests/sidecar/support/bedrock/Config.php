<?php
namespace Roots\WPConfig;

// Stands in for roots/wp-config: constants are gathered, and defined all at once.
class Config {
	private static array $all = array();

	public static function define( string $name, $value ): void {
		self::$all[ $name ] = $value;
	}

	public static function apply(): void {
		foreach ( self::$all as $name => $value ) {
			defined( $name ) || define( $name, $value );
		}
	}
}

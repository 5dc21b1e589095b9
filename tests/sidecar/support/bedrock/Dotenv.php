<?php
namespace Dotenv;

// Stands in for vlucas/phpdotenv: several files, the first of them wins, missing ones are skipped.
class Dotenv {
	private function __construct( private array $files ) {}

	public static function createUnsafeImmutable( string $root, array $names ): self {
		return new self( array_map( fn( $name ) => "$root/$name", $names ) );
	}

	public function load(): void {
		foreach ( $this->files as $file ) {
			if ( ! is_readable( $file ) ) {
				continue;
			}
			foreach ( file( $file, FILE_IGNORE_NEW_LINES | FILE_SKIP_EMPTY_LINES ) as $line ) {
				if ( preg_match( "/^\s*([A-Z_]+)\s*=\s*'?(.*?)'?\s*$/", $line, $match ) && getenv( $match[1] ) === false ) {
					putenv( "$match[1]=$match[2]" );
					$_ENV[ $match[1] ] = $match[2];
				}
			}
		}
	}

	public function required( array $names ): void {
		foreach ( $names as $name ) {
			if ( getenv( $name ) === false ) {
				throw new \RuntimeException( "$name is missing in " . implode( ', ', $this->files ) );
			}
		}
	}
}

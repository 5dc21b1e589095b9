<?php
// Stands in for oscarotero/env.
function env( string $name ) {
	$value = getenv( $name );
	return match ( strtolower( (string) $value ) ) {
		''      => null,
		'true'  => true,
		'false' => false,
		default => $value,
	};
}

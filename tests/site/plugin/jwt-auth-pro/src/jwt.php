<?php
/**
 * The access token as a JWT (RFC 7519) in compact serialization. No `jti`: the original has none.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

const ALGORITHMS = array( 'HS256', 'HS384', 'HS512', 'RS256', 'RS384', 'RS512', 'ES256', 'ES384', 'EdDSA' );

function algorithm(): string {
	return (string) apply_filters( 'jwt_auth_algorithm', setting( 'token_settings', 'signing_algorithm' ) );
}

/** NULL where the key of the algorithm is missing. */
function encode_jwt( array $claims ): ?string {
	$algorithm = algorithm();
	$header    = array(
		'typ' => 'JWT',
		'alg' => $algorithm,
	);
	$input     = base64url( wp_json_encode( $header, JSON_UNESCAPED_SLASHES ) )
		. '.' . base64url( wp_json_encode( $claims, JSON_UNESCAPED_SLASHES ) );
	$signature = sign( $algorithm, $input );
	return null === $signature ? null : $input . '.' . base64url( $signature );
}

/** The claims of a token whose signature and times hold, else what is wrong. Only the site's algorithm is accepted. */
function decode_jwt( string $jwt ): array|string {
	$parts = explode( '.', $jwt );
	if ( 3 !== count( $parts ) ) {
		return 'Wrong number of segments';
	}
	list( $header, $payload, $signature ) = array_map( __NAMESPACE__ . '\base64url_decode', $parts );
	$algorithm                            = algorithm();
	$header                               = json_decode( $header, true );
	$claims                               = json_decode( $payload, true );
	if ( ! is_array( $header ) || ! is_array( $claims ) ) {
		return 'Syntax error, malformed JSON';
	}
	if ( ( $header['alg'] ?? null ) !== $algorithm ) {
		return 'Incorrect key for this algorithm';
	}
	if ( ! verify( $algorithm, $parts[0] . '.' . $parts[1], $signature ) ) {
		return 'Signature verification failed';
	}
	$now = time();
	foreach ( array( 'nbf', 'iat' ) as $claim ) {
		if ( ( $claims[ $claim ] ?? 0 ) > $now ) {
			return "Cannot handle token with $claim prior to " . gmdate( 'Y-m-d\TH:i:sO', $claims[ $claim ] );
		}
	}
	return ( $claims['exp'] ?? 0 ) <= $now ? 'Expired token' : $claims;
}

/** The secret; a private key (PEM) for all but the HMAC algorithms, which the site's own code supplies. */
function signing_key(): string {
	return (string) apply_filters( 'jwt_auth_secret_private_key', secret() );
}

/** The secret again, or the public key, which is taken from the private one where the site's own code has none. */
function verifying_key(): string {
	return (string) apply_filters( 'jwt_auth_secret_public_key', secret() );
}

function secret(): string {
	return defined( 'JWT_AUTH_SECRET_KEY' ) ? (string) JWT_AUTH_SECRET_KEY : '';
}

function sign( string $algorithm, string $input ): ?string {
	$key    = signing_key();
	$digest = 'sha' . substr( $algorithm, 2 );
	if ( 'H' === $algorithm[0] ) {
		return '' === $key ? null : hash_hmac( $digest, $input, $key, true );
	}
	if ( ! str_contains( $key, 'PRIVATE KEY' ) ) {
		return null;
	}
	if ( 'EdDSA' === $algorithm ) {
		return sodium_crypto_sign_detached( $input, sodium_crypto_sign_secretkey( ed25519_pair( $key ) ) );
	}
	if ( ! openssl_sign( $input, $signature, $key, $digest ) ) {
		return null;
	}
	return 'E' === $algorithm[0] ? ecdsa_from_der( $signature, (int) substr( $algorithm, 2 ) / 8 ) : $signature;
}

function verify( string $algorithm, string $input, string $signature ): bool {
	$digest = 'sha' . substr( $algorithm, 2 );
	$key    = verifying_key();
	if ( 'H' === $algorithm[0] ) {
		return '' !== $key && hash_equals( hash_hmac( $digest, $input, $key, true ), $signature );
	}
	$private = signing_key();
	if ( 'EdDSA' === $algorithm ) {
		return SODIUM_CRYPTO_SIGN_BYTES === strlen( $signature )
			&& sodium_crypto_sign_verify_detached( $signature, $input, sodium_crypto_sign_publickey( ed25519_pair( $private ) ) );
	}
	if ( ! str_contains( $key, 'PUBLIC KEY' ) ) {
		$key = openssl_pkey_get_details( openssl_pkey_get_private( $private ) )['key'];
	}
	$der = 'E' === $algorithm[0] ? ecdsa_to_der( $signature ) : $signature;
	return 1 === openssl_verify( $input, $der, $key, $digest );
}

/** An Ed25519 key in PKCS #8 (RFC 8410) ends in its 32 bytes of seed. */
function ed25519_pair( string $pem ): string {
	$der = base64_decode( preg_replace( '/-----[^-]+-----|\s+/', '', $pem ) );
	return sodium_crypto_sign_seed_keypair( substr( $der, -32 ) );
}

/** JWS wants r and s side by side (RFC 7518, section 3.4); OpenSSL gives SEQUENCE { INTEGER r, INTEGER s }. */
function ecdsa_from_der( string $der, int $size ): string {
	$at  = 2 + ( ord( $der[1] ) & 0x80 ? ord( $der[1] ) & 0x7f : 0 );
	$raw = '';
	for ( $i = 0; $i < 2; $i++ ) {
		$length = ord( $der[ $at + 1 ] );
		$raw   .= str_pad( ltrim( substr( $der, $at + 2, $length ), "\0" ), $size, "\0", STR_PAD_LEFT );
		$at    += 2 + $length;
	}
	return $raw;
}

function ecdsa_to_der( string $raw ): string {
	$body = '';
	foreach ( str_split( $raw, max( 1, intdiv( strlen( $raw ), 2 ) ) ) as $number ) {
		$number = ltrim( $number, "\0" );
		if ( '' === $number || ord( $number[0] ) & 0x80 ) {
			$number = "\0" . $number;
		}
		$body .= "\x02" . chr( strlen( $number ) ) . $number;
	}
	return "\x30" . chr( strlen( $body ) ) . $body; // At most 104 bytes for P-384: the short form of the length.
}

function base64url( string $bytes ): string {
	return rtrim( strtr( base64_encode( $bytes ), '+/', '-_' ), '=' );
}

function base64url_decode( string $text ): string {
	return (string) base64_decode( strtr( $text, '-_', '+/' ) );
}

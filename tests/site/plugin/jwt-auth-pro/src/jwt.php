<?php
/**
 * The access token as a JWT (RFC 7519) in compact serialization. No `jti`: the original has none.
 */

namespace JwtAuthPro;

defined( 'ABSPATH' ) || exit;

/** NULL where the algorithm is unknown or its key is missing. */
function encode_jwt( array $claims ): ?string {
	$algorithm = (string) setting( 'token_settings', 'signing_algorithm' );
	$header    = array(
		'typ' => 'JWT',
		'alg' => $algorithm,
	);
	$input     = base64url( wp_json_encode( $header, JSON_UNESCAPED_SLASHES ) )
		. '.' . base64url( wp_json_encode( $claims, JSON_UNESCAPED_SLASHES ) );
	$signature = sign( $algorithm, $input );
	return null === $signature ? null : $input . '.' . base64url( $signature );
}

/** The claims of a token whose signature and times hold, else NULL. Only the configured algorithm is accepted. */
function decode_jwt( string $jwt ): ?array {
	$parts = explode( '.', $jwt );
	if ( 3 !== count( $parts ) ) {
		return null;
	}
	list( $header, $payload, $signature ) = array_map( __NAMESPACE__ . '\base64url_decode', $parts );
	$algorithm                            = (string) setting( 'token_settings', 'signing_algorithm' );
	$header                               = json_decode( $header, true );
	$claims                               = json_decode( $payload, true );
	if ( ! is_array( $header ) || ! is_array( $claims ) || ( $header['alg'] ?? null ) !== $algorithm ) {
		return null;
	}
	if ( ! verify( $algorithm, $parts[0] . '.' . $parts[1], $signature ) ) {
		return null;
	}
	$now = time();
	if ( ( $claims['nbf'] ?? 0 ) > $now || ( $claims['iat'] ?? 0 ) > $now || ( $claims['exp'] ?? 0 ) <= $now ) {
		return null;
	}
	return $claims;
}

/** The site's own code supplies a private key (PEM) for all but the HMAC algorithms. */
function private_key(): ?string {
	return apply_filters( 'jwt_auth_pro_private_key', null );
}

function sign( string $algorithm, string $input ): ?string {
	$digest = 'sha' . substr( $algorithm, 2 );
	if ( in_array( $algorithm, array( 'HS256', 'HS384', 'HS512' ), true ) ) {
		$secret = defined( 'JWT_AUTH_SECRET_KEY' ) ? (string) JWT_AUTH_SECRET_KEY : '';
		return '' === $secret ? null : hash_hmac( $digest, $input, $secret, true );
	}
	$key = private_key();
	if ( null === $key ) {
		return null;
	}
	if ( 'EdDSA' === $algorithm ) {
		return sodium_crypto_sign_detached( $input, sodium_crypto_sign_secretkey( ed25519_pair( $key ) ) );
	}
	if ( ! in_array( $algorithm, array( 'RS256', 'RS384', 'RS512', 'ES256', 'ES384' ), true )
		|| ! openssl_sign( $input, $signature, $key, $digest ) ) {
		return null;
	}
	return 'E' === $algorithm[0] ? ecdsa_from_der( $signature, (int) substr( $algorithm, 2 ) / 8 ) : $signature;
}

function verify( string $algorithm, string $input, string $signature ): bool {
	if ( 'H' === ( $algorithm[0] ?? '' ) ) {
		$expected = sign( $algorithm, $input );
		return null !== $expected && hash_equals( $expected, $signature );
	}
	$key = private_key();
	if ( null === $key ) {
		return false;
	}
	if ( 'EdDSA' === $algorithm ) {
		return SODIUM_CRYPTO_SIGN_BYTES === strlen( $signature )
			&& sodium_crypto_sign_verify_detached( $signature, $input, sodium_crypto_sign_publickey( ed25519_pair( $key ) ) );
	}
	$public = openssl_pkey_get_details( openssl_pkey_get_private( $key ) )['key'];
	$der    = 'E' === $algorithm[0] ? ecdsa_to_der( $signature ) : $signature;
	return 1 === openssl_verify( $input, $der, $public, 'sha' . substr( $algorithm, 2 ) );
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

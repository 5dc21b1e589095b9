//! Each algorithm that the plugin has and the sidecar can sign with: PHP accepts the sidecar's
//! tokens, and the sidecar refreshes PHP's.

use super::{Client, set, write};
use crate::support::sidecar::Sidecar;
use crate::support::site::Site;

/// Code of the site that supplies a private key, since the plugin has no setting for one.
const KEY_OF_THE_SITE: &str =
    "<?php add_filter( 'jwt_auth_secret_private_key', fn( $key ) => get_option( 'sites_private_key' ) ?: $key );";

/// PHP that generates a private key in PEM.
const RSA: &str = "openssl_pkey_export( openssl_pkey_new( array( 'private_key_bits' => 2048 ) ), $pem );";
const P_256: &str = "openssl_pkey_export( openssl_pkey_new( array( 'private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1' ) ), $pem );";
const P_384: &str = "openssl_pkey_export( openssl_pkey_new( array( 'private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'secp384r1' ) ), $pem );";
/// PKCS #8 (RFC 8410, section 7), because PHP 8.2 cannot generate such a key.
const ED25519: &str = "$pem = \"-----BEGIN PRIVATE KEY-----\\n\" . base64_encode( hex2bin( '302e020100300506032b657004220420' ) . random_bytes( 32 ) ) . \"\\n-----END PRIVATE KEY-----\\n\";";

#[tokio::test(flavor = "multi_thread")]
async fn php_takes_tokens_of_every_algorithm() {
    let site = Site::up(&[]);
    write(&std::path::Path::new(site.said("ROOT")).join("wp-content/mu-plugins/key.php"), KEY_OF_THE_SITE);
    set(&site, "rate_limit_settings", "enabled", "false");
    let keys = tempfile::tempdir().unwrap();

    for algorithm in ["HS384", "HS512"] {
        set(&site, "token_settings", "signing_algorithm", &format!("'{algorithm}'"));
        refreshes(&site, algorithm, &[]);
    }
    for (algorithms, make) in
        [(&["RS256", "RS384", "RS512"][..], RSA), (&["ES256"], P_256), (&["ES384"], P_384), (&["EdDSA"], ED25519)]
    {
        let pem = site.php(&format!("{make} update_option( 'sites_private_key', $pem ); echo $pem;"));
        let file = keys.path().join(algorithms[0]);
        write(&file, &pem);
        for algorithm in algorithms {
            set(&site, "token_settings", "signing_algorithm", &format!("'{algorithm}'"));
            let log = refreshes(&site, algorithm, &["--jwt-private-key-file", file.to_str().unwrap()]);
            let key_lines = pem.lines().filter(|line| !line.starts_with("-----"));
            assert!(key_lines.into_iter().all(|line| !log.contains(line)), "the key is in the log:\n{log}");
        }
    }
}

/// Refreshes PHP's token natively, has PHP accept the new one, and repeats both. Returns the
/// sidecar's log.
fn refreshes(site: &Site, algorithm: &str, arguments: &[&str]) -> String {
    let sidecar = Sidecar::of_site(site.upstream(), site.wp_config(), arguments);
    let client = Client::of(site, sidecar.address());
    let login = client.log_in_to(site);
    let mut refresh_token = login.refresh_token;
    for _ in 0..2 {
        let pair = client.refresh_natively(&refresh_token);
        let header = jsonwebtoken::decode_header(&pair.access_token).unwrap();
        assert_eq!(format!("{:?}", header.alg), algorithm);
        client.assert_is_ada(&pair.access_token);
        let again = client.refresh_natively(&refresh_token);
        assert_eq!(
            (&again.access_token, &again.refresh_token),
            (&pair.access_token, &pair.refresh_token),
            "{algorithm}"
        );
        refresh_token = pair.refresh_token;
    }
    sidecar.log().join("\n")
}

use super::*;
use serde_json::Value;
use std::process::Command;

const ALL: [Algorithm; 9] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Recorded on a test site.
fn vector(name: &str) -> String {
    let vectors = include_str!("../../../tests/fixtures/vectors.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    vectors[name].as_str().unwrap().to_owned()
}

fn secret() -> Secret {
    Secret::new(vector("JWT_AUTH_SECRET_KEY"))
}

fn claims<'a>(refresh_token: &'a str) -> ClaimsInput<'a> {
    ClaimsInput {
        declared: &[],
        iss: "http://127.0.0.1:8099",
        issued_at: 1_795_379_799,
        expires_at: 1_795_984_599,
        user_id: 3,
        refresh_token,
    }
}

fn part(jwt: &str, index: usize) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(jwt.split('.').nth(index).unwrap()).unwrap()
}

#[test]
fn recorded_token_byte_for_byte() {
    let signer = Signer::new(Algorithm::HS256, Some(&secret()), None).unwrap();
    let jwt = signer.signed(&claims(""), None).unwrap();
    assert_eq!(jwt, vector("jwt"));
    let salt = Secret::new(vector("AUTH_KEY") + &vector("AUTH_SALT"));
    assert_eq!(wp_hash(&jwt, &salt), vector("wp_hash"));
}

#[test]
fn header_and_claims() {
    let signer = Signer::new(Algorithm::HS512, Some(&secret()), None).unwrap();
    let jwt = signer.access_token(&claims("0123456789abcdef0123456789abcdef")).unwrap();
    assert_eq!(part(&jwt, 0), br#"{"typ":"JWT","alg":"HS512"}"#);
    let body = String::from_utf8(part(&jwt, 1)).unwrap();
    let (known, jti) = body.split_once(r#","jti":""#).unwrap();
    assert_eq!(
        known,
        concat!(
            r#"{"iss":"http://127.0.0.1:8099","iat":1795379799,"nbf":1795379799,"#,
            r#""exp":1795984599,"data":{"user":{"id":"3"}}"#
        )
    );
    // Fixed, since tokens must be rebuilt from their rows even after an update. Computed with PHP:
    // hash_hmac('sha256', $refresh, hash_hmac('sha256', 'wp-jwt-sidecar jti v1', $key, true)).
    assert_eq!(jti, "caff105b789b6a443534ff36c11a1144\"}");
    let again = signer.access_token(&claims("0123456789abcdef0123456789abcdef")).unwrap();
    assert_eq!(jwt, again);
    assert_ne!(jwt, signer.access_token(&claims("x")).unwrap());
}

#[test]
fn refresh_tokens() {
    let token = new_refresh_token().unwrap();
    assert_eq!(token.len(), 32);
    assert!(token.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    assert_ne!(token, new_refresh_token().unwrap());
}

#[test]
fn keys_that_are_missing() {
    let empty = Secret::new("");
    for algorithm in ALL {
        let error = Signer::new(algorithm, Some(&empty), None).unwrap_err();
        assert!(matches!(error, SignerError::NoSecret(_) | SignerError::NoPrivateKey(_)), "{error}");
        assert!(Signer::new(algorithm, None, None).is_err());
    }
}

/// A private key made by openssl with these arguments, in PEM.
fn openssl(arguments: &[&str]) -> Secret {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Secret::new(String::from_utf8(output.stdout).unwrap())
}

fn key(kind: &[&str]) -> Secret {
    openssl(&[&["genpkey", "-quiet"], kind].concat())
}

/// Whether PHP verifies the token with the private key's public half.
fn php_verifies(jwt: &str, algorithm: Algorithm, key: &Secret) -> bool {
    const SCRIPT: &str = r#"
        [, $jwt, $algorithm, $key] = $argv;
        [$head, $body, $signature] = explode('.', $jwt);
        $signature = base64_decode(strtr($signature, '-_', '+/'));
        $bits = substr($algorithm, 2);
        if ($algorithm[0] === 'H') {
            exit(hash_equals(hash_hmac("sha$bits", "$head.$body", $key, true), $signature) ? 0 : 1);
        }
        $private = openssl_pkey_get_private($key);
        $public = openssl_pkey_get_details($private)['key'];
        if ($algorithm === 'EdDSA') {
            $der = base64_decode(preg_replace('/-----.*?-----|\s/', '', $public));
            exit(sodium_crypto_sign_verify_detached($signature, "$head.$body", substr($der, -32)) ? 0 : 1);
        }
        if ($algorithm[0] === 'E') {
            $der = '';
            foreach (str_split($signature, strlen($signature) / 2) as $number) {
                $number = ltrim($number, "\0");
                if (ord($number[0]) > 127) $number = "\0$number";
                $der .= "\x02" . chr(strlen($number)) . $number;
            }
            $signature = "\x30" . (strlen($der) > 127 ? "\x81" : '') . chr(strlen($der)) . $der;
        }
        exit(openssl_verify("$head.$body", $signature, $public, "sha$bits") === 1 ? 0 : 1);
    "#;
    let status =
        Command::new("php").args(["-r", SCRIPT, "--", jwt, &algorithm.to_string(), key.expose()]).status().unwrap();
    status.success()
}

#[test]
fn php_accepts_the_signatures_of_every_algorithm() {
    let rsa = key(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let p256 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let p384 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let ed25519 = key(&["-algorithm", "ED25519"]);
    for algorithm in ALL {
        let (secret, pem) = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => (Some(secret()), None),
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => (None, Some(&rsa)),
            Algorithm::ES256 => (None, Some(&p256)),
            Algorithm::ES384 => (None, Some(&p384)),
            Algorithm::EdDSA => (None, Some(&ed25519)),
        };
        let signer = Signer::new(algorithm, secret.as_ref(), pem).unwrap();
        assert_eq!(format!("{signer:?}"), format!("Signer({algorithm})"));
        let jwt = signer.access_token(&claims("0123456789abcdef")).unwrap();
        let key = secret.as_ref().or(pem).unwrap();
        assert!(php_verifies(&jwt, algorithm, key), "{algorithm}");
        assert!(!php_verifies(&jwt.replacen('.', ".e30", 1), algorithm, key), "{algorithm}");
    }
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let rsa = key(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let small_rsa = key(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let p256 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let p384 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let ed25519 = key(&["-algorithm", "ED25519"]);
    let sec1 = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
    let garbage = Secret::new("garbage");
    for (algorithm, unfit) in [
        (Algorithm::RS256, [&small_rsa, &p256, &ed25519, &garbage]),
        (Algorithm::RS512, [&small_rsa, &p256, &ed25519, &garbage]),
        (Algorithm::ES256, [&rsa, &p384, &sec1, &garbage]),
        (Algorithm::ES384, [&rsa, &p256, &sec1, &ed25519]),
        (Algorithm::EdDSA, [&rsa, &p256, &sec1, &garbage]),
    ] {
        for key in unfit {
            let error = Signer::new(algorithm, None, Some(key)).unwrap_err();
            assert!(matches!(error, SignerError::UnfitKey { .. }), "{algorithm} {error}");
        }
    }
    let pkcs1 = openssl(&["genrsa", "-traditional", "2048"]);
    assert!(pkcs1.expose().contains("BEGIN RSA PRIVATE KEY"));
    Signer::new(Algorithm::RS384, None, Some(&pkcs1)).unwrap();
}

#[test]
fn tokens_are_made_again_where_signatures_are_not_random() {
    let salt = Secret::new("salt".to_owned());
    let p256 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let ed25519 = key(&["-algorithm", "ED25519"]);
    for (signer, can) in [
        (Signer::new(Algorithm::HS256, Some(&secret()), None).unwrap(), true),
        (Signer::new(Algorithm::EdDSA, None, Some(&ed25519)).unwrap(), true),
        (Signer::new(Algorithm::ES256, None, Some(&p256)).unwrap(), false),
    ] {
        let ours = signer.access_token(&claims("abc")).unwrap();
        let of_php = signer.signed(&claims("abc"), None).unwrap();
        for token in [ours, of_php] {
            let again = signer.access_token_again(&claims("abc"), &wp_hash(&token, &salt), &salt, true).unwrap();
            assert_eq!(again, can.then_some(token), "{signer:?}");
        }
        let other = wp_hash(&signer.access_token(&claims("abd")).unwrap(), &salt);
        assert_eq!(signer.access_token_again(&claims("abc"), &other, &salt, true).unwrap(), None);
        assert_eq!(signer.is_repeatable(), can);
    }
}

#[test]
fn a_token_that_was_kept_is_known_by_what_it_says_and_by_its_hash() {
    let (salt, other_salt) = (Secret::new("salt".to_owned()), Secret::new("another salt".to_owned()));
    let p256 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let signer = Signer::new(Algorithm::ES256, None, Some(&p256)).unwrap();
    let kept = signer.access_token(&claims("abc")).unwrap();
    let hash = wp_hash(&kept, &salt);
    let is_it = |token: &str, claims: &ClaimsInput<'_>, salt| signer.recognize(claims, &hash, salt).unwrap()(token);
    assert!(is_it(&kept, &claims("abc"), &salt));
    assert!(!is_it(&signer.access_token(&claims("abc")).unwrap(), &claims("abc"), &salt), "another signature");
    assert!(!is_it(&kept, &claims("abd"), &salt), "another refresh token");
    assert!(!is_it(&kept, &ClaimsInput { iss: "http://elsewhere", ..claims("abc") }, &salt), "the site has moved");
    assert!(!is_it(&kept, &claims("abc"), &other_salt), "WordPress would not find its row");
    assert!(!is_it("", &claims("abc"), &salt));
}

#[test]
fn a_hash_tells_who_made_the_token() {
    let (salt, other_salt) = (Secret::new("salt".to_owned()), Secret::new("another salt".to_owned()));
    let p256 = key(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let ed25519 = key(&["-algorithm", "ED25519"]);
    let issuers = ["https://elsewhere.example", "http://127.0.0.1:8099"];
    for signer in [
        Signer::new(Algorithm::HS256, Some(&secret()), None).unwrap(),
        Signer::new(Algorithm::HS512, Some(&secret()), None).unwrap(),
        Signer::new(Algorithm::EdDSA, None, Some(&ed25519)).unwrap(),
    ] {
        let claims = claims("abc");
        let (ours, plain) = (signer.access_token(&claims).unwrap(), signer.signed(&claims, None).unwrap());
        let proof = |token: &str, salt| signer.prove(&claims, issuers, &wp_hash(token, salt), &Secret::new("salt"));
        assert_eq!((proof(&ours, &salt), proof(&plain, &salt)), (Proof::Ours, Proof::Plain), "{signer:?}");
        assert_eq!(proof(&plain, &other_salt), Proof::Foreign);
        assert_eq!(proof("", &salt), Proof::Foreign);
        for (of, other) in [
            ("issuer", ClaimsInput { iss: "http://127.0.0.1:80990", ..claims }),
            ("time", ClaimsInput { issued_at: claims.issued_at + 1, ..claims }),
            ("end", ClaimsInput { expires_at: claims.expires_at + 1, ..claims }),
            ("user", ClaimsInput { user_id: 4, ..claims }),
        ] {
            assert_eq!(proof(&signer.signed(&other, None).unwrap(), &salt), Proof::Foreign, "{of}");
        }
        assert_eq!(signer.prove(&claims, [""; 0], &wp_hash(&plain, &salt), &salt), Proof::Foreign);
    }
    let random = Signer::new(Algorithm::ES256, None, Some(&p256)).unwrap();
    let plain = random.signed(&claims("abc"), None).unwrap();
    assert_eq!(random.prove(&claims("abc"), issuers, &wp_hash(&plain, &salt), &salt), Proof::Unknown);
}

#[test]
fn a_fingerprint_is_of_key_algorithm_and_salt() {
    let fingerprint = |algorithm, secret: &str, salt: &str| {
        Signer::new(algorithm, Some(&Secret::new(secret)), None).unwrap().fingerprint(&Secret::new(salt))
    };
    let all = [
        fingerprint(Algorithm::HS256, "one", "salt"),
        fingerprint(Algorithm::HS256, "two", "salt"),
        fingerprint(Algorithm::HS256, "one", "other salt"),
        fingerprint(Algorithm::HS512, "one", "salt"),
    ];
    assert!((0..4).all(|at| !all[at + 1..].contains(&all[at])), "{all:?}");
    // It is kept across restarts and updates.
    assert_eq!(all[0], fingerprint(Algorithm::HS256, "one", "salt"));
}

/// As PHP 8 encodes it: json_encode(["iss" => "http://müller.example/😀", …],
/// JSON_UNESCAPED_SLASHES).
#[test]
fn a_home_that_is_not_ascii_stands_in_claims_as_php_writes_it() {
    let signer = Signer::new(Algorithm::HS256, Some(&secret()), None).unwrap();
    let claims = ClaimsInput { iss: "http://müller.example/😀", ..claims("abc") };
    let of_php = String::from_utf8(part(&signer.signed(&claims, None).unwrap(), 1)).unwrap();
    assert!(of_php.starts_with(r#"{"iss":"http://m\u00fcller.example/\ud83d\ude00","iat":1795379799,"#), "{of_php}");
    let ours = String::from_utf8(part(&signer.access_token(&claims).unwrap(), 1)).unwrap();
    assert!(ours.starts_with(r#"{"iss":"http://müller.example/😀","#), "{ours}");
}

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::super::pair::Kind;
use super::*;

const ALL: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
];

/// Roughly the year 2026.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// A new pair in the files `NAME.pem` and `NAME.key`.
fn pair_of(
    directory: &Path,
    file: &str,
    names: &[&str],
    algorithm: &'static rcgen::SignatureAlgorithm,
    (from, to): (i32, i32),
) -> CertificateFiles {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    let path = |kind: &str| directory.join(format!("{file}.{kind}"));
    std::fs::write(path("pem"), certificate.pem()).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    CertificateFiles { chain: path("pem"), key: path("key") }
}

fn pair(directory: &Path, file: &str, names: &[&str], years: (i32, i32)) -> CertificateFiles {
    pair_of(directory, file, names, &rcgen::PKCS_ECDSA_P256_SHA256, years)
}

const LONG: (i32, i32) = (2020, 2090);

/// Which of the pairs a client gets.
fn place(certificates: &Certificates, name: Option<&str>, schemes: &[SignatureScheme]) -> usize {
    let key = certificates.of_client(name, schemes, now()).unwrap();
    certificates.all.iter().position(|certificate| Arc::ptr_eq(&certificate.key, &key)).unwrap()
}

#[test]
fn exact_names_before_wildcards_before_the_first() {
    let directory = tempfile::TempDir::new().unwrap();
    let new = |file: &str, names: &[&str]| pair(directory.path(), file, names, LONG);
    let pairs = [
        new("0", &["first.example"]),
        new("1", &["*.shop.example", "shop.example"]),
        new("2", &["www.shop.example", "B.example"]),
    ];
    let certificates = Certificates::read(&pairs).unwrap();
    for (name, expected) in [
        (None, 0),
        (Some("first.example"), 0),
        (Some("shop.example"), 1),
        (Some("a.shop.example"), 1),
        (Some("A.SHOP.example"), 1),
        (Some("www.shop.example"), 2),
        (Some("b.EXAMPLE"), 2),
        (Some("a.b.shop.example"), 0),
        (Some("example"), 0),
        (Some(""), 0),
    ] {
        assert_eq!(place(&certificates, name, ALL), expected, "{name:?}");
    }
    let said = certificates.all[1].to_string();
    assert!(said.starts_with("*.shop.example, shop.example (ECDSA P-256) until Sun, 01 Jan 2090"), "{said}");
    assert_eq!(certificates.warnings(now()), []);
}

#[test]
fn of_one_name_the_client_gets_what_it_can_use() {
    let directory = tempfile::TempDir::new().unwrap();
    let new = |file: &str, names: &[&str], algorithm| pair_of(directory.path(), file, names, algorithm, LONG);
    let pairs = [
        new("0", &["shop.example"], &rcgen::PKCS_RSA_SHA256),
        new("1", &["shop.example"], &rcgen::PKCS_ED25519),
        new("2", &["shop.example", "*.shop.example"], &rcgen::PKCS_ECDSA_P384_SHA384),
        new("3", &["a.shop.example"], &rcgen::PKCS_ECDSA_P256_SHA256),
        new("4", &["*.shop.example"], &rcgen::PKCS_RSA_SHA256),
    ];
    let certificates = Certificates::read(&pairs).unwrap();
    let kinds: Vec<Kind> = certificates.all.iter().map(|certificate| certificate.kind).collect();
    assert_eq!(kinds, [Kind::Rsa(2048), Kind::Ed25519, Kind::Ecdsa(384), Kind::Ecdsa(256), Kind::Rsa(2048)]);
    let [rsa, p256, p384, ed25519] = [&ALL[..1], &ALL[1..2], &ALL[2..3], &ALL[3..]];
    for (name, schemes, expected) in [
        ("shop.example", ALL, 2),
        ("shop.example", rsa, 0),
        ("shop.example", ed25519, 1),
        ("shop.example", p384, 2),
        // It can use none for that name; the handshake fails with the right certificate.
        ("shop.example", p256, 0),
        ("a.shop.example", ALL, 3),
        // Only the wildcard matches.
        ("a.shop.example", rsa, 4),
        ("b.shop.example", rsa, 4),
        ("b.shop.example", ALL, 2),
        ("other.example", ALL, 0),
        ("other.example", p256, 3),
        ("other.example", &[], 0),
    ] {
        assert_eq!(place(&certificates, Some(name), schemes), expected, "{name} {schemes:?}");
    }
    assert_eq!(certificates.warnings(now()), []);
}

#[test]
fn what_is_valid_comes_before_what_is_not() {
    let directory = tempfile::TempDir::new().unwrap();
    let new = |file: &str, years| pair(directory.path(), file, &["shop.example"], years);
    let ended = new("ended", (2019, 2020));
    let early = new("early", (2089, 2090));
    let certificates = Certificates::read(&[ended.clone(), early.clone(), new("good", LONG)]).unwrap();
    assert_eq!(place(&certificates, Some("shop.example"), ALL), 2);
    assert_eq!(place(&certificates, None, ALL), 2);
    let texts: Vec<String> = certificates.warnings(now()).iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("ended.pem: the certificate is no longer valid since Wed, 01 Jan 2020"), "{texts:?}");
    assert!(texts[1].contains("early.pem: the certificate is not valid before Sat, 01 Jan 2089"), "{texts:?}");
    // There is nothing better, so clients decide.
    let certificates = Certificates::read(&[ended, early]).unwrap();
    assert_eq!(place(&certificates, Some("shop.example"), ALL), 0);
}

#[test]
fn what_can_never_be_chosen_is_said() {
    let directory = tempfile::TempDir::new().unwrap();
    let new = |file: &str, names: &[&str]| pair(directory.path(), file, names, LONG);
    let rsa = |file: &str| pair_of(directory.path(), file, &["a.example"], &rcgen::PKCS_RSA_SHA256, LONG);
    let pairs = [
        new("0", &["a.example", "b.example"]),
        new("1", &["a.example"]),
        new("2", &["b.example", "c.example"]),
        rsa("3"),
        rsa("4"),
        new("5", &["c.example", "a.example"]),
        new("6", &[]),
        new("7", &["10.0.0.1"]),
    ];
    let certificates = Certificates::read(&pairs).unwrap();
    let found: Vec<(WarningKind, String)> = certificates
        .warnings(now())
        .into_iter()
        .map(|warning| {
            let file = |text: &str| text.rsplit('/').next().unwrap().split('.').next().unwrap().to_owned();
            let (own, rest) = warning.text.split_once(": ").unwrap();
            let other = rest.split_once(" in ").filter(|_| warning.kind == WarningKind::Unused);
            (
                warning.kind,
                format!(
                    "{}{}",
                    file(own),
                    other.map_or(String::new(), |(_, rest)| {
                        format!(" by {}", file(rest.split(' ').next().unwrap()))
                    })
                ),
            )
        })
        .collect();
    use WarningKind::{Nameless, Unused};
    let expected = [(Unused, "1 by 0"), (Unused, "4 by 3"), (Unused, "5 by 0"), (Nameless, "6"), (Unused, "7 by 0")];
    assert_eq!(found, expected.map(|(kind, text)| (kind, text.to_owned())));
}

#[test]
fn every_pair_that_cannot_be_used_is_told() {
    let directory = tempfile::TempDir::new().unwrap();
    let new = |file: &str| pair(directory.path(), file, &["good.example"], LONG);
    let (good, other) = (new("good"), new("other"));
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n").unwrap();
    let absent = directory.path().join("absent");
    let with = |chain: &Path, key: &Path| CertificateFiles { chain: chain.into(), key: key.into() };
    let fifo = directory.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let cases = [
        (with(&good.chain, &other.key), "other.key is not the key of the certificate in "),
        (with(&good.key, &good.key), "good.key: has no certificate in PEM form in it"),
        (with(&good.chain, &good.chain), "good.pem: has no private key in PEM form in it"),
        (with(&good.chain, &garbage), "garbage: the key cannot be used"),
        (with(Path::new("/dev/zero"), &good.key), "/dev/zero: cannot be read: is larger than 1 MiB"),
        (with(directory.path(), &good.key), "cannot be read: "),
        (with(&good.chain, &fifo), "it is a FIFO"),
    ];
    let waited_for = [with(&absent, &good.key), with(&good.chain, &absent), with(&absent, &garbage)];
    let faulty = cases.iter().map(|(files, _)| files.clone());
    let pairs: Vec<CertificateFiles> = faulty.chain(waited_for.clone()).chain([good.clone()]).collect();
    let problems = Certificates::read(&pairs).unwrap_err();
    assert_eq!(problems.len(), cases.len(), "{problems:#?}");
    for ((files, problem), (expected_files, expected)) in problems.iter().zip(&cases) {
        assert_eq!(files, expected_files);
        assert!(problem.contains(expected) && !problem.contains("hunter2"), "{problem}");
    }
    let certificates = Certificates::read(&[&waited_for[..], &[good]].concat()).unwrap();
    let missing: Vec<&CertificateFiles> = certificates.missing().iter().map(|missing| &missing.files).collect();
    assert_eq!(missing, waited_for.iter().collect::<Vec<_>>());
    assert!(certificates.missing()[0].problem.contains("absent: cannot be read: No such file"));
    assert_eq!(certificates.usable().len(), 1);
}

#[test]
fn a_pair_that_cannot_be_used_keeps_no_other_from_being_renewed() {
    let directory = tempfile::TempDir::new().unwrap();
    let new = |file: &str| pair(directory.path(), file, &[&format!("{file}.example")], LONG);
    let (first, second, third) = (new("first"), new("second"), new("third"));
    let pairs = [first.clone(), second.clone(), third.clone()];
    std::fs::remove_file(&third.chain).unwrap();
    let before = Certificates::read(&pairs).unwrap();
    let unchanged = before.renewed(&pairs);
    assert!(!unchanged.differs && unchanged.problems.is_empty(), "a pair that is waited for is not reported again");
    let key = |certificates: &Certificates, name: &str| {
        certificates.of_client(Some(name), ALL, now()).unwrap().cert[0].clone()
    };

    new("first");
    std::fs::remove_file(&second.key).unwrap();
    let renewed = before.renewed(&pairs);
    assert!(renewed.differs);
    assert_eq!(renewed.problems.len(), 1, "{:?}", renewed.problems);
    assert!(renewed.problems[0].contains("second.key: cannot be read"), "{:?}", renewed.problems);
    assert_ne!(key(&before, "first.example"), key(&renewed.certificates, "first.example"));
    assert_eq!(key(&before, "second.example"), key(&renewed.certificates, "second.example"));

    std::fs::write(&third.chain, "half a").unwrap();
    let broken = renewed.certificates.renewed(&pairs);
    assert_eq!((broken.problems.len(), broken.certificates.missing().len()), (2, 1));
    new("second");
    new("third");
    let whole = broken.certificates.renewed(&pairs);
    assert!(whole.differs && whole.problems.is_empty() && whole.certificates.missing().is_empty());
    assert_eq!(whole.certificates.usable().len(), 3);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_pair() {
    let directory = tempfile::TempDir::new().unwrap();
    let pair = pair(directory.path(), "a", &["a.example"], LONG);
    for path in [&pair.chain, &pair.key] {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, format!("\u{feff}{text}")).unwrap();
    }
    assert_eq!(Certificates::read(&[pair]).unwrap().usable().len(), 1);
}

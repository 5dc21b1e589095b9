//! No response of a server ends the program or any part of it: a fake server sends every kind of
//! invalid packet in every place.

use std::process::Command;
use std::time::Duration;

use mysql_async::Opts;
use serde_json::Value;
use wp_jwt_sidecar::internals::wordpress::database::{Database as Pool, DatabaseError, Hosts};

use crate::admin::{admin, get};
use crate::support::made_up::{Conversation, MadeUp, Spoil, error, ok, packet, switch};
use crate::support::rig::{SECRETS, refresh_at, wordpress};
use crate::support::sidecar::{Sidecar, command, tells_a_secret};

fn pool(server: &MadeUp) -> Pool {
    Pool::new(Hosts::new(vec![Opts::from_url(&server.url()).unwrap()]))
}

fn unspoilt() -> Box<Spoil> {
    Box::new(|_, bytes| Some(bytes))
}

/// All kinds of commands that the sidecar sends.
async fn talk(pool: &Pool) -> Result<(), DatabaseError> {
    let mut session = pool.transactions().await?;
    session.is_read_only().await?;
    let conn = session.conn();
    conn.query_first("SELECT 1").await?;
    conn.exec("SELECT ?, ?", (1, 2)).await?;
    conn.exec_drop("UPDATE x SET y = ?", (1,)).await?;
    let statement = conn.prep("DELETE FROM x").await?;
    conn.close(statement).await?;
    conn.ping().await?;
    conn.query_drop("ROLLBACK").await?;
    session.give_back();
    Ok(())
}

/// What replaces a packet.
type Kind = (&'static str, fn(&[u8]) -> Option<Vec<u8>>);

/// With the number of the packet that it replaces.
fn instead(bytes: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    Some(packet(bytes[3], payload))
}

const KINDS: &[Kind] = &[
    ("nothing", |_| None),
    ("half a header", |bytes| Some(bytes[..2].to_vec())),
    ("an empty packet", |bytes| instead(bytes, b"")),
    ("one byte", |bytes| instead(bytes, &bytes[4..5])),
    ("half of it", |bytes| instead(bytes, &bytes[4..4 + (bytes.len() - 4) / 2])),
    ("less than its header says", |bytes| Some([&[0xff, 0xff, 0x10, bytes[3]], &bytes[4..]].concat())),
    ("more than its header says", |bytes| Some([&[1, 0, 0, bytes[3]], &bytes[4..], &bytes[4..]].concat())),
    ("twice itself", |bytes| instead(bytes, &[&bytes[4..], &bytes[4..]].concat())),
    ("another number", |bytes| Some(packet(bytes[3].wrapping_add(7), &bytes[4..]))),
    ("an error", |bytes| instead(bytes, &error(1045, "Access denied for user 'user'@'localhost'"))),
    ("an error that is cut", |bytes| instead(bytes, &[0xff, 0x15])),
    ("an error without a text", |bytes| instead(bytes, &[0xff, 0x15, 4])),
    ("an error of 200 kB", |bytes| instead(bytes, &error(1045, &"x".repeat(200_000)))),
    ("an OK", |bytes| instead(bytes, &ok())),
    ("an OK that is cut", |bytes| instead(bytes, &[0, 0xfd, 1])),
    ("an end of rows", |bytes| instead(bytes, &[0xfe, 0, 0, 2, 0])),
    ("a wish for a file", |bytes| instead(bytes, b"\xfb/etc/passwd")),
    ("a thousand columns", |bytes| instead(bytes, &[0xfc, 0xe8, 3])),
    ("more columns than there can be", |bytes| instead(bytes, &[&[0xfe][..], &[0xff; 8]].concat())),
    ("a switch to another plugin", |bytes| {
        instead(bytes, &switch(b"mysql_native_password", b"ABCDEFGHIJKLMNOPQRST\0"))
    }),
    ("a switch to none", |bytes| instead(bytes, &switch(b"", b""))),
    ("more of a login", |bytes| instead(bytes, &[1, 4])),
    ("zeros", |bytes| instead(bytes, &vec![0; bytes.len()])),
    ("all bits", |bytes| instead(bytes, &vec![0xff; bytes.len()])),
];

/// Every packet of a conversation is corrupted in every way. The result is an error, unless the
/// library ignores the corruption.
#[tokio::test]
async fn every_packet_may_be_spoilt() {
    let mut panics = 0;
    for newer in [false, true] {
        let conversation = Conversation { newer, ..Conversation::plain() };
        let server = MadeUp::start(conversation.clone(), unspoilt()).await;
        let whole = pool(&server);
        talk(&whole).await.unwrap();
        whole.close().await;
        tokio::time::timeout(Duration::from_secs(5), async {
            while server.longest() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let packets = server.longest();
        assert!(packets > 40, "only {packets} packets: is the conversation what it was?");
        // The login completely, then a sample of each kind. Only the end of rows differs in the
        // newer protocol.
        for at in (0..packets).filter(|at| *at < 8 || at % (if newer { 5 } else { 2 }) == 0) {
            for (kind, spoilt) in KINDS {
                let spoil = move |place: usize, bytes: Vec<u8>| if place == at { spoilt(&bytes) } else { Some(bytes) };
                let server = MadeUp::start(conversation.clone(), Box::new(spoil)).await;
                let pool = pool(&server);
                let said = tokio::time::timeout(Duration::from_secs(10), talk(&pool)).await;
                let said = said.unwrap_or_else(|_| panic!("{kind} in place of packet {at}: no end"));
                if let Err(error) = said {
                    let text = error.to_string();
                    assert!(text.len() < 700 && !tells_a_secret(&text), "{kind} in place of packet {at}: {text}");
                }
                panics += pool.panics();
            }
        }
    }
    assert!(panics > 0, "the library does not panic any more: is the catch still needed?");
}

/// Bytes are flipped, removed and inserted at places chosen by a seed.
#[tokio::test]
async fn random_bytes_do_not_hurt() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        // xorshift64 (Marsaglia 2003)
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for round in 0..300 {
        let (at, from, change, value) = (next(60), next(100), next(4), u8::try_from(next(256)).unwrap());
        let spoil = move |place: usize, mut bytes: Vec<u8>| {
            if place == at && bytes.len() > 4 {
                let from = 4 + from % (bytes.len() - 4);
                match change {
                    0 => bytes[from] = value,
                    1 => bytes[from] ^= 1 << (value % 8),
                    2 => drop(bytes.remove(from)),
                    _ => bytes.insert(from, value),
                }
                return Some(packet(bytes[3], &bytes[4..]));
            }
            Some(bytes)
        };
        let conversation = Conversation { newer: round % 2 == 0, ..Conversation::plain() };
        let server = MadeUp::start(conversation, Box::new(spoil)).await;
        let pool = pool(&server);
        let ended = tokio::time::timeout(Duration::from_secs(10), talk(&pool)).await;
        assert!(ended.is_ok(), "round {round}: no end");
    }
}

/// A login: its name, the plugin of the greeting, the server's responses, and the expected error.
type Login = (&'static str, &'static str, Vec<Vec<u8>>, &'static str);

const NONCE: &[u8] = b"ABCDEFGHIJKLMNOPQRST\0";
const NATIVE: &str = "mysql_native_password";
const CACHING: &str = "caching_sha2_password";
const PANICKED: &str = "does not understand (it stopped at";

fn logins() -> Vec<Login> {
    // 'P', the logarithm of the iterations, 18 bytes of salt.
    let salt = [b"P\0" as &[u8], &[7; 18]].concat();
    let parsec = |nonce: usize| switch(b"parsec", &vec![1; nonce]);
    vec![
        ("parsec", NATIVE, vec![parsec(32), salt.clone(), ok()], ""),
        ("parsec, an empty nonce", NATIVE, vec![parsec(0), salt.clone(), ok()], PANICKED),
        ("parsec, a short nonce", NATIVE, vec![parsec(31), salt.clone(), ok()], PANICKED),
        ("parsec, a long nonce", NATIVE, vec![parsec(4_000), salt.clone(), ok()], PANICKED),
        ("parsec, then another switch", NATIVE, vec![parsec(32), switch(b"mysql_native_password", NONCE)], PANICKED),
        ("parsec, a cut salt", NATIVE, vec![parsec(32), salt[..5].to_vec()], "cannot connect"),
        ("parsec, no salt", NATIVE, vec![parsec(32), ok()], "cannot connect"),
        ("ed25519", NATIVE, vec![switch(b"client_ed25519", &[1; 32]), ok()], ""),
        ("ed25519, an empty nonce", NATIVE, vec![switch(b"client_ed25519", b""), ok()], ""),
        ("ed25519, then another switch", NATIVE, vec![switch(b"client_ed25519", &[1; 32]), parsec(32)], "belong there"),
        ("caching_sha2", CACHING, vec![vec![1, 3], ok()], ""),
        ("caching_sha2, an empty key", CACHING, vec![vec![1, 4], vec![]], PANICKED),
        ("caching_sha2, no key", CACHING, vec![vec![1, 4], b"\x01no key".to_vec()], PANICKED),
        (
            "caching_sha2, no nonce",
            NATIVE,
            vec![switch(CACHING.as_bytes(), b""), vec![1, 4], b"\x01x".to_vec()],
            PANICKED,
        ),
        ("caching_sha2, another step", CACHING, vec![vec![1, 9]], "belong there"),
        ("native, an empty nonce", CACHING, vec![switch(NATIVE.as_bytes(), b""), ok()], ""),
        (
            "native, twice",
            NATIVE,
            vec![switch(NATIVE.as_bytes(), NONCE), switch(NATIVE.as_bytes(), NONCE)],
            "belong there",
        ),
        ("the old switch", NATIVE, vec![vec![0xfe]], "cannot connect"),
        ("in the clear", NATIVE, vec![switch(b"mysql_clear_password", b"")], "mysql_clear_password"),
        (
            "a plugin of Windows",
            NATIVE,
            vec![switch(b"auth_gssapi_client", b"")],
            "\"auth_gssapi_client\", which is not supported",
        ),
        (
            "an old plugin of MySQL",
            NATIVE,
            vec![switch(b"sha256_password", NONCE)],
            "\"sha256_password\", which is not supported",
        ),
        ("a plugin without a name", NATIVE, vec![switch(b"", NONCE)], "cannot connect"),
        ("a plugin that is no text", NATIVE, vec![switch(b"\xff\x1b[2J", NONCE)], "not supported"),
        ("a plugin with a long name", NATIVE, vec![switch(&[b'x'; 100_000], NONCE)], "cannot connect"),
        ("a greeting with a strange plugin", "dialog", vec![ok()], ""),
        ("refused", NATIVE, vec![error(1045, "Access denied for user 'user'@'localhost'")], "ERROR 1045 ("),
        ("refused in the second step", NATIVE, vec![parsec(32), error(1698, "Access denied")], "ERROR 1698 ("),
    ]
}

#[tokio::test]
async fn every_login_ends_well_or_with_a_reason() {
    for (name, plugin, login, expected) in logins() {
        let server = MadeUp::start(Conversation { plugin, login, newer: false }, unspoilt()).await;
        let pool = pool(&server);
        let said = talk(&pool).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{name}: {said}");
        assert!(said.len() < 700 && !said.contains('\u{1b}') && !tells_a_secret(&said), "{name}: {said}");
        assert_eq!(pool.panics() > 0, expected == PANICKED, "{name}: counted");
    }
}

/// The effect on the program: refreshes are left to WordPress, the log is JSON and contains the
/// place, the commands report the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_makes_the_library_panic_costs_nothing_but_native_answers() {
    let login = vec![switch(b"parsec", &[1; 5]), [b"P\0" as &[u8], &[7; 18]].concat()];
    let server = MadeUp::start(Conversation { login, ..Conversation::plain() }, unspoilt()).await;
    let upstream = wordpress();
    let (site, url) = (format!("http://{}", upstream.address()), server.url());
    let environment = [
        &[
            ("WP_JWT_SIDECAR_UPSTREAM_URL", site.as_str()),
            ("WP_JWT_SIDECAR_WORDPRESS_DATABASE_URL", url.as_str()),
            ("WP_JWT_SIDECAR_WORDPRESS_TABLE_PREFIX", "wp_"),
            ("WP_JWT_SIDECAR_ADMIN_LISTEN", "127.0.0.1:0"),
        ][..],
        &SECRETS,
    ]
    .concat();
    let mut sidecar = Sidecar::start_with(&[], &environment);
    let line: Value = serde_json::from_str(&sidecar.wait_for_log("the database's client library panicked")).unwrap();
    let place = line["place"].as_str().unwrap();
    assert!(place.starts_with("mysql_async-") && place.contains("/src/conn/mod.rs:"), "{line}");
    for _ in 0..3 {
        assert_eq!(refresh_at(sidecar.address(), "0123456789abcdef").status(), 299, "left to WordPress");
    }
    let metrics = String::from_utf8(get(admin(&sidecar), "/metrics").body).unwrap();
    let counted = metrics.lines().find(|line| line.starts_with("wp_jwt_sidecar_database_library_panics_total "));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    for line in sidecar.log() {
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "not JSON: {line}");
    }

    let run = |arguments: &[&str]| {
        let mut run: Command = command();
        let output = run.args(arguments).envs(environment.iter().copied()).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains(PANICKED) && !said.contains("panicked at") && !tells_a_secret(&said), "{said}");
        output.status.code()
    };
    assert_eq!(run(&["check"]), Some(0), "the route is left to WordPress");
    assert_eq!(run(&["doctor", "--no-php"]), Some(2));
    assert_eq!(run(&["index"]), Some(1));
}

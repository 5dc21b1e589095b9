//! Commands and files of the README and of operating that need no other server.

use serde_json::json;
use wp_jwt_sidecar::internals::config::keys::{Fallback, KEYS, Key};

use super::block;
use crate::support::raw::Connection;
use crate::support::rig::{self, ROUTE};
use crate::support::sidecar::{Sidecar, command};
use crate::support::site::Site;

#[test]
fn quick_start() {
    let site = Site::up(&[]);
    let text = block("quick-start");
    let [build, serve] = text.lines().collect::<Vec<_>>()[..] else { panic!("not two commands: {text}") };
    assert_eq!(build, "cargo build --release", "tests/demo and packaging/deb run this");
    let arguments = serve.strip_prefix("target/release/wp-jwt-sidecar serve ").expect("serve");
    let here = arguments
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("http://127.0.0.1:8081", site.said("UPSTREAM"))
        .replace("/var/www/html/wp-config.php", site.said("WP_CONFIG"));
    assert!(!here.contains("808") && !here.contains("/var/www"), "{here}");
    let listen = here.strip_prefix("--listen 127.0.0.1:0 ").expect("the address, which Sidecar gives");
    let sidecar = Sidecar::start(&listen.split(' ').collect::<Vec<_>>());
    sidecar.wait_for_log("refreshing natively");
    let mut client = Connection::to(sidecar.address());
    client.send(format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}",
        site.host()
    ));
    assert_eq!((client.response().status(), site.requests().iter().any(|line| line.contains(ROUTE))), (400, false));

    // "takes the same options"
    let checked = command().arg("check").args(listen.split(' ')).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn out_again() {
    let mut rig = rig::Rig::start().await;
    let token = rig.token().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), block("out")).unwrap();
    rig.sidecar = rig::sidecar(
        &rig.database,
        rig.upstream.address(),
        &[("WP_JWT_SIDECAR_CONFIG", file.path().to_str().unwrap())],
    );
    let answer = rig.refresh(&token.refresh_token);
    assert_eq!(answer.json(), json!({"forwarded": format!("POST {ROUTE} HTTP/1.1")}));
}

/// Prometheus accepts what is to be put into its configuration, together with the rules that are
/// shipped.
#[test]
fn prometheus() {
    let text = block("prometheus");
    let rules = "/etc/prometheus/wp-jwt-sidecar-alerts.yml";
    assert!(text.contains(rules) && text.contains(KEYS.iter().find_map(default_of_admin).unwrap()), "{text}");
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/alerts.yml");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text.replace(rules, shipped.to_str().unwrap())).unwrap();
    let output = std::process::Command::new("promtool").args(["check", "config"]).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("rules found"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(std::fs::read_to_string(shipped).unwrap().contains("job=\"wp-jwt-sidecar\""));
}

fn default_of_admin(key: &Key) -> Option<&'static str> {
    match key.default {
        Fallback::Is(address) if key.name == "admin.listen" => Some(address),
        _ => None,
    }
}

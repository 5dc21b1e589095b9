//! Faults of the real nginx behind the sidecar: what it cuts, limits, adds and keeps to itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{Report, lines, text};
use crate::support::raw::Connection;
use crate::support::sidecar::PATIENCE;
use crate::support::site::Site;

/// The nginx of a site and its configuration as it was.
struct Nginx<'a> {
    site: &'a Site,
    file: PathBuf,
    configuration: String,
}

impl<'a> Nginx<'a> {
    fn of(site: &'a Site) -> Nginx<'a> {
        let file = Path::new(site.said("LOGS")).parent().unwrap().join("conf/nginx.conf");
        let configuration = fs::read_to_string(&file).unwrap();
        Nginx { site, file, configuration }
    }

    /// Puts `with` in the place of each `what`, has nginx take it, and waits until no worker of before answers.
    fn change(&self, generation: u32, changes: &[(&str, &str)]) {
        let mut changed = self.configuration.clone();
        for (what, with) in changes {
            assert!(changed.contains(what), "{what}");
            changed = changed.replace(what, with);
        }
        // Seen in an answer that is no WordPress's.
        let probe = format!("location = /generation {{ return 200 \"{generation} \"; }}\n\t\tlocation / {{");
        fs::write(&self.file, changed.replace("location / {", &probe)).unwrap();
        let pid = fs::read_to_string(self.file.parent().unwrap().with_file_name("run/nginx.pid")).unwrap();
        assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        let mut in_a_row = 0;
        while in_a_row < 5 {
            assert!(Instant::now() < deadline, "nginx does not take its configuration");
            let mut client = Connection::to(self.site.upstream());
            client.send("GET /generation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let is_new = client.response().body.starts_with(format!("{generation} ").as_bytes());
            in_a_row = if is_new { in_a_row + 1 } else { 0 };
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn what_the_web_server_does_wrong_is_named() {
    let site = Site::up(&[]);
    let nginx = Nginx::of(&site);

    nginx.change(
        1,
        &[
            ("client_max_body_size 64m;", "client_max_body_size 1k; keepalive_timeout 1s;"),
            ("real_ip_header X-Forwarded-For;", "real_ip_header X-Nothing;"),
            ("server_tokens off;", "server_tokens off; add_header Strict-Transport-Security max-age=1 always;"),
        ],
    );
    let report = Report::of(&site, &[], &[]);
    let limit = report.the("problem", "upstream.body_limit");
    assert!(text(&limit["what"]).contains("16 KiB"), "{limit}");
    assert!(text(&limit["mend"]).contains("client_max_body_size"), "{limit}");
    let keep_alive = report.the("warning", "upstream.keepalive");
    assert!(text(&keep_alive["what"]).contains("closes idle connections after 1."), "{keep_alive}");
    assert_eq!(lines(keep_alive)[0], "[upstream]");
    let client = report.the("warning", "client_address.seen");
    assert!(text(&client["what"]).contains("takes 127.0.0.1 for it"), "{client}");
    assert!(lines(client).iter().any(|line| line == "real_ip_header X-Forwarded-For;"), "{client}");
    let answers = report.the("warning", "parity.answers");
    assert_eq!(lines(answers), ["strict-transport-security: max-age=1 — only from WordPress (all 8)"]);

    nginx.change(
        2,
        &[
            ("client_max_body_size 64m;", "client_max_body_size 1m; keepalive_timeout 0;"),
            ("real_ip_header X-Forwarded-For;", "real_ip_header X-Nothing;"),
            (
                "fastcgi_param REDIRECT_STATUS 200;",
                "fastcgi_param REDIRECT_STATUS 200; fastcgi_param HTTP_X_FORWARDED_FOR \"\";",
            ),
        ],
    );
    let report = Report::of(&site, &[], &[]);
    let limit = report.the("warning", "upstream.body_limit");
    assert!(text(&limit["what"]).contains("requests of 1 MiB"), "{limit}");
    let keep_alive = report.the("warning", "upstream.keepalive");
    assert!(text(&keep_alive["what"]).contains("after one answer"), "{keep_alive}");
    let client = report.the("problem", "client_address.seen");
    assert!(text(&client["what"]).contains("WordPress took 127.0.0.1 for the client"), "{client}");
    report.the("ok", "parity.answers");
}

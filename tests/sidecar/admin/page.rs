//! The status page in a real browser: light and dark, narrow and wide, with and without its script,
//! on a quiet, a busy and a bad day. `SIDECAR_SCREENSHOTS=DIRECTORY` keeps pictures.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{LISTEN, admin, readiness};
use crate::support::browser::Browser;
use crate::support::mariadb::Database;
use crate::support::port::Port;
use crate::support::raw::{Connection, Upstream};
use crate::support::rig::{NO_REUSE, Rig, settings};
use crate::support::secrets;
use crate::support::sidecar::{PATIENCE, Sidecar};

const WIDTHS: [u32; 3] = [360, 800, 1600];

/// Checks the page in every mode for faults.
fn look(browser: &Browser, address: SocketAddr, name: &str) {
    let url = format!("http://{address}/");
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for width in WIDTHS {
            browser.resize(width, 1000);
            browser.open(&url);
            let inside = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert_eq!(inside[0], inside[1], "{name}, {width}: the page is wider than the window");
            let pale = browser.run(CONTRAST);
            assert_eq!(pale, serde_json::json!([]), "{name}, {scheme}, {width}: too little contrast");
            if let Some(directory) = std::env::var_os("SIDECAR_SCREENSHOTS") {
                browser.photograph(&PathBuf::from(directory).join(format!("{name}-{scheme}-{width}.png")));
            }
        }
    }
    let structure = browser.run(
        "const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return {
            headings: document.querySelectorAll('h1').length,
            landmarks: ['header', 'main', 'footer'].every(name => document.querySelector(name)),
            named: [...document.querySelectorAll('section, figure')].every(e => document.getElementById(e.getAttribute('aria-labelledby'))),
            drawn: [...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label')),
            captions: [...document.querySelectorAll('table')].every(e => e.querySelector('caption')),
            twice: ids.filter((id, i) => ids.indexOf(id) != i),
        }",
    );
    let expected = serde_json::json!({"headings": 1, "landmarks": true, "named": true, "drawn": true, "captions": true, "twice": []});
    assert_eq!(structure, expected, "{name}");
    let whole = browser.run("return document.documentElement.outerHTML");
    secrets::keep(whole.as_str().expect("a page"));
    assert_eq!(browser.console(), Vec::<String>::new(), "{name}: the console has errors");
    let elsewhere: Vec<String> = browser
        .requested()
        .into_iter()
        .filter(|asked| !asked.starts_with(&url) && !asked.starts_with("data:"))
        .collect();
    assert_eq!(elsewhere, Vec::<String>::new(), "{name}: it asks elsewhere");
}

/// The texts with a contrast below 4.5 to 1 (WCAG 2.2, 1.4.3), as the browser draws them.
const CONTRAST: &str = "
    const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const ground = e => {
        for (; e; e = e.parentElement) {
            const colour = rgb(getComputedStyle(e).backgroundColor);
            if (colour.length == 3 || colour[3] == 1) return colour;
        }
        return [255, 255, 255];
    };
    const own = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
    return [...document.querySelectorAll('body *')].filter(own).filter(e => e.checkVisibility() && e.tagName != 'SCRIPT').map(e => {
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
        return [(a + .05) / (b + .05), e.textContent];
    }).filter(([contrast]) => contrast < 4.5);";

/// Waits until a script returns true.
fn wait(browser: &Browser, what: &str, script: &str) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while browser.run(script) != true {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn forward(address: SocketAddr, target: &str, times: usize) {
    let mut client = Connection::to(address);
    for _ in 0..times {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        client.response();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_at_work() {
    // The proxies in front of a sidecar on the loopback; without them there would be a warning.
    let proxies = ("WP_JWT_SIDECAR_FORWARDED_TRUSTED_PROXIES", "10.9.9.9");
    let rig = Rig::start_on(Database::shared(), &[LISTEN, proxies, NO_REUSE]).await;
    let address = admin(&rig.sidecar);
    readiness(address, 200);
    let browser = Browser::start();
    look(&browser, address, "quiet");
    let calm = browser.run("return document.getElementById('attention').textContent");
    assert!(calm.as_str().is_some_and(|text| text.contains("Nothing needs attention")), "{calm}");

    // Live: changes appear without user action, and nothing jumps.
    browser.run("scrollTo(0, 300); window.untouched = true; document.querySelector('details').open = true;");
    browser.run(
        "window.shifts = []; new PerformanceObserver(list => list.getEntries().forEach(shift =>
            window.shifts.push([shift.value, shift.sources.map(source => source.node?.id || source.node?.className)])
        )).observe({type: 'layout-shift'})",
    );
    let mut token = rig.token().await.refresh_token;
    for _ in 0..20 {
        let answer = rig.refresh(&token);
        let used = std::mem::replace(&mut token, answer.json()["refresh_token"].as_str().expect("a token").to_owned());
        assert_eq!(rig.refresh(&used).status(), 403);
    }
    forward(rig.sidecar.address(), "/shop", 500);
    wait(
        &browser,
        "the tiles show the traffic",
        "return document.getElementById('tile-forwarded').textContent.includes('500 in the last hour')
            && document.getElementById('tile-refreshed').textContent.includes('20 in the last hour')",
    );
    wait(
        &browser,
        "the table shows the refusals",
        "return document.getElementById('refusals').textContent.includes('used token')",
    );
    wait(
        &browser,
        "the chart shows the traffic",
        "return /now [1-9]/.test(document.querySelector('#chart-forwarded svg').getAttribute('aria-label')) || document.querySelector('#chart-forwarded .line').getAttribute('d').includes('L')",
    );
    assert_eq!(
        browser.run("return [window.untouched, scrollY, document.querySelector('details').open]"),
        serde_json::json!([true, 300, true])
    );
    assert_eq!(browser.run("return window.shifts"), serde_json::json!([]), "something has moved");
    look(&browser, address, "busy");

    // Without the script the page is complete, too, and reloads itself.
    browser.allow_scripts(false);
    browser.open(&format!("http://{address}/"));
    browser.requested();
    let deadline = Instant::now() + 3 * PATIENCE;
    while !browser.requested().iter().any(|asked| *asked == format!("http://{address}/")) {
        assert!(Instant::now() < deadline, "it does not load itself again");
        std::thread::sleep(Duration::from_millis(200));
    }
    browser.allow_scripts(true);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_in_trouble() {
    let server = Database::private();
    // Reserved, so that no other process gets it when the sidecar is gone.
    let port = Port::reserve();
    let listen = port.address().to_string();
    let mut rig = Rig::start_with_settings(&server, &settings(&[]), &[(LISTEN.0, &listen)]).await;
    let address = admin(&rig.sidecar);
    readiness(address, 200);
    forward(rig.sidecar.address(), "/", 10);
    server.kill().await;
    rig.upstream.stop();
    forward(rig.sidecar.address(), "/", 3);
    readiness(address, 503);
    let browser = Browser::start();
    browser.open(&format!("http://{address}/"));
    wait(
        &browser,
        "both are away",
        "return ['database', 'upstream'].every(id => document.getElementById(id).textContent.includes('away'))
            && document.getElementById('verdict').textContent == 'In trouble' && document.title.startsWith('✕')
            && document.querySelectorAll('#attention .problem').length == 2",
    );
    look(&browser, address, "trouble");

    // When the sidecar ends, the page says that its data is old.
    rig.sidecar.signal("KILL");
    rig.sidecar.wait();
    wait(&browser, "it says that the sidecar does not respond", "return !document.getElementById('stale').hidden");
    let said = browser.run("return document.getElementById('stale').textContent");
    assert!(said.as_str().is_some_and(|said| said.starts_with("No answer from the sidecar since ")), "{said}");
}

#[test]
fn a_sidecar_that_only_forwards_and_has_just_begun() {
    let upstream = Upstream::ok();
    let sidecar = Sidecar::forwarding_with(upstream.address(), &["--admin-listen", "127.0.0.1:0"]);
    let address = admin(&sidecar);
    readiness(address, 200);
    let browser = Browser::start();
    look(&browser, address, "begun");
    let empty = browser.run("return document.querySelectorAll('.plot .empty').length");
    assert_eq!(empty, 4, "charts without data say so");
}

//! The pictures of the documents. `UPDATE_PICTURES=1 cargo test --test sidecar readme::pictures` draws them again: the path of
//! a request from the list in this file, the status page from a real site and browser, which takes five minutes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::blocks::read;
use crate::support::browser::Browser;
use crate::support::raw::Connection;
use crate::support::rig::{ROUTE, call_with};
use crate::support::secrets;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::site::Site;

/// How long the site of the status page is at work: the page's charts have a point each 15 s.
const AT_WORK: Duration = Duration::from_secs(285);

/// In CSS pixels: from 960 on all tiles stand in one row.
const WIDTH: u32 = 1040;

/// Fonts that every system has under these names.
const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";

fn is_update() -> bool {
    std::env::var_os("UPDATE_PICTURES").is_some()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

#[test]
fn the_path_of_a_request() {
    let drawn = path_of_a_request();
    if is_update() {
        std::fs::write(file("request-path.svg"), &drawn).unwrap();
    }
    let update = "UPDATE_PICTURES=1 draws it again";
    assert_eq!(read("docs/request-path.svg"), drawn, "docs/request-path.svg is not what this file draws: {update}");
}

/// A box with its lines of text, the first of which is its title: left, top, width, height.
type Station = ([u32; 4], &'static str, &'static [&'static str]);

const STATIONS: &[Station] = &[
    ([10, 98, 130, 84], "plain", &["Clients", "apps, browsers"]),
    ([200, 98, 180, 84], "plain", &["Web server in front", "nginx, Apache,", "load balancer, CDN"]),
    (
        [440, 44, 210, 192],
        "own",
        &["wp-jwt-sidecar", "Is it a token refresh,", "verified for this site,", "with nothing unusual?"],
    ),
    ([740, 44, 230, 64], "plain", &["Database of the site", "MySQL or MariaDB"]),
    ([740, 172, 230, 64], "plain", &["Web server of the site", "PHP, WordPress, the plugin"]),
];

/// From where to where, and what is said above it, in which colour.
const ARROWS: &[([u32; 4], &str, &str)] = &[
    ([140, 140, 196, 140], "", ""),
    ([380, 140, 436, 140], "", ""),
    ([650, 76, 736, 76], "own", "yes"),
    ([650, 204, 736, 204], "", "no"),
    ([855, 172, 855, 112], "", ""),
];

/// Beside the stations: where, and what.
const NOTES: &[(u32, u32, &str)] =
    &[(740, 30, "one transaction, without PHP"), (740, 260, "all else, and compared refreshes")];

fn path_of_a_request() -> String {
    let title = "The path of a request: from clients through a web server to the sidecar, which answers refreshes from the database and \
                 forwards everything else to the site";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 980 276\" width=\"980\" height=\"276\" role=\"img\" aria-label=\"{title}\">\n\
         <title>{title}</title>\n<style>\n\
         text {{ font: 13px {FONT}; fill: #5b6068; }}\n.title {{ font-weight: 600; font-size: 14px; fill: #1b1d20; }}\n\
         rect {{ fill: #fff; stroke: #b9bcc2; }}\n.own {{ fill: #e6f3ec; stroke: #14704a; }}\n\
         path {{ fill: none; stroke: #5b6068; stroke-width: 1.5; }}\npath.own {{ fill: none; stroke: #14704a; stroke-width: 2.5; }}\n\
         text.own {{ fill: #14704a; stroke: none; font-weight: 600; }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #a0a5ae; }} .title {{ fill: #e5e6e8; }} rect {{ fill: #1a1c20; stroke: #4a4e56; }}\n\
         .own {{ fill: #17291f; stroke: #6ccf9d; }} path {{ stroke: #a0a5ae; }} path.own {{ fill: none; stroke: #6ccf9d; }}\n\
         text.own {{ fill: #6ccf9d; }}\n}}\n</style>\n"
    );
    for ([left, top, width, height], class, lines) in STATIONS {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>"
        );
        let first = top + height / 2 + 5 - 10 * (lines.len() as u32 - 1);
        for (line, text) in (0_u32..).zip(*lines) {
            let class = if line == 0 { " class=\"title\"" } else { "" };
            let (x, y) = (left + width / 2, first + 20 * line);
            let _ = writeln!(svg, "<text{class} x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>");
        }
    }
    for ([x, y, to_x, to_y], class, text) in ARROWS {
        let head = if x == to_x { "l -4 8 m 4 -8 l 4 8" } else { "l -8 -4 m 8 4 l -8 4" };
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M {x} {y} L {to_x} {to_y} {head}\"/>");
        if !text.is_empty() {
            let (x, y) = (u32::midpoint(*x, *to_x), y - 8);
            let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>");
        }
    }
    for (x, y, text) in NOTES {
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\">{text}</text>");
    }
    svg + "</svg>\n"
}

/// What the committed picture shows is on the page of today.
#[test]
fn the_status_page() {
    if is_update() {
        std::fs::write(file("status-page.svg"), status_page()).unwrap();
    }
    let svg = read("docs/status-page.svg");
    assert!(svg.len() < 100_000 && svg.ends_with("</svg>\n"), "{} bytes", svg.len());
    let page =
        ["mod", "parts", "verification", "chart"].map(|name| read(&format!("src/admin/page/{name}.rs"))).concat();
    let page = page.to_uppercase();
    let headings: Vec<&str> = svg
        .lines()
        .filter_map(|line| line.strip_suffix("</text>")?.rsplit_once('>'))
        .map(|(_, text)| text)
        .filter(|text| {
            text.contains(' ') && *text == text.to_uppercase() && text.chars().all(|c| c.is_alphabetic() || c == ' ')
        })
        .collect();
    assert!(headings.len() >= 2, "{headings:?}");
    for heading in headings {
        assert!(page.contains(heading), "the page has no {heading:?} any more: draw docs/status-page.svg again");
    }
}

/// A site at work for some minutes, as its administrator sees it.
fn status_page() -> String {
    let site = Site::up(&["--home", "http://example.com"]);
    let sidecar = Sidecar::start(&[
        "--upstream",
        site.said("UPSTREAM"),
        "--wp-config",
        site.said("WP_CONFIG"),
        "--admin-listen",
        "127.0.0.1:0",
        "--forwarded-trusted-proxies",
        "127.0.0.1",
        "--refresh-verify",
        "auto",
        "--server-max-requests-per-connection",
        "0",
    ]);
    let page = format!("http://{}/", crate::admin::admin(&sidecar));
    let login = json!({"username": site.said("USER"), "password": site.said("USER_PASSWORD")});
    let mut client = Connection::to(sidecar.address());
    // Each call is another client's: the plugin limits each of them.
    let mut calls = 0_u32;
    let mut post = |path: &str, body: &Value| {
        calls += 1;
        let from = format!("X-Forwarded-For: 198.18.{}.{}\r\n", calls / 250, 1 + calls % 250);
        let call = call_with(body, &from).replace("Host: shop.example", "Host: example.com").replace(ROUTE, path);
        let answer = client.send(call).response();
        (answer.status(), answer.json())
    };
    let mut pair = post("/wp-json/jwt-auth/v1/token", &login).1;
    let unknown = json!({"refresh_token": "0123456789abcdef0123456789abcdef"});
    let begun = Instant::now();
    let mut visitor = Connection::to(sidecar.address());
    while begun.elapsed() < AT_WORK {
        let token = pair["refresh_token"].as_str().expect("a refresh token").to_owned();
        secrets::register(&token);
        let (status, answer) = post(ROUTE, &json!({"refresh_token": token}));
        assert_eq!(status, 200, "{answer}");
        pair = answer;
        if begun.elapsed().as_millis().is_multiple_of(7) {
            post(ROUTE, &unknown);
        }
        for _ in 0..3 {
            visitor.send("GET /wp-content/themes/plain/style.css HTTP/1.1\r\nHost: example.com\r\n\r\n");
            assert_eq!(visitor.response().status(), 200);
        }
        // As much as a day has: more at its middle.
        let part = begun.elapsed().as_secs_f64() / AT_WORK.as_secs_f64();
        std::thread::sleep(Duration::from_millis(60 + (220.0 * (part - 0.55).abs()) as u64));
    }

    let browser = Browser::start();
    browser.resize(WIDTH, 1000);
    browser.open(&page);
    let draw = format!("return (function() {{ {} }})('chart-errors')", include_str!("draw.js"));
    let [light, dark] = ["light", "dark"].map(|scheme| {
        browser.prefer(scheme);
        browser.run(&draw)
    });
    let svg = both(&light, &dark);
    let shown = tempfile::Builder::new().suffix(".svg").tempfile().unwrap();
    std::fs::write(shown.path(), &svg).unwrap();
    browser.open(&format!("file://{}", shown.path().display()));
    let texts = browser.run("return document.querySelectorAll('text').length");
    assert!(texts.as_u64().is_some_and(|texts| texts > 40), "{texts}");
    assert!(Instant::now() < begun + AT_WORK + 3 * PATIENCE);
    secrets::keep(&svg);
    svg
}

/// One picture: each colour is a class, with the colour that it has in the light and the one in the dark.
fn both(light: &Value, dark: &Value) -> String {
    let lines = |drawn: &Value| -> Vec<String> {
        drawn["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    let (width, height, page) = (&light["width"], &light["height"], light["page"].as_str().unwrap());
    let mut bright = lines(light);
    let mut colours = BTreeMap::from([(page.to_owned(), dark["page"].as_str().unwrap().to_owned())]);
    for (bright, dim) in
        bright.iter().flat_map(|line| colours_of(line)).zip(lines(dark).iter().flat_map(|line| colours_of(line)))
    {
        colours.entry(bright).or_insert(dim);
    }
    bright.insert(0, format!("<rect width=\"{width}\" height=\"{height}\" fill=\"{page}\"/>"));
    let title = "The status page: verification of refreshes, what needs attention, numbers and charts of the last hour";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{title}\">\n<title>{title}</title>\n<style>\ntext {{ font-family: {FONT}; }}\n"
    );
    let classes = |is_dark: bool| -> String {
        let rule = |(number, (bright, dim))| {
            let colour: &String = if is_dark { dim } else { bright };
            format!(".fill{number} {{ fill: {colour}; }} .stroke{number} {{ stroke: {colour}; }}\n")
        };
        (0_usize..).zip(&colours).map(rule).collect()
    };
    let _ = write!(svg, "{}@media (prefers-color-scheme: dark) {{\n{}}}\n</style>\n", classes(false), classes(true));
    for line in bright {
        let mut classes = Vec::new();
        let mut rest = line;
        for (number, colour) in colours.keys().enumerate() {
            for property in ["fill", "stroke"] {
                let attribute = format!(" {property}=\"{colour}\"");
                if rest.contains(&attribute) {
                    rest = rest.replace(&attribute, "");
                    classes.push(format!("{property}{number}"));
                }
            }
        }
        let (name, behind) = rest.split_once([' ', '>']).unwrap_or((&rest, ""));
        let line = match classes.is_empty() {
            true => rest.clone(),
            false => format!("{name} class=\"{}\" {behind}", classes.join(" ")),
        };
        svg.push_str(&line);
        svg.push('\n');
    }
    svg + "</svg>\n"
}

/// The colours that a line names, in its order.
fn colours_of(line: &str) -> Vec<String> {
    line.split('"').filter(|part| part.starts_with("rgb")).map(str::to_owned).collect()
}

//! The README's snippets for nginx, in Debian's nginx.

use std::os::unix::fs::symlink;

use super::block;
use super::front::{Front, daemon};

#[test]
fn nginx_in_front() {
    let mut front = Front::new();
    start(&mut front, &block("nginx"));
    front.assert_nothing_shows();
    front.assert_goes_round();
}

#[test]
fn nginx_with_the_refreshes_only() {
    let mut front = Front::new();
    let both = block("nginx");
    let (public, rest) = both.split_once("    location / {\n").expect("the location of the public server");
    let (_, inner) = rest.split_once("    }\n}\n").expect("the end of the public server");
    // What the public server was before, as the inner one still is.
    let as_it_was = ["root /var/www/html;", "index index.php;", "include snippets/fastcgi-php.conf;"];
    assert!(as_it_was.iter().all(|line| inner.contains(line)), "{inner}");
    // Here it does not listen on 443, the port that redirects need not name.
    let was = "port_in_redirect off; root /var/www/html; index index.php; location / { try_files $uri $uri/ /index.php?$args; } \
               location ~ \\.php$ { include snippets/fastcgi-php.conf; fastcgi_pass unix:/run/php/php-fpm.sock; }";
    start(&mut front, &format!("{public}{was}\n{}}}\n{inner}", block("nginx-refreshes-only")));
    front.assert_nothing_shows();
    front.assert_goes_round();

    front.sidecar.signal("TERM");
    front.sidecar.wait();
    front.assert_nothing_shows();
    assert_eq!(front.request("/wp-json/jwt-auth/v1/token/refresh", &["-X", "POST"]).status, 502);
}

fn start(front: &mut Front, snippet: &str) {
    let directory = front.directory.path();
    // Paths in the snippet are relative to where nginx.conf is.
    for entry in std::fs::read_dir("/etc/nginx").unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "nginx.conf" {
            symlink(entry.path(), directory.join(entry.file_name())).unwrap();
        }
    }
    let here = directory.display();
    let text = format!(
        "daemon off; user www-data; pid {here}/nginx.pid; error_log {here}/error.log; events {{ }} http {{ \
         include mime.types; access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; \
         fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;\n{}\n}}\n",
        front.here(snippet)
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let log = directory.join("error.log");
    front.start(daemon("/usr/sbin/nginx").arg("-e").arg(log).arg("-c").arg(file));
}

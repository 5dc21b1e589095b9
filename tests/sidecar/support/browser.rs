//! A real browser: headless Chromium, driven through chromedriver (WebDriver, which is JSON over
//! HTTP).

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::raw::Connection;

/// A browser takes its time to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// chromedriver's log, and how many bytes of its end a failure shows.
const LOG: &str = "chromedriver.log";
const LOG_END: usize = 8_000;

/// A failed start shows nothing about a page: without memory or processor for some seconds,
/// Chromium gives up.
const STARTS: usize = 3;

/// How often to try to remove its files, every 100 ms.
const CLEARED: usize = 50;

/// Each is half a dozen processes with hundreds of megabytes, which a small machine has only once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A browser with its own profile. It is closed on drop; if the test fails, it prints what it
/// shows.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    profile: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser when no other test has one.
    pub fn start() -> Browser {
        for _ in 1..STARTS {
            match Browser::try_start() {
                Ok(browser) => return browser,
                Err(why) => eprintln!("the browser is started once more: {why}"),
            }
        }
        Browser::try_start().unwrap_or_else(|why| panic!("no browser: {why}"))
    }

    fn try_start() -> Result<Browser, String> {
        // A test that failed with the lock has closed its browser.
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = TempDir::new().expect("a directory");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .arg(format!("--log-path={}", profile.path().join(LOG).display()))
            // A browser that is killed leaves its socket's directory there.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts (Debian: chromium-driver)");
        let said = BufReader::new(driver.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let port = said
            .filter_map(|line| {
                line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_owned())
            })
            .find_map(|port| port.parse().ok());
        let Some(port) = port else {
            // It has ended, or closed its output: another process took its port first.
            let _ = driver.kill();
            let _ = driver.wait();
            return Err("chromedriver did not say its port".to_owned());
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Browser { driver, address, session: String::new(), profile, _turn: turn };
        let profile = format!("--user-data-dir={}", browser.profile.path().join("profile").display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // Pages stay active even on a busy machine.
            "--disable-background-timer-throttling",
            "--disable-backgrounding-occluded-windows",
            "--disable-renderer-backgrounding",
            "--hide-scrollbars",
            profile.as_str(),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = browser.ask("POST", "/session", &capabilities).map_err(|why| browser.with_log(&why))?;
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        Ok(browser)
    }

    /// Opens a page and waits for it to be loaded.
    pub fn open(&self, url: &str) {
        self.of_session("url", &json!({"url": url}));
    }

    /// The value that the body of this function returns.
    pub fn run(&self, script: &str) -> Value {
        self.of_session("execute/sync", &json!({"script": script, "args": []}))
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.of_session("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The size of the window's inside, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Sets the preferred colour scheme: `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Switches the scripts of pages on or off.
    pub fn allow_scripts(&self, allowed: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": !allowed}));
    }

    /// Saves the whole page as a PNG in this file.
    pub fn photograph(&self, file: &Path) {
        let taken = self.devtools("Page.captureScreenshot", &json!({"format": "png", "captureBeyondViewport": true}));
        let png = BASE64_STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, png).expect("it can be written");
    }

    /// New messages of the console: errors of scripts, of the network, of the security policy.
    pub fn console(&self) -> Vec<String> {
        let entries = self.of_session("se/log", &json!({"type": "browser"}));
        entries.as_array().into_iter().flatten().map(Value::to_string).collect()
    }

    /// New requests' URLs, without the browser's own page at its start.
    pub fn requested(&self) -> Vec<String> {
        let entries = self.of_session("se/log", &json!({"type": "performance"}));
        let messages = entries.as_array().into_iter().flatten().filter_map(|entry| entry["message"].as_str());
        let messages = messages.filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let sent = messages.filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        let asked =
            sent.filter_map(|message| message.pointer("/message/params/request/url")?.as_str().map(str::to_owned));
        asked.filter(|asked| !asked.starts_with("chrome://")).collect()
    }

    fn of_session(&self, command: &str, body: &Value) -> Value {
        self.try_of_session(command, body).unwrap_or_else(|why| panic!("{}", self.with_log(&why)))
    }

    fn try_of_session(&self, command: &str, body: &Value) -> Result<Value, String> {
        self.ask("POST", &format!("/session/{}/{command}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = body.to_string();
        let mut connection = Connection::to(self.address);
        connection.stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        connection.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        ));
        let answer = connection.response();
        let value = answer.json()["value"].clone();
        if answer.status() == 200 { Ok(value) } else { Err(format!("{path} of {body}: {value}")) }
    }

    /// Adds the end of chromedriver's log.
    fn with_log(&self, why: &str) -> String {
        let log = std::fs::read(self.profile.path().join(LOG)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_END)..]).into_owned();
        format!("{why}\nthe end of chromedriver's log:\n{log}")
    }

    /// Prints what is visible, for a test that fails.
    fn tell(&self) {
        let script = json!({"script": "return [location.href, document.title, document.body.innerText]", "args": []});
        let shown = self.try_of_session("execute/sync", &script);
        let console = self.try_of_session("se/log", &json!({"type": "browser"}));
        eprintln!("the browser shows {shown:#?}\nits console has {console:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            if std::thread::panicking() {
                self.tell();
            }
            // chromedriver also ends its browser when it is killed.
            let _ = self.ask("DELETE", &format!("/session/{}", self.session), &json!({}));
        }
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
        // Its processes end a moment after it, and write until then.
        for _ in 0..CLEARED {
            match std::fs::remove_dir_all(self.profile.path()) {
                Err(error) if error.kind() != ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(100)),
                _ => break,
            }
        }
    }
}

//! The status page: one self-contained document, complete without a script.
//!
//! Changing parts are elements with `data-live` and an id; the script requests the page again every
//! few seconds and replaces those that differ. Numbers have room to grow, so that nothing jumps.

mod chart;
mod parts;
pub mod units;
mod verification;

use std::time::{Duration, SystemTime};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::status::{Flow, Status};
use crate::finding::Level;
use chart::{Chart, Series};
use units::{NOTHING, count, rate, seconds, span};

/// The style sheet. Like the script, it is allowed by its hash in the content security policy.
pub const STYLE: &str = include_str!("status.css");

/// Keeps the page up to date.
pub const SCRIPT: &str = include_str!("status.js");

/// Without the script the whole page is reloaded, less often.
const RELOAD_SECONDS: &str = "10";

/// The whole page.
pub fn page(status: &Status) -> Markup {
    let verdict = Verdict::of(status);
    let name = name(status);
    html! {
        (DOCTYPE)
        html lang="en" data-build=(format!("{} {}", status.program.version, status.program.commit)) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (verdict.mark()) " " (name) " · wp-jwt-sidecar" }
                link #icon data-live rel="icon" href=(verdict.icon());
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content=(RELOAD_SECONDS); }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top { (header(status, &name, &verdict)) }
                p #stale role="alert" hidden { "No answer from the sidecar since " span #since {} ". What you see is from then." }
                main #main {
                    @if let Some(view) = &status.verification { (verification::section(view)) }
                    (attention(status))
                    (traffic(status))
                    (charts(status))
                    div.columns {
                        (parts::latencies(status))
                        (parts::refusals(status))
                    }
                    (parts::health(status))
                    (parts::configuration(status))
                }
                footer {
                    p {
                        "The same for programs: " a href="status.json" { "status.json" } ", " a href="metrics" { "metrics" } ", "
                        a href="healthz" { "healthz" } ", " a href="readyz" { "readyz" } ". "
                        code { "wp-jwt-sidecar doctor" } " looks closer."
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// The overall state, in one word.
enum Verdict {
    Well,
    Warnings,
    Problems,
    Draining,
}

impl Verdict {
    fn of(status: &Status) -> Self {
        match status.findings.first().map(|finding| finding.level) {
            _ if status.program.draining => Verdict::Draining,
            Some(Level::Problem) => Verdict::Problems,
            Some(Level::Warning) => Verdict::Warnings,
            Some(Level::Ok) | None => Verdict::Well,
        }
    }

    fn class(&self) -> &'static str {
        match self {
            Verdict::Well => "well",
            Verdict::Warnings | Verdict::Draining => "warning",
            Verdict::Problems => "problem",
        }
    }

    fn words(&self) -> &'static str {
        match self {
            Verdict::Well => "All is well",
            Verdict::Warnings => "Needs attention",
            Verdict::Problems => "In trouble",
            Verdict::Draining => "Shutting down",
        }
    }

    /// For the title: short enough for a tab.
    fn mark(&self) -> &'static str {
        match self {
            Verdict::Well => "✓",
            Verdict::Warnings | Verdict::Draining => "!",
            Verdict::Problems => "✕",
        }
    }

    fn icon(&self) -> String {
        let colour = match self {
            Verdict::Well => "%231a7f4b",
            Verdict::Warnings | Verdict::Draining => "%23c27c0e",
            Verdict::Problems => "%23c8372d",
        };
        format!(
            "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='7' fill='{colour}'/></svg>"
        )
    }
}

/// The name of this sidecar among many.
fn name(status: &Status) -> String {
    let home = status.site.as_ref().and_then(|site| site.home.as_deref());
    let home = home.map(|home| home.split_once("://").map_or(home, |(_, rest)| rest));
    home.unwrap_or(&status.upstream.address).to_owned()
}

fn header(status: &Status, name: &str, verdict: &Verdict) -> Markup {
    let program = &status.program;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(program.now_unix_seconds);
    html! {
        div.who {
            p.product { "wp-jwt-sidecar" }
            h1 #name data-live { (name) }
        }
        div.state {
            p #verdict data-live .pill.(verdict.class()) role="status" { span.dot {} (verdict.words()) }
            p #uptime data-live .quiet {
                "up " (span(Duration::from_secs(program.uptime_seconds))) " · "
                span.clock title=(httpdate::fmt_http_date(now)) { (clock(program.now_unix_seconds)) " UTC" }
            }
        }
    }
}

fn attention(status: &Status) -> Markup {
    html! {
        section #attention data-live aria-labelledby="attention-title" {
            h2 #attention-title .hidden { "What needs attention" }
            @if status.findings.is_empty() {
                p.calm { "Nothing needs attention." }
            } @else {
                ul.findings {
                    @for finding in &status.findings {
                        li.(if finding.level == Level::Problem { "problem" } else { "warning" }) {
                            p.what {
                                span.area { (if finding.level == Level::Problem { "Problem" } else { "Warning" }) " · " (finding.area.title()) }
                                (sentence(&finding.what))
                            }
                            @if let Some(fix) = &finding.fix { p.fix { (in_code(fix)) } }
                            @if !finding.lines.is_empty() { pre tabindex="0" { (finding.lines.join("\n")) } }
                        }
                    }
                }
            }
        }
    }
}

/// Capitalised and with a full stop, unless it begins with the name of a key.
fn sentence(text: &str) -> String {
    let begins_with_key = text.split_whitespace().next().is_some_and(|word| word.contains('.'));
    let mut letters = text.chars();
    let first: String = match letters.next() {
        Some(first) if !begins_with_key => first.to_uppercase().collect(),
        first => first.into_iter().collect(),
    };
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

/// Text in backquotes becomes code.
fn in_code(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn traffic(status: &Status) -> Markup {
    let flow = |name: &str| status.traffic.iter().find(|flow| flow.name == name);
    let now = |flow: Option<&Flow>| flow.and_then(|flow| flow.per_second).map_or_else(|| NOTHING.to_owned(), rate);
    let hour = |flow: Option<&Flow>| format!("{} in the last hour", count(flow.map_or(0, |flow| flow.last_hour)));
    let p95 = |name: &str| {
        let latency = status.latencies.iter().find(|latency| latency.name == name);
        latency.and_then(|latency| latency.p95_seconds).map_or_else(|| NOTHING.to_owned(), seconds)
    };
    let errors: u64 = ["site_errors", "own_errors"].into_iter().filter_map(flow).map(|flow| flow.last_hour).sum();
    html! {
        section aria-labelledby="now-title" {
            h2 #now-title { "Now" }
            dl.tiles {
                (tile("tile-forwarded", "Forwarded", &now(flow("forwarded")), &hour(flow("forwarded")), "blue"))
                (tile("tile-refreshed", "Refreshed here", &now(flow("refreshed")), &hour(flow("refreshed")), "green"))
                (tile("tile-refused", "Refreshes refused", &now(flow("refused")), &hour(flow("refused")), "amber"))
                (tile("tile-errors", "Errors, last hour", &count(errors), "5xx, the site's and ours", if errors > 0 { "red" } else { "plain" }))
                (tile("tile-latency", "Refresh, 95 %", &p95("refresh"), &format!("forwarded {}", p95("forward")), "plain"))
                (tile("tile-open", "Connections", &count(status.open.connections),
                    &format!("{} requests, {} tunnels", count(status.open.requests), count(status.open.tunnels)), "plain"))
            }
        }
    }
}

fn tile(id: &str, name: &str, value: &str, more: &str, colour: &str) -> Markup {
    html! {
        div.tile.(colour) id=(id) data-live {
            dt { (name) }
            dd.value { (value) }
            dd.more { (more) }
        }
    }
}

fn charts(status: &Status) -> Markup {
    let now = |name: &str| status.traffic.iter().find(|flow| flow.name == name).and_then(|flow| flow.per_second);
    let p95 = |name: &str| {
        status.latencies.iter().find(|latency| latency.name == name).and_then(|latency| latency.p95_seconds)
    };
    let history = &status.history;
    let series = |name, colour, now, values| Series { name, colour, now, values };
    let charts = [
        Chart {
            id: "chart-forwarded",
            title: "Forwarded requests",
            series: vec![series("to the site", "blue", now("forwarded"), &history.forwarded)],
            unit: rate,
        },
        Chart {
            id: "chart-refreshes",
            title: "Refreshes",
            series: vec![
                series("answered", "green", now("refreshed"), &history.refreshed),
                series("refused", "amber", now("refused"), &history.refused),
            ],
            unit: rate,
        },
        Chart {
            id: "chart-latency",
            title: "Response time, 95th percentile",
            series: vec![
                series("refresh", "green", p95("refresh"), &history.refresh_p95),
                series("forwarded", "blue", p95("forward"), &history.forward_p95),
            ],
            unit: seconds,
        },
        Chart {
            id: "chart-errors",
            title: "Errors (5xx)",
            series: vec![
                series("the site's", "amber", now("site_errors"), &history.site_errors),
                series("the sidecar's", "red", now("own_errors"), &history.own_errors),
            ],
            unit: rate,
        },
    ];
    html! {
        section aria-labelledby="hour-title" {
            h2 #hour-title { "The last hour" }
            div.charts { @for chart in &charts { (chart.draw()) } }
        }
    }
}

/// `14:05:09` of a time since 1970.
fn clock(unix_seconds: u64) -> String {
    let second = unix_seconds % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_sentences() {
        for (text, written) in [
            ("the site is away", "The site is away."),
            ("refresh.mode is \"forward\"", "refresh.mode is \"forward\"."),
            ("Done!", "Done!"),
            ("", "."),
        ] {
            assert_eq!(sentence(text), written);
        }
    }

    #[test]
    fn commands_are_typed_as_they_are_and_nothing_gets_out_of_them() {
        assert_eq!(in_code("try `a <b>` now").into_string(), "try <code>a &lt;b&gt;</code> now");
    }

    #[test]
    fn clocks() {
        assert_eq!(
            (clock(0), clock(86_399), clock(1_795_419_561)),
            ("00:00:00".into(), "23:59:59".into(), "07:39:21".into())
        );
    }
}

//! The lower half of the page: tables and lists of facts.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use super::units::{NOTHING, bytes, count, seconds, span};
use crate::admin::status::{Dependency, Latency, Refused, Setting, Status, Store};

/// How long things took recently.
pub fn latencies(status: &Status) -> Markup {
    let name = |latency: &Latency| match latency.name {
        "refresh" => "Refresh, answered here",
        "forward" => "Forwarded, in all",
        "database" => "Database, one transaction",
        _ => "Forwarded, the site's part",
    };
    let value = |value: Option<f64>| value.map_or_else(|| NOTHING.to_owned(), seconds);
    html! {
        section aria-labelledby="latencies-title" {
            h2 #latencies-title { "How long it takes" }
            table #latencies data-live .card {
                caption { "To the head of the answer, in the last 5 minutes" }
                thead { tr {
                    th scope="col" { "What" }
                    th.number scope="col" { "50 %" } th.number scope="col" { "95 %" } th.number scope="col" { "99 %" }
                    th.number.wide scope="col" { "Number" }
                } }
                tbody {
                    @for latency in &status.latencies { tr {
                        th scope="row" { (name(latency)) }
                        td.number { (value(latency.p50_seconds)) }
                        td.number { (value(latency.p95_seconds)) }
                        td.number { (value(latency.p99_seconds)) }
                        td.number.wide { (count(latency.count)) }
                    } }
                }
            }
        }
    }
}

/// What was refused since the start, and why.
pub fn refusals(status: &Status) -> Markup {
    let seen: Vec<&Refused> = status.refusals.iter().filter(|refused| refused.total > 0).collect();
    html! {
        section aria-labelledby="refusals-title" {
            h2 #refusals-title { "What was refused" }
            table #refusals data-live .card {
                caption { "By the sidecar itself; what the site refused is the site's" }
                thead { tr {
                    th scope="col" { "Reason" } th.number scope="col" { "Status" }
                    th.number scope="col" { "Last hour" } th.number scope="col" { "In all" }
                } }
                tbody {
                    @if seen.is_empty() { tr { td.none colspan="4" { "Nothing since the start." } } }
                    @for refused in seen { tr {
                        th scope="row" { (reason(refused)) }
                        td.number { (refused.status.unwrap_or(NOTHING)) }
                        td.number { (count(refused.last_hour)) }
                        td.number { (count(refused.total)) }
                    } }
                }
            }
        }
    }
}

fn reason(refused: &Refused) -> String {
    let what = match refused.what {
        "refresh" => "Refresh",
        "connection" => "Connection",
        _ => "Request",
    };
    format!("{what}: {}", refused.reason.replace('_', " "))
}

/// One card for each dependency and its health.
pub fn health(status: &Status) -> Markup {
    html! {
        section aria-labelledby="health-title" {
            h2 #health-title { "What it stands on" }
            div.cards {
                @if let Some(database) = &status.database {
                    (dependency("database", "Database", database))
                }
                (dependency("upstream", "Web server of the site", &status.upstream))
                @if let Some(shared) = &status.store { (store(shared)) }
                (site(status))
                (network(status))
                (process(status))
                @if !status.certificates.is_empty() { (certificates(status)) }
            }
        }
    }
}

fn dependency(id: &str, title: &str, dependency: &Dependency) -> Markup {
    let ago = |seconds: f64| format!("{} ago", span(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))));
    let current = dependency.trouble.as_ref().filter(|trouble| trouble.current);
    let state = match (dependency.well, current) {
        (true, _) => ("well", "well"),
        (false, Some(_)) => ("problem", "away"),
        (false, None) => ("warning", "not seen lately"),
    };
    html! {
        div.card id=(id) data-live {
            h3 { (title) " " span.pill.small.(state.0) { span.dot {} (state.1) } }
            dl.facts {
                dt { "Address" } dd.long { (dependency.address) }
                dt { "Last seen" } dd { (dependency.seen_seconds_ago.map_or_else(|| "never".to_owned(), ago)) }
                @if let Some(trouble) = &dependency.trouble {
                    dt { @if trouble.current { "Away for" } @else { "Last trouble" } }
                    dd { @if trouble.current { (ago(trouble.began_seconds_ago).trim_end_matches(" ago")) } @else { (ago(trouble.found_seconds_ago)) } }
                    dt { "Reason" } dd.long { (trouble.error) }
                }
                @if let Some(node) = &dependency.node { dt { "Node" } dd.long { (node) } }
                @if let Some(tls) = &dependency.tls { dt { "TLS" } dd.long { (tls) } }
                dt { "Connections" }
                dd { (count(dependency.busy)) " in use, " (count(dependency.idle)) " idle"
                    @if let Some(limit) = dependency.limit { ", at most " (count(limit)) } }
            }
        }
    }
}

/// What several sidecars share.
fn store(store: &Store) -> Markup {
    let state = match (store.up, &store.trouble) {
        (true, _) => ("well", "well"),
        (false, Some(_)) => ("warning", "away"),
        (false, None) => ("plain", "not connected yet"),
    };
    html! {
        div.card #store data-live {
            h3 { "Shared store " span.pill.small.(state.0) { span.dot {} (state.1) } }
            dl.facts {
                dt { "Address" } dd.long { (store.address) }
                @if let Some(trouble) = &store.trouble { dt { "Reason" } dd.long { (trouble) } }
                dt { "Refreshes" } dd { @if store.up { "counted together" } @else { "counted by each sidecar on its own" } }
                dt { "Requests" }
                dd { (count(store.answered)) " answered, " (count(store.failed)) " failed, " (count(store.unasked)) " skipped" }
            }
        }
    }
}

fn site(status: &Status) -> Markup {
    let unknown = || NOTHING.to_owned();
    html! {
        div.card #site data-live {
            h3 { "Site " @match &status.site {
                Some(site) if site.native => span.pill.small.well { span.dot {} "refreshed here" },
                Some(_) => span.pill.small.warning { span.dot {} "left to WordPress" },
                None => span.pill.small.plain { span.dot {} "forwarding only" },
            } }
            dl.facts {
                @if let Some(site) = &status.site {
                    @if let Some(obstacle) = &site.obstacle { dt { "Why" } dd.long { (obstacle) } }
                    dt { "Home URL" } dd.long { (site.home.clone().unwrap_or_else(unknown)) }
                    dt { "Plugin" } dd.long { (site.plugin.clone().unwrap_or_else(unknown)) }
                    dt { "Signs with" } dd { (site.algorithm.clone().unwrap_or_else(unknown)) }
                    dt { "Table prefix" } dd { (site.table_prefix) }
                    dt { "Token index" }
                    dd { (match (site.indexed, site.map_filled) {
                        (Some(true), _) => "in the table",
                        (Some(false), true) => "none; the map in memory is filled",
                        (Some(false), false) => "none; the map in memory is being filled",
                        (None, _) => NOTHING,
                    }) }
                } @else {
                    dt { "Refreshes" } dd { "go to WordPress, as refresh.mode says" }
                }
            }
        }
    }
}

/// The sites of a network.
fn network(status: &Status) -> Markup {
    html! {
        @if let Some(network) = &status.network {
            div.card #network data-live {
                h3 { "Network " @match &network.obstacle {
                    Some(_) => span.pill.small.warning { span.dot {} "first site only" },
                    None => span.pill.small.well { span.dot {} (count(network.native)) " of " (count(network.in_use)) " in use refreshed here" },
                } }
                dl.facts {
                    dt { "Sites" } dd.long { (network.summary) }
                    dt { "In use" } dd { (count(network.in_use)) " besides the first in the last ten minutes" }
                    dt { "Tokens" } dd { (count(network.tokens)) " of theirs remembered" }
                    @for site in &network.listed {
                        dt { (site.place) }
                        dd.long { @match &site.obstacle {
                            Some(obstacle) => { "left to WordPress: " (obstacle) },
                            None => "refreshed here",
                        } }
                    }
                    @if network.in_use > network.listed.len() as u64 {
                        dt { "Others" } dd { (count(network.in_use - network.listed.len() as u64)) }
                    }
                }
            }
        }
    }
}

fn process(status: &Status) -> Markup {
    let (program, process, open) = (&status.program, &status.process, &status.open);
    let known = |value: Option<u64>, written: fn(u64) -> String| value.map_or_else(|| NOTHING.to_owned(), written);
    html! {
        div.card #process data-live {
            h3 { "Program" }
            dl.facts {
                dt { "Version" } dd.long { (program.version) @if program.commit != "unknown" { " (" (program.commit) ")" } }
                dt { "TLS" } dd.long { (program.tls) }
                dt { "Process" } dd { (program.pid) }
                dt { "Memory" } dd { (known(process.resident_bytes, bytes)) }
                dt { "Processor" } dd { (process.cpu_seconds.map_or_else(|| NOTHING.to_owned(), |used| format!("{} used", seconds(used)))) }
                dt { "Open files" } dd { (known(process.open_files, count)) " of " (known(process.max_open_files, count)) }
                dt { "Clients" } dd { (count(open.connections)) " of " (count(open.max_connections)) ", " (count(open.accepted)) " since the start" }
            }
        }
    }
}

fn certificates(status: &Status) -> Markup {
    html! {
        div.card #certificates data-live {
            h3 { "Certificates" }
            dl.facts {
                @for certificate in &status.certificates {
                    @let end = SystemTime::UNIX_EPOCH + Duration::from_secs(certificate.ends_unix_seconds);
                    dt.long { (certificate.name) " (" (certificate.kind) ")" }
                    dd title=(httpdate::fmt_http_date(end)) {
                        @if certificate.left_seconds == 0 { "ended" } @else { (span(Duration::from_secs(certificate.left_seconds))) " left" }
                    }
                }
            }
        }
    }
}

/// The keys that are set, and, folded, all others.
pub fn configuration(status: &Status) -> Markup {
    let (default, set): (Vec<&Setting>, Vec<&Setting>) =
        status.configuration.iter().partition(|setting| setting.from == "default");
    html! {
        section aria-labelledby="configuration-title" {
            h2 #configuration-title { "Configuration in force" }
            div #configuration data-live .card { (settings(&set, "Keys that are set")) }
            details.card {
                summary { "Defaults: " (default.len()) " more keys" }
                (settings(&default, "Keys that are not set"))
            }
        }
    }
}

fn settings(settings: &[&Setting], caption: &str) -> Markup {
    html! {
        table.settings {
            caption.hidden { (caption) }
            thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } th.wide scope="col" { "Said by" } } }
            tbody {
                @for setting in settings { tr {
                    th scope="row" { code { (setting.key) } }
                    td { code.long { (setting.value) } }
                    td.wide.quiet { (setting.from) }
                } }
            }
        }
    }
}

//! The first part of the page: who answers refreshes, and why.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use super::in_code;
use super::units::count;
use crate::verify::{View, ViewState};

pub fn section(view: &View) -> Markup {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(view.since_unix_seconds);
    let (class, whose) = match view.state {
        ViewState::Unverified => {
            ("warning", "WordPress has the refreshes until its answers prove that the sidecar's are the same.")
        }
        ViewState::Agrees => ("well", "Refreshes are answered here, and proven to be what WordPress would have done."),
        ViewState::Differs => {
            ("warning", "WordPress has the refreshes, since it does them differently than the sidecar would.")
        }
        ViewState::Closed => ("plain", "WordPress has the refreshes, since it refuses its REST API."),
        ViewState::Trusted => ("plain", "Refreshes are answered here, and nothing is verified."),
    };
    html! {
        section #verification data-live aria-labelledby="verification-title" {
            h2 #verification-title { "Verification of refreshes" }
            div.card.proof {
                h3 { (whose) " " span.pill.small.(class) { span.dot {} (view.state.name()) } }
                dl.facts {
                    @if let Some(difference) = &view.difference {
                        dt { @if view.state == ViewState::Closed { "Closed" } @else { "Difference" } }
                        dd.long { (difference) }
                    }
                    @if let Some(explanation) = &view.explanation {
                        dt { "To declare" }
                        dd {
                            (explanation.heading())
                            @if let Some(toml) = &explanation.toml { pre tabindex="0" { (toml) } }
                            @for remark in explanation.remarks() { p.long { (remark) } }
                        }
                    }
                    @if let Some(fix) = &view.fix { dt { "What to do" } dd { (in_code(fix)) } }
                    dt { "Since" } dd { (httpdate::fmt_http_date(since)) }
                    dt { "Compared" }
                    dd { (count(view.compared)) " responses of WordPress" @if let Some(progress) = view.progress() { "; " (progress) } }
                    @for origin in view.origin_lines() { dt { "Origin" } dd.long { (origin) } }
                    @for note in &view.notes { dt { "Note" } dd.long { (note) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::difference::{Difference, Kind};
    use crate::verify::verdict::Verdict;

    #[test]
    fn what_differs_is_said_and_nothing_gets_out_of_it() {
        let mut verdict = Verdict::new(20, 1_795_419_561);
        let page = section(&View::of(&verdict, None, true)).into_string();
        for part in ["unverified", "0 of 20 responses of WordPress agree", "23 Nov 2026 07:39:21 GMT"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        verdict.differ(Difference::new(Kind::Body, "body +<b> (string)"), 1_795_419_561);
        let page = section(&View::of(&verdict, None, true)).into_string();
        assert!(page.contains("body +&lt;b&gt; (string)") && page.contains("What to do"), "{page}");
    }
}

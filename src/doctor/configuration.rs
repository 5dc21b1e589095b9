//! The configuration: faults, warnings, and assumptions.

use crate::config::{Algorithm, Config, Faults, ForwardedMode, ListenAddress, RefreshMode};
use crate::finding::{Area, Finding};
use crate::refresh::replay::Reuse;
use crate::tls::Tls;
use crate::tls::certificates::{Warning, WarningKind};
use crate::wordpress::installation::Installation;

/// The id of [`certificates`]' finding about an expired one.
pub const CERTIFICATE_ENDED: &str = "certificates.ended";

/// Every fault as a finding of its own.
pub fn faults(faults: &Faults) -> Vec<Finding> {
    faults
        .0
        .iter()
        .map(|fault| {
            let (area, id) = match fault.key.as_str() {
                "wordpress.config" | "wordpress.import" => (Area::WpConfig, "wp_config.fault"),
                _ => (Area::Configuration, "configuration.fault"),
            };
            let fix = "Change it where it was said; config.example.toml explains every key.";
            Finding::problem(area, id, fault.to_string(), fix)
        })
        .collect()
}

/// What an operator should check, although everything works.
pub fn warnings(config: &Config) -> Vec<Finding> {
    let id = "configuration.warning";
    let mut findings: Vec<Finding> = config
        .warnings
        .iter()
        .map(|warning| {
            Finding::warning(Area::Configuration, id, warning.clone(), "Change the key, or leave it if it is meant so.")
        })
        .collect();
    if config.refresh.mode == RefreshMode::Forward {
        findings.push(Finding::warning(
            Area::Configuration,
            "configuration.mode",
            "refresh.mode is \"forward\": all refreshes are left to WordPress",
            "Remove it, or set \"native\", for the sidecar to answer refreshes itself.",
        ));
    }
    if config.forwarded.mode == ForwardedMode::Preserve {
        findings.push(Finding::warning(
            Area::ClientAddress,
            "client_address.preserve",
            "forwarded.mode is \"preserve\": X-Forwarded-For reaches WordPress as the client sent it, and the plugin \
             believes it, so that every client can dodge the rate limit",
            "Set forwarded.mode to \"auto\", unless a proxy in front replaces that field.",
        ));
    }
    findings.extend(without_trusted_proxy(config));
    findings
}

/// Behind a proxy on this machine every client has that proxy's address, unless the proxy is
/// trusted to name the client.
fn without_trusted_proxy(config: &Config) -> Option<Finding> {
    let all = config.server.listen.iter().chain(&config.tls.listen);
    let is_behind_a_proxy = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => address.ip().is_loopback(),
        ListenAddress::Unix(_) => true,
        // Only the socket unit knows the address.
        ListenAddress::Systemd(_) => false,
    };
    let only_local = all.into_iter().all(is_behind_a_proxy);
    (only_local && config.forwarded.trusted_proxies.is_empty()).then(|| {
        Finding::warning(
            Area::ClientAddress,
            "client_address.trusted_proxies",
            "the sidecar listens on this machine only, so a proxy must stand in front of it, but \
             forwarded.trusted_proxies is empty: all clients have one address and share one rate limit",
            "Name the proxy's address, and have it set X-Forwarded-For.",
        )
        .with_lines(["[forwarded]", "trusted_proxies = [\"127.0.0.1\", \"::1\"]"])
    })
}

/// What an operator should check about certificates for clients.
pub fn certificates(tls: &Tls) -> Vec<Finding> {
    let finding = |warning: Warning| {
        let (level, id, fix): (fn(_, _, _, _) -> _, _, _) = match warning.kind {
            WarningKind::Missing => (
                Finding::problem,
                "certificates.missing",
                "Put the files there, and let the sidecar's user read them; they are taken within seconds.",
            ),
            WarningKind::Early => {
                (Finding::problem, "certificates.early", "Correct the clock, or have the certificate made again.")
            }
            WarningKind::Ended => (
                Finding::problem,
                CERTIFICATE_ENDED,
                "Renew it; new files take effect within seconds, without a restart.",
            ),
            WarningKind::Nameless => {
                (Finding::warning, "certificates.nameless", "Have it made again with subjectAltName.")
            }
            WarningKind::Unused => {
                (Finding::warning, "certificates.unused", "Take one of the two out of tls.certificates.")
            }
        };
        level(Area::Configuration, id, warning.text, fix)
    };
    tls.warnings().into_iter().map(finding).collect()
}

/// How used tokens are handled. `algorithm` is the site's, if known. Pure.
pub fn used_tokens(reuse: &Reuse, algorithm: Option<Algorithm>) -> Finding {
    let id = "configuration.used_tokens";
    let what = reuse.describe(algorithm);
    let is_repeatable = !matches!(algorithm, Some(Algorithm::ES256 | Algorithm::ES384));
    match (reuse.interval.is_zero(), reuse.revoke_family) {
        (true, true) => Finding::warning(
            Area::Configuration,
            id,
            what,
            "Apps do send a token twice: two tabs, or an answer that was lost on its way. Set refresh.reuse_interval \
             to \"10s\" or more beside refresh.reuse_detection = \"revoke_family\".",
        ),
        (true, false) => Finding::ok(Area::Configuration, id, what).with_hint(
            "refresh.reuse_interval = \"10s\" serves them; WordPress itself answers both of two calls at the same instant.",
        ),
        (false, revokes) if !is_repeatable => {
            let hint = match revokes {
                true => "refresh.reuse_detection does not act within the interval, so a refused call revokes nothing. ",
                false => "",
            };
            Finding::ok(Area::Configuration, id, what).with_hint(format!(
                "{hint}With several sidecars, have the load balancer send a client to the same one; HS256, RS256 and \
                 EdDSA have no such limit."
            ))
        }
        (false, _) => Finding::ok(Area::Configuration, id, what),
    }
}

/// The assumptions about PHP's environment.
pub fn assumed(installation: &Installation) -> Vec<Finding> {
    installation
        .assumed
        .iter()
        .map(|assumption| {
            Finding::warning(
                Area::WpConfig,
                "wp_config.assumed",
                format!("assumed of wp-config.php, which is read and not run: {assumption}"),
                "Give the sidecar the same environment variables as PHP, or set the key that this is about; nothing \
                 has to be done if the assumption is right.",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::finding::Level;

    #[test]
    fn what_is_done_about_used_tokens_is_said_with_its_limits() {
        let found = |seconds, revoke_family, algorithm| {
            used_tokens(&Reuse { interval: Duration::from_secs(seconds), revoke_family }, Some(algorithm))
        };
        let usual = found(10, false, Algorithm::HS256);
        assert_eq!((usual.level, usual.fix), (Level::Ok, None));
        assert!(usual.what.contains("within 10s"), "{}", usual.what);
        assert!(found(0, false, Algorithm::HS256).fix.is_some_and(|fix| fix.contains("reuse_interval")));
        assert_eq!(found(0, true, Algorithm::HS256).level, Level::Warning, "an app that sends twice is logged out");
        assert_eq!(found(10, true, Algorithm::HS256).fix, None);
        for (revokes, says) in [(false, "load balancer"), (true, "reuse_detection does not act within")] {
            let random = found(10, revokes, Algorithm::ES256);
            assert_eq!(random.level, Level::Ok);
            assert!(random.what.contains("ES256 cannot be made again"), "{}", random.what);
            assert!(random.fix.as_ref().is_some_and(|fix| fix.contains(says)), "{:?}", random.fix);
        }
    }
}

//! Sites with their own code. The plugin's behaviour there was recorded, and the stand-in must
//! match the recording: only then do tests of a sidecar in front of such a site prove something.

mod further;
mod pattern;
mod replay;

use replay::Replay;

use crate::support::custom::CustomSites;

/// Directly, without a sidecar.
#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_answers_on_customized_sites_as_recorded() {
    let sites = CustomSites::start();
    let recorded = &sites.recorded().sites;
    let exchanges: usize = recorded.iter().map(|site| site.exchanges.len()).sum();
    let windows = recorded.iter().filter(|site| site.limit_window.is_some()).count();
    assert_eq!(
        (recorded.len(), exchanges, windows),
        (38, 195, 1),
        "fixtures/recorded-custom.json is not what was recorded"
    );

    let replay = Replay::of(&sites, sites.site().upstream());
    let mut complaints = Vec::new();
    for site in recorded {
        let said = replay.compare(site, site.php.as_deref()).await;
        if !said.is_empty() {
            complaints.push(format!("{} ({}):", site.name, site.what));
            complaints.extend(said);
        }
    }
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));

    // The comparison must be able to fail: without the site's code it must report what is missing.
    for (name, missed) in [
        ("role_member", "refresh_plain: members of body\n"),
        ("claim_before_sign", "refresh_login: members of claims\n"),
        ("claim_id_integer", "refresh_login: claims.data.user.id\n"),
        ("salt_filter", "refresh_plain: the hash fits the salt\n"),
        ("secret_filter", "refresh_plain: the row fits the unfiltered form\n"),
        ("refresh_lifetime", "login: refresh_token_expires_at\n"),
        ("refreshed_cookie", "refresh_login: names of headers, in order\n"),
        ("block_one_user", "refresh_plain_blocked: number of new token rows\n"),
        ("rest_closed", "refresh_plain: the old token is revoked\n"),
        ("ip_and_country", "refresh_unknown: country_code\n"),
        ("issuer_constant", "refresh_login: code of the validation\n"),
        ("rate_limit_no_headers", "series_3_unknown: status\n"),
    ] {
        let site = recorded.iter().find(|site| site.name == name).unwrap();
        let said = replay.compare(site, Some("<?php")).await.join("\n");
        assert!(said.contains(&format!("{name}, {missed}")), "not missed: {missed:?} in\n{said}");
    }
}

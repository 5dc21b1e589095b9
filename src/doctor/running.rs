//! The doctor's findings about a running sidecar, as far as it knows them without asking or reading
//! anything.

use super::configuration;
pub use super::configuration::{CERTIFICATE_ENDED, certificates};
use super::{keys, site};
use crate::config::Config;
use crate::finding::{Area, Finding, Level};
use crate::wordpress::installation::Installation;
use crate::wordpress::site::{Known, Sites};

/// The warnings and problems that are known without asking; cheap enough for each request of the
/// status page. `sites` is `None` if `[refresh] mode` is `forward`.
pub fn findings(config: &Config, sites: Option<&Sites>) -> Vec<Finding> {
    let mut findings = configuration::warnings(config);
    if let Some(sites) = sites {
        let (home_obstacle, hosts) = match sites.last_read() {
            Some(Ok(site)) => (sites.home_obstacle(&site), sites.named_hosts(&site)),
            _ => (None, Vec::new()),
        };
        if sites.is_database_away() {
            findings.push(Finding::problem(
                Area::Database,
                "database.reachable",
                "the database could not be read when it was last asked; what was known of the site serves meanwhile",
                "`wp-jwt-sidecar doctor` says why; the sidecar keeps trying.",
            ));
        }
        findings.extend(home_obstacle.as_ref().map(site::obstacle));
        findings.extend(hosts.iter().map(site::named_host));
        findings.extend(sites.clocks_apart().map(|apart| site::clocks(&apart)));
        findings.extend(of_site(config, sites.installation(), sites.last_read()));
    }
    findings.retain(|finding| finding.level != Level::Ok);
    findings.sort_by_key(|finding| (finding.area, std::cmp::Reverse(finding.level)));
    findings
}

fn of_site(config: &Config, installation: &Installation, known: Option<Known>) -> Vec<Finding> {
    let mut findings = configuration::assumed(installation);
    let algorithm = match &known {
        Some(Ok(site)) => Some(site.signer.algorithm()),
        _ => config.jwt.algorithm,
    };
    let secret = config.jwt.secret.as_ref().or(installation.jwt_secret.as_ref());
    findings.push(keys::signing_key(algorithm, secret, config.jwt.private_key.is_some()));
    findings.push(keys::salts(installation));
    if let Some(Err(obstacle)) = known {
        findings.push(site::obstacle(&obstacle));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Faults, Sources};
    use crate::wordpress::installation::installation;
    use crate::wordpress::site::NotNative;

    #[test]
    fn what_can_be_known_by_itself_is_told() -> Result<(), Faults> {
        let directory = tempfile::tempdir().unwrap();
        let wp_config = directory.path().join("wp-config.php");
        std::fs::write(
            &wp_config,
            "<?php define('DB_NAME','w'); define('DB_USER','w'); define('DB_PASSWORD','w'); define('DB_HOST','db'); \
             define('JWT_AUTH_SECRET_KEY','k4Jd-92'); $table_prefix = 'wp_';",
        )
        .unwrap();
        let file = directory.path().join("config.toml");
        let text = format!("upstream.url = \"http://127.0.0.1:8081\"\nwordpress.config = {wp_config:?}\n");
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&Sources { file: Some(file), ..Sources::default() })?;
        let installation = installation(&config.wordpress, &config.jwt, &|_| None)?;

        let found = of_site(&config, &installation, Some(Err(NotNative::Inactive.into())));
        let found: Vec<_> = found.iter().map(|finding| (finding.level, finding.id)).collect();
        let expected =
            [(Level::Warning, "keys.signing"), (Level::Warning, "keys.salts"), (Level::Problem, "plugin.active")];
        assert_eq!(found, expected);
        let found = findings(&config, None);
        assert_eq!(found.iter().map(|finding| finding.id).collect::<Vec<_>>(), ["client_address.trusted_proxies"]);
        Ok(())
    }
}

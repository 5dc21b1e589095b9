//! The further sites of a network: which can be refreshed natively, and the database user's
//! privileges on their tables.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Row;
use tokio::time::timeout;

use super::database::Server;
use super::rights::{self, Need};
use crate::client_addr::Scheme;
use crate::finding::{Area, Finding};
use crate::refresh::Refresher;
use crate::wordpress::database::{DatabaseError, Session, column};
use crate::wordpress::network::Known;
use crate::wordpress::network::blog::Blog;

/// How many sites are examined, the first ones by id.
const LOOKED_AT: usize = 20;

/// How long examining them may take: WordPress is asked once for each.
const LIMIT: Duration = Duration::from_secs(10);

/// Empty on a single site.
pub async fn look(refresher: &Arc<Refresher>) -> Vec<Finding> {
    let Some(blogs) = &refresher.blogs else { return Vec::new() };
    let known = blogs.network().current().await;
    let all = match &known {
        Known::All(all) => all,
        Known::Many => {
            return vec![Finding::ok(Area::Plugin, "site.network_sites", format!("The network has {known}"))];
        }
        Known::Unusable(_) => {
            let fix = "WordPress continues to answer for the other sites. They are refreshed natively once the reason is gone; what the \
                       database user may not read, the rights above say.";
            let what = format!("Of this network {known}");
            return vec![Finding::warning(Area::Plugin, "site.network_sites", what, fix)];
        }
    };
    let mut findings = vec![Finding::ok(Area::Plugin, "site.network_sites", format!("The network has {known}"))];
    let main = refresher.sites.installation().blog_id;
    let further: Vec<Arc<Blog>> =
        all.all().into_iter().filter(|blog| blog.id != main && blog.closed.is_none()).take(LOOKED_AT).collect();
    let mut lines = Vec::new();
    let mut native = 0;
    let looked = timeout(LIMIT, async {
        for blog in &further {
            let obstacle = obstacle(refresher, blog).await;
            native += usize::from(obstacle.is_none());
            lines.push(format!("{} {}: {}", blog.id, blog.place(), obstacle.as_deref().unwrap_or("native")));
        }
    });
    let is_whole = looked.await.is_ok();
    if further.is_empty() {
        return findings;
    }
    let (count, rest) = (lines.len(), if is_whole { "" } else { "; the others took too long to look at" });
    let what = format!("{native} of the first {count} further sites can be refreshed natively{rest}");
    findings.push(if native == count && is_whole {
        Finding::ok(Area::Plugin, "site.network_native", what).with_lines(lines)
    } else {
        let fix = "WordPress answers for those that are not native, as it did before there was a sidecar:";
        Finding::warning(Area::Plugin, "site.network_native", what, fix).with_lines(lines)
    });
    findings
}

/// The obstacle to native refreshes of `blog`, if any.
async fn obstacle(refresher: &Refresher, blog: &Arc<Blog>) -> Option<String> {
    let sites = refresher.sites.of_blog(Arc::clone(blog));
    let examined = match sites.examine().await {
        Ok(examined) => examined,
        Err(error) => return Some(format!("its settings cannot be read: {error}")),
    };
    if let Some(obstacle) = examined.obstacles.first() {
        return Some(obstacle.to_string());
    }
    let site = examined.site?;
    let scheme = if site.stored_home().starts_with("https:") { Scheme::Https } else { Scheme::Http };
    sites.wait_for_home(&site, &blog.domain, scheme).await;
    sites.home(&site, scheme).err().map(|why| why.to_string())
}

/// A query that generates the statements for the tables of all existing sites, of which there may
/// be thousands.
///
/// # Errors
/// The database's.
pub async fn rights(
    session: &mut Session<'_>,
    server: &Server,
    needs: &[Need],
    base_prefix: &str,
) -> Result<Finding, DatabaseError> {
    let id = "rights.network";
    // SECURITY: the prefix contains letters, digits and underscores only.
    let pattern = format!("{}%options", base_prefix.replace('_', "\\_"));
    let seen: Option<Row> = session
        .conn()
        .exec_first(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE ?",
            (pattern,),
        )
        .await?;
    let seen: u64 = seen.map_or(Ok(0), |mut row| column(&mut row, 0, "COUNT(*)"))?;
    let what = format!("{} can see the options of {seen} sites of the network", server.account);
    let hint = "For the tables of all further sites, let an administrator of the database run this query, and then the statements \
                that it prints; again when sites were added, which are WordPress's until then:";
    let account = if server.account.starts_with(rights::PROPOSED_USER) {
        rights::account(&server.account)
    } else {
        rights::proposed(server)
    };
    let query = rights::query_for_sites(&server.database, needs, base_prefix, &account);
    Ok(Finding::ok(Area::Rights, id, what).with_hint(hint).with_lines([query]))
}

//! Concludes a comparison after the response: reads the rows, and asks the web server if necessary.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::facts;
use super::headers::Change;
use super::judge::{self, Finding, Judged, Received};
use super::rows::{self, Sought, Wanted};
use super::token::Live;
use crate::admission::per_address::network;
use crate::client_addr::Client;
use crate::refresh::analytics::anonymized;
use crate::refresh::refresher::Refresher;
use crate::verify::difference::{Difference, Kind};
use crate::verify::explain::{Deviation, Sample};
use crate::verify::verdict::{Class, Observation};
use crate::wordpress::access_token::wp_hash;
use crate::wordpress::database::{ANSWER_LIMIT, DatabaseError};
use crate::wordpress::home::Home;
use crate::wordpress::site::Site;

/// How often missing rows are read again, and after which pause.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// Everything that is known of the call.
pub struct Concluding {
    pub refresher: Arc<Refresher>,
    pub site: Arc<Site>,
    pub home: Arc<Home>,
    pub client: Client,
    pub class: Class,
    pub live: Option<Live>,
    pub user_agent: String,
    pub has_cookies: bool,
}

/// The state of a token after WordPress's response.
enum Ended {
    /// It is live.
    No,
    /// It is revoked without a successor.
    Alone,
    /// It is revoked, and its family has a younger row.
    Succeeded,
}

impl Concluding {
    /// The observation, and the deviation if it may be declared.
    pub async fn conclude(self, judged: Judged, deviation: Option<Deviation>) -> (Observation, Option<Sample>) {
        let is_of_answer = matches!(judged, Judged::Found(_));
        let observed = self.observe(judged).await;
        let (Some(difference), Some(mut deviation), Some(live)) = (declarable(&observed), deviation, &self.live) else {
            return (observed, None);
        };
        if !is_of_answer {
            deviation.others.push(difference.what.clone());
        }
        let facts = facts::read(&self.refresher, &live.user).await;
        let sample = facts.map(|facts| Sample { facts, deviation, declared: Arc::clone(&self.site.declared) });
        (observed, sample)
    }

    async fn observe(&self, judged: Judged) -> Observation {
        let finding = match judged {
            Judged::Found(finding) => Some(finding),
            Judged::Session { ended, kept } => Some(match (self.session().await, ended) {
                // SECURITY: a client may log out while a firewall in front of WordPress refuses its
                // call.
                (Some(Ended::Alone), Finding::Differs(difference)) => Finding::Suspicious(difference),
                (Some(Ended::Alone | Ended::Succeeded), ended) => ended,
                (Some(Ended::No), _) => kept,
                (None, _) => Finding::Void,
            }),
            Judged::Agrees(received, unsure) => match self.fields(unsure).await {
                Some(finding) => Some(finding),
                None => self.rows(received).await,
            },
        };
        let user = self.live.as_ref().map(|live| live.user.id);
        match finding {
            None => Observation::Agrees { class: self.class, user },
            Some(Finding::Void) => Observation::Void,
            // A setting was changed meanwhile, which is not a difference.
            Some(_) if !self.is_site_the_same().await => Observation::Void,
            // SECURITY: users may change their own names between the sidecar's read and
            // WordPress's.
            Some(_) if !self.is_user_the_same().await => Observation::Void,
            Some(Finding::Differs(difference)) => Observation::Differs(difference),
            Some(Finding::Suspicious(difference)) => {
                Observation::Suspicious(difference, user.unwrap_or_else(|| self.client_number()))
            }
        }
    }

    /// Checks fields that the web server may have added.
    async fn fields(&self, unsure: Vec<Change>) -> Option<Finding> {
        if unsure.is_empty() {
            return None;
        }
        let surroundings = &self.refresher.comparisons.surroundings;
        match surroundings.without(&self.home, self.client.scheme, unsure).await {
            Some(left) if left.is_empty() => None,
            Some(left) => Some(judge::of_fields(&left, self.has_cookies)),
            None => Some(Finding::Void),
        }
    }

    async fn rows(&self, received: Option<Received>) -> Option<Finding> {
        // A refusal stores only its analytics.
        let (live, received) = self.live.as_ref().zip(received.as_ref())?;
        let address = self.client.address.to_string();
        let wanted = Wanted {
            times: &received.times,
            user_id: live.user.id,
            family: live.family.as_deref(),
            refresh_lifetime: self.site.settings.refresh_token_expiration,
            user_agent: &self.user_agent,
            ip_address: &address,
        };
        let hash = wp_hash(&received.access_token, &self.site.auth_salt);
        let sought =
            Sought { hash: &hash, refresh_token: &received.refresh_token, user_id: live.user.id, parent: live.id };
        let mut found = None;
        for look in 1..=LOOKS {
            match self.read_rows(&sought).await {
                Ok(read) => {
                    // On a cluster, the second of two writes may be visible before the first.
                    let is_whole = read.child.is_some() && read.is_parent_revoked != Some(false);
                    found = Some(read);
                    if is_whole {
                        break;
                    }
                }
                Err(error) => debug!(%error, "the rows of a refresh could not be read"),
            }
            if look < LOOKS {
                sleep(PAUSE).await;
            }
        }
        let Some(found) = found else { return Some(Finding::Void) };
        let finding = rows::judge(&found, &wanted);
        if finding.is_some() {
            return finding;
        }
        for column in found.child.iter().flat_map(|child| child.notes(&wanted)) {
            self.refresher.verification.note(format!("the column {column}"));
        }
        self.analytics(live).await
    }

    async fn analytics(&self, live: &Live) -> Option<Finding> {
        // Otherwise analytics are off.
        self.refresher.analytics.as_ref()?;
        for look in 1..=LOOKS {
            match self.read_event(live.id).await {
                Ok(Some(event)) => {
                    let settings = &self.site.settings;
                    let address = self.client.address;
                    let address = if settings.anonymize_ip { anonymized(address) } else { address };
                    if event.ip_address.as_deref() != Some(&*address.to_string()) {
                        self.refresher.verification.note("the column ip_address of analytics".to_owned());
                    }
                    if event.blog_id != self.refresher.sites.installation().blog_id {
                        self.refresher.verification.note("the column blog_id of analytics".to_owned());
                    }
                    return None;
                }
                Ok(None) => {}
                // The account must be able to write them, not to read them.
                Err(error) => {
                    debug!(%error, "the analytics of a refresh could not be read");
                    return None;
                }
            }
            if look < LOOKS {
                sleep(PAUSE).await;
            }
        }
        // Clients do not get analytics rows, and thousands of others may be written in between.
        self.refresher.verification.note("no row of analytics".to_owned());
        None
    }

    async fn read_rows(&self, sought: &Sought<'_>) -> Result<rows::Found, DatabaseError> {
        let store = &self.refresher.store;
        let mut session = store.database.session().await?;
        let asked = async {
            session.begin_at_writer().await?;
            let found = rows::read(store, &mut session, sought).await?;
            session.end_at_writer().await?;
            Ok(found)
        };
        let found = store.database.within(ANSWER_LIMIT, asked).await?;
        session.give_back();
        Ok(found)
    }

    async fn read_event(&self, parent: u64) -> Result<Option<rows::Event>, DatabaseError> {
        let store = &self.refresher.store;
        let analytics = format!("{}jwt_auth_analytics", self.refresher.sites.installation().table_prefix);
        let mut session = store.database.session().await?;
        let asked = async {
            session.begin_at_writer().await?;
            let event = rows::event(&mut session, &analytics, parent).await?;
            session.end_at_writer().await?;
            Ok(event)
        };
        let event = store.database.within(ANSWER_LIMIT, asked).await?;
        session.give_back();
        Ok(event)
    }

    /// What became of the live token; `None` if that is unknown.
    async fn session(&self) -> Option<Ended> {
        let store = &self.refresher.store;
        let live = self.live.as_ref()?;
        let mut session = store.database.session().await.ok()?;
        let asked = async {
            session.begin_at_writer().await?;
            let ended = match rows::is_revoked(store, &mut session, live.id).await? {
                Some(true) => {
                    let family = live.family.as_deref();
                    match rows::is_succeeded(store, &mut session, live.id, live.user.id, family).await? {
                        true => Some(Ended::Succeeded),
                        false => Some(Ended::Alone),
                    }
                }
                Some(false) => Some(Ended::No),
                None => None,
            };
            session.end_at_writer().await?;
            Ok(ended)
        };
        let ended = store.database.within(ANSWER_LIMIT, asked).await.ok()?;
        session.give_back();
        ended
    }

    /// Whether the site still has the settings of the comparison.
    async fn is_site_the_same(&self) -> bool {
        let Ok(examined) = self.refresher.sites.examine().await else { return true };
        examined.site.is_some_and(|site| {
            site.settings == self.site.settings
                && site.forms == self.site.forms
                && site.stored_home() == self.site.stored_home()
        })
    }

    /// Whether the values declared for the user are still the expected ones.
    async fn is_user_the_same(&self) -> bool {
        let Some(live) = self.live.as_ref().filter(|_| !self.site.declared.is_empty()) else { return true };
        let store = &self.refresher.store;
        let Ok(mut session) = store.database.session().await else { return false };
        let asked = async {
            session.begin_at_writer().await?;
            let user = store.user(&mut session, live.user.id).await?;
            session.end_at_writer().await?;
            Ok(user)
        };
        let Ok(Some(now)) = store.database.within(ANSWER_LIMIT, asked).await else { return false };
        session.give_back();
        match (self.site.values(&live.user), self.site.values(&now)) {
            (Ok(before), Ok(now)) => before == now,
            _ => false,
        }
    }

    /// Counts in place of a user if none is known.
    fn client_number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        network(self.client.address).hash(&mut hasher);
        hasher.finish()
    }
}

/// The response's difference, if it is of a kind that may be declared.
fn declarable(observed: &Observation) -> Option<&Difference> {
    match observed {
        Observation::Differs(difference) => {
            matches!(difference.kind, Kind::Body | Kind::Claim | Kind::Lifetime).then_some(difference)
        }
        // A value other than the declared one is only suspicious, since the user may just have
        // changed it.
        Observation::Suspicious(difference, _) => {
            matches!(difference.kind, Kind::Body | Kind::Claim).then_some(difference)
        }
        Observation::Agrees { .. } | Observation::Void => None,
    }
}

//! Replays all recorded exchanges of networks, and of a site with many hosts, through the sidecar:
//! responses and rows are as recorded, except for the sidecar's deliberate differences.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::compare::{self, Answered, TablesOf};
use super::expected::{ASKED_FOR, BY_WORDPRESS, NOT_MADE_AGAIN, RECORDED};
use super::made::{At, NetworkSite};
use super::recording::{Call, Check, Exchange, Flag, Network, Recorded, Said, UserFlag, What};
use crate::support::mariadb::{Token, TokenState};
use crate::support::raw::Connection;
use crate::support::secrets;
use crate::support::sidecar::Sidecar;

#[tokio::test(flavor = "multi_thread")]
async fn a_subdirectory_network_answers_as_recorded() {
    replay("network-subdirectory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subdomain_network_answers_as_recorded() {
    replay("network-subdomain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_the_plugin_on_some_sites_answers_as_recorded() {
    replay("network-per-blog-activation").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_of_many_hosts_answers_as_recorded() {
    replay("home-by-host").await;
}

#[test]
fn nothing_that_was_recorded_is_left_out() {
    let recorded = Recorded::read();
    let found: Vec<_> =
        recorded.networks.iter().map(|network| (network.name.as_str(), network.exchanges.len())).collect();
    assert_eq!(found, RECORDED, "fixtures/recorded-network.json is not what was recorded");
    assert_eq!(RECORDED.iter().map(|(_, count)| count).sum::<usize>(), 194);
    let names: BTreeSet<(&str, &str)> = recorded
        .networks
        .iter()
        .flat_map(|network| network.exchanges.iter().map(|exchange| (network.name.as_str(), exchange.name.as_str())))
        .collect();
    assert_eq!(names.len(), 194, "each has a name of its own");
    assert!(NOT_MADE_AGAIN.iter().all(|(network, name, _)| names.contains(&(network, name))));
    let mut listed = BY_WORDPRESS.iter().map(|(name, _)| *name).chain(ASKED_FOR);
    assert!(listed.all(|name| names.iter().any(|(_, known)| *known == name)));
}

/// Panics with everything that was not as recorded.
async fn replay(name: &str) {
    let recorded = Recorded::read();
    let network = recorded.network(name);
    let made = made(network).await;
    let mut replay = Replay {
        network,
        made: &made,
        sidecar: start(network, &made),
        now: State::default(),
        last: None,
        login: None,
        access_tokens: HashMap::new(),
        headers: &recorded.header_sets,
    };
    let is_left_out =
        |exchange: &&Exchange| NOT_MADE_AGAIN.iter().any(|(at, name, _)| *at == network.name && *name == exchange.name);
    let left_out = network.exchanges.iter().filter(is_left_out).count();
    let mut compared = 0;
    let mut complaints = Vec::new();
    for (number, exchange) in network.exchanges.iter().enumerate().filter(|(_, exchange)| !is_left_out(exchange)) {
        let found = replay.compare(number, exchange).await;
        complaints.extend(found.into_iter().map(|said| format!("{}, {}: {said}", network.name, exchange.name)));
        compared += 1;
    }
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));
    let (_, recorded) = RECORDED.iter().find(|(known, _)| *known == name).unwrap();
    assert_eq!(compared + left_out, *recorded);
}

async fn made(network: &Network) -> NetworkSite {
    if !network.hosts.is_empty() {
        let made = NetworkSite::of_one(&network.domain, network.config.as_deref().unwrap());
        made.make_recorded_users(false);
        made.tables(1).set_option("jwt_auth_pro_settings", network.sites[0].settings.as_ref().unwrap()).await;
        return made;
    }
    let further: Vec<At> =
        network.sites[1..].iter().map(|site| At(&site.domain, site.path.trim_end_matches('/'))).collect();
    let made = NetworkSite::bare(&network.domain, network.subdomains, &further, "");
    made.make_recorded_users(true);
    let active = network.exchanges.iter().find_map(|exchange| exchange.active.as_ref());
    match active {
        Some(active) => active.iter().for_each(|id| made.activate(*id, true)),
        None => made.activate_everywhere(),
    }
    for site in &network.sites {
        // The first call for this site is recorded.
        if network.exchanges[0].name.starts_with("nine_") && site.path == "/nine/" {
            continue;
        }
        made.visit(At(&site.domain, site.path.trim_end_matches('/')));
        let settings = site.settings.as_ref().or(network.sites[0].settings.as_ref()).unwrap();
        made.tables(site.id).set_option("jwt_auth_pro_settings", settings).await;
    }
    made
}

fn start(network: &Network, made: &NetworkSite) -> Sidecar {
    let hosts = network.hosts.join(",");
    // Without the reuse interval, which other tests cover.
    let mut arguments = vec!["--refresh-reuse-interval", "0s"];
    if !hosts.is_empty() {
        arguments.extend(["--wordpress-hosts", &hosts]);
    }
    made.sidecar(&arguments)
}

/// The site's current state.
#[derive(Default, Clone, PartialEq)]
struct State {
    flag: Option<Flag>,
    user_flag: Option<UserFlag>,
    active: Option<Vec<u64>>,
    dollar_host: bool,
}

struct Replay<'a> {
    network: &'a Network,
    made: &'a NetworkSite,
    sidecar: Sidecar,
    now: State,
    /// The token of the previous call, and the site whose table contains it.
    last: Option<(u64, Token)>,
    /// The refresh token from the previous call.
    login: Option<String>,
    /// The latest access tokens, by issuer.
    access_tokens: HashMap<String, String>,
    headers: &'a [Vec<(String, Option<String>)>],
}

impl Replay<'_> {
    async fn compare(&mut self, number: usize, exchange: &Exchange) -> Vec<String> {
        let user_flag = match &exchange.what {
            What::Call(call) => call.user_flag.clone(),
            _ => None,
        };
        // A state that the recording does not mention stays as it is.
        let active = exchange.active.clone().or_else(|| self.now.active.clone());
        let flag = exchange.flag.clone();
        self.become_as(State { flag, user_flag, active, dollar_host: exchange.dollar_host }).await;
        // Each call has a window of its own, except those that test the limit.
        let client = match exchange.name.starts_with("limit_") {
            true => Ipv4Addr::new(127, 2, 0, 1),
            false => Ipv4Addr::new(127, 1, 0, u8::try_from(number).unwrap() + 1),
        };
        match &exchange.what {
            What::Call(call) => {
                let is_asked_for = ASKED_FOR.contains(&&*exchange.name);
                let is_left = BY_WORDPRESS.iter().any(|(name, _)| *name == exchange.name);
                let by_php = !call.is_refresh() || is_left || is_asked_for;
                let mut found = self.compare_call(call, client, by_php).await;
                if is_asked_for {
                    found.extend(self.compare_once_asked_for(call).await);
                }
                found
            }
            What::Checks { checks } => checks.iter().flat_map(|check| self.check(check)).collect(),
            What::Windows { windows } => self.compare_windows(windows.keys(), client).await,
        }
    }

    /// Repeats the call until the sidecar answers it, each time as another client with a window of
    /// its own.
    async fn compare_once_asked_for(&mut self, call: &Call) -> Vec<String> {
        let mut found = Vec::new();
        for attempt in 1..=40 {
            found = self.compare_call(call, Ipv4Addr::new(127, 3, 0, attempt), false).await;
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        found
    }

    async fn compare_call(&mut self, call: &Call, client: Ipv4Addr, by_php: bool) -> Vec<String> {
        let at = self.network.site_at(&call.host, &call.path);
        let site = call.blog.unwrap_or(at);
        let network = self.made;
        if call.removed {
            network.site.php(&format!("remove_user_from_blog( {}, {site} );", call.user.unwrap()));
        }
        let user = call.user.unwrap_or(2);
        let insert = |state| async move { (site, network.tables(site).insert_token(state, user).await) };
        let sent = match &*call.token {
            "live" => Some(insert(TokenState::Live).await),
            "expired" => Some(insert(TokenState::Expired).await),
            "orphan" => Some(insert(TokenState::Orphan).await),
            "used" => self.last.take(),
            "login" => {
                let token = self.login.take().expect("a login before");
                Some((site, network.token_of(site, &token).await))
            }
            _ => None,
        };
        let tables = TablesOf::read(network, [site, at].into()).await;
        let mut found = tables.compare_names(network, call.tables_before.as_ref()).await;
        let reached = self.reached(call);
        let mut connection = Connection::from(client, self.sidecar.address());
        connection.send(self.request(call, sent.as_ref().map_or("", |(_, token)| &token.refresh_token)));
        let message = connection.response_to(call.method());

        let is_by_php = self.reached(call) > reached;
        if is_by_php != by_php {
            found.push(format!("answered by WordPress: {is_by_php}: {message:?}"));
        }
        let answered = Answered { call, message: &message, is_by_php };
        found.extend(answered.compare(self.headers));
        if let Some((table, token)) = &sent {
            let row = network.tables(*table).token_row(token.id).await;
            let revoked = row.map(|row| row.get("revoked_at").is_some());
            if revoked != call.revoked {
                found.push(format!("old token revoked: {revoked:?}"));
            }
        }
        found.extend(tables.compare_rows(network, call, client).await);
        found.extend(tables.compare_names(network, call.tables_after.as_ref()).await);
        let (access_token, refresh_token) = compare::pair(&message);
        if let (Some(access_token), Some(issuer)) = (access_token, &call.iss) {
            self.access_tokens.insert(issuer.clone(), access_token);
            if let Some(said) = &call.validate {
                found.extend(self.check(&Check { of: issuer.clone(), at: issuer.clone(), said: said.clone() }));
            }
        }
        self.login = refresh_token;
        self.last = sent;
        found
    }

    /// Asks the plugin, through the sidecar, about an access token.
    fn check(&self, Check { of, at, said }: &Check) -> Vec<String> {
        let bearer = self.access_tokens.get(of).expect("an access token of this issuer");
        let place = at.strip_prefix("http://").unwrap();
        let (host, path) = place.find('/').map_or((place, ""), |slash| place.split_at(slash));
        let mut connection = Connection::to(self.sidecar.address());
        connection.send(format!(
            "POST {path}/wp-json/jwt-auth/v1/token/validate HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {bearer}\r\n\
             Content-Length: 0\r\n\r\n"
        ));
        let answer = connection.response();
        let body = answer.json();
        let Said { status, code, message } = said;
        let found = (answer.status(), body["code"].as_str(), body["message"].as_str());
        let recorded = (*status, Some(code.as_str()), message.as_deref());
        if found == recorded { Vec::new() } else { vec![format!("{of} at {at}: {found:?}, recorded {recorded:?}")] }
    }

    /// A deliberate difference: the sidecar counts in memory, so that no call costs a row. The
    /// calls' own `remaining` shows that it counts as recorded.
    async fn compare_windows(&self, prefixes: impl Iterator<Item = &String>, client: Ipv4Addr) -> Vec<String> {
        let mut found = Vec::new();
        for prefix in prefixes {
            let rows = self
                .made
                .database
                .rows(&format!(
                    "SELECT option_name FROM {prefix}options WHERE option_name LIKE '%jwt_auth_rate_limit%' \
                     AND option_value LIKE '%\"{client}\"%'"
                ))
                .await;
            found.extend(
                rows.iter().map(|row| format!("{prefix}: a window in the database: {:?}", row.get("option_name"))),
            );
        }
        found
    }

    /// How many calls with this method and target have reached WordPress so far.
    fn reached(&self, call: &Call) -> usize {
        let line = format!("{} {}", call.method(), call.path);
        self.made.site.requests().iter().filter(|request| **request == line).count()
    }

    async fn become_as(&mut self, next: State) {
        if self.now == next {
            return;
        }
        let before = std::mem::replace(&mut self.now, next.clone());
        for (flag, value) in [(&before.flag, 0), (&next.flag, next.flag.as_ref().map_or(0, |flag| flag.value))] {
            if let Some(Flag { site, column, .. }) = flag {
                self.made.flag(*site, column, &format!("'{value}'")).await;
            }
        }
        for (flag, value) in [(&before.user_flag, 0), (&next.user_flag, 1)] {
            if let Some(UserFlag { user, column }) = flag {
                self.made.database.execute(&format!("UPDATE wp_users SET {column} = {value} WHERE ID = {user}")).await;
            }
        }
        let of = |active: &Option<Vec<u64>>| active.iter().flatten().copied().collect::<BTreeSet<u64>>();
        if before.active.is_some() {
            let (before, next) = (of(&before.active), of(&next.active));
            before.difference(&next).for_each(|id| self.made.activate(*id, false));
            next.difference(&before).for_each(|id| self.made.activate(*id, true));
        }
        if before.dollar_host != next.dollar_host {
            self.made.pass_dollar_host(next.dollar_host);
            // This simulates another web server.
            self.sidecar = start(self.network, self.made);
        }
        // What the sidecar has read about a site or the network is at most three seconds old.
        if before.flag != next.flag || before.active.is_some() && before.active != next.active {
            tokio::time::sleep(Duration::from_millis(3_500)).await;
        }
    }

    fn request(&self, call: &Call, token: &str) -> String {
        let body = call.body.as_deref().unwrap_or(r#"{"refresh_token":"{T}"}"#).replace("{T}", token);
        let body = if call.method() == "GET" { String::new() } else { body };
        let access_token = call.iss.as_ref().and_then(|issuer| self.access_tokens.get(issuer));
        let mut fields: Vec<(String, String)> = call
            .fields
            .iter()
            .map(|(name, value)| {
                (name.clone(), value.as_str().unwrap().replace("{A}", access_token.map_or("", |it| it)))
            })
            .collect();
        if let Some(user) = &call.cookie {
            let cookie = self.made.login_cookie(user);
            secrets::register(&cookie);
            fields.push(("Cookie".to_owned(), cookie));
        }
        if call.method() == "POST" {
            let content_type = call.content_type.as_deref().unwrap_or("application/json");
            fields.push(("Content-Type".to_owned(), content_type.to_owned()));
            fields.push(("Content-Length".to_owned(), body.len().to_string()));
        }
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n{body}", call.method(), call.path, call.host)
    }
}

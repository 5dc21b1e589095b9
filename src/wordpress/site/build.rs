//! Makes a site from its rows, or lists the obstacles.

use std::sync::{Arc, PoisonError};

use super::hosts::{Questions, authority_of};
use super::obstacle::path_of;
use super::rows::{Columns, Rows};
use super::{Makeup, NotNative, Site, Sites, StoredHome};
use crate::config::Secret;
use crate::declared;
use crate::route::{Permalinks, RouteForms};
use crate::wordpress::access_token::Signer;
use crate::wordpress::home::Home;
use crate::wordpress::installation::WpHome;
use crate::wordpress::options::{self, Settings};

impl Sites {
    pub(super) fn site(&self, rows: &Rows) -> Result<Site, NotNative> {
        let stored_home = self.installation.home.clone().unwrap_or_else(|| self.stored_home(rows));
        let home_host = url::Url::parse(&stored_home).ok().and_then(|home| home.host_str().map(str::to_owned));
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).home_host = home_host;
        self.main_blog()?;
        self.own_place(&stored_home)?;
        charset(rows)?;
        let plugin = plugin(rows)?;
        let settings = self.settings(rows)?;
        let columns = self.columns(rows)?;
        let signer = self.signer(&settings)?;
        let auth_salt = self.auth_salt(rows)?;
        let forms = RouteForms {
            home_path: path_of(&stored_home).to_owned(),
            permalinks: match rows.text("permalink_structure").unwrap_or_default() {
                structure if structure.is_empty() => Permalinks::Plain,
                structure if structure.starts_with("/index.php/") => Permalinks::PathInfo,
                _ => Permalinks::Pretty,
            },
        };
        let home = if self.installation.home.is_some() {
            StoredHome::Given(Arc::new(Home::new(stored_home, true, forms.permalinks)))
        } else {
            let depends_on_host = self.installation.wp_home == WpHome::Dynamic;
            let own = self.blog.as_ref().map(|blog| blog.domain.as_str());
            StoredHome::Stored(Questions::new(&stored_home, own, &forms, &self.hosts, depends_on_host))
        };
        let makeup = Makeup::of(rows, signer.fingerprint(&auth_salt));
        Ok(Site {
            settings,
            forms,
            signer,
            auth_salt,
            is_english: rows.is_english,
            columns,
            token_index: rows.token_index().map(str::to_owned),
            plugin: plugin.into(),
            makeup,
            declared: Arc::clone(&self.declared),
            roles: rows.option(&format!("{}user_roles", self.installation.table_prefix)).and_then(declared::role_names),
            home,
        })
    }

    /// All obstacles to native refreshes, while [`Sites::current`] stops at the first.
    pub(super) fn obstacles(&self, rows: &Rows) -> Vec<NotNative> {
        let settings = self.settings(rows);
        let signer = settings.as_ref().ok().map(|settings| self.signer(settings));
        [
            self.main_blog().err(),
            self.own_place(&self.stored_home(rows)).err(),
            charset(rows).err(),
            plugin(rows).err(),
            settings.err(),
            self.columns(rows).err(),
            signer.and_then(Result::err),
            self.auth_salt(rows).err(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn main_blog(&self) -> Result<(), NotNative> {
        self.installation.network.as_ref().map(|_| ()).map_err(|why| NotNative::OtherBlog(*why))
    }

    /// The home URL of a network's site is where the network has the site. If not, code that maps
    /// domains changes it.
    fn own_place(&self, stored_home: &str) -> Result<(), NotNative> {
        let Some(blog) = &self.blog else { return Ok(()) };
        let host = authority_of(stored_home);
        let without_www = |host: &str| host.strip_prefix("www.").unwrap_or(host).to_owned();
        let is_own = without_www(&host.to_ascii_lowercase()) == without_www(&blog.domain)
            && path_of(stored_home) == blog.path.trim_end_matches('/');
        if is_own { Ok(()) } else { Err(NotNative::Elsewhere(stored_home.to_owned(), blog.place())) }
    }

    pub(super) fn settings(&self, rows: &Rows) -> Result<Settings, NotNative> {
        let mut settings =
            options::settings(rows.option("jwt_auth_pro_settings")).map_err(understood("jwt_auth_pro_settings"))?;
        // The constant overrides the setting.
        settings.enable_cors = self.installation.cors_enable.unwrap_or(settings.enable_cors);
        if let Some(lifetime) = self.jwt.lifetime {
            settings.jwt_expiration = lifetime.as_secs();
        }
        Ok(settings)
    }

    fn columns(&self, rows: &Rows) -> Result<Columns, NotNative> {
        let table = format!("{}jwt_auth_tokens", self.installation.table_prefix);
        rows.columns().map_err(|why| NotNative::Table(table, why))
    }

    fn auth_salt(&self, rows: &Rows) -> Result<Secret, NotNative> {
        let (key, salt) = if self.installation.multisite {
            (rows.meta_secret("auth_key"), rows.meta_secret("auth_salt"))
        } else {
            (rows.secret("auth_key"), rows.secret("auth_salt"))
        };
        self.installation.salts.auth_salt(key.as_deref(), salt.as_deref()).ok_or(NotNative::Salt)
    }

    /// Making a signer reads a key; that happens when the algorithm changes, not every few seconds.
    fn signer(&self, settings: &Settings) -> Result<Arc<Signer>, NotNative> {
        let unusable = |why: String| NotNative::Algorithm(settings.signing_algorithm.clone(), why);
        let algorithm = match self.jwt.algorithm {
            Some(algorithm) => algorithm,
            None => settings
                .signing_algorithm
                .parse()
                .map_err(|_| unusable("not an algorithm that the sidecar has".into()))?,
        };
        let mut signers = self.signers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, signer)) = signers.as_ref()
            && *of == algorithm
        {
            return Ok(Arc::clone(signer));
        }
        let secret = self.jwt.secret.as_ref().or(self.installation.jwt_secret.as_ref());
        let signer = Signer::new(algorithm, secret, self.jwt.private_key.as_ref())
            .map_err(|error| unusable(error.to_string()))?;
        let signer = Arc::new(signer);
        *signers = Some((algorithm, Arc::clone(&signer)));
        Ok(signer)
    }

    /// `get_option('home')`: the constant wins, an empty option means `siteurl`.
    fn stored_home(&self, rows: &Rows) -> String {
        let option = match &self.installation.wp_home {
            WpHome::Known(url) => url.clone(),
            WpHome::NotDefined | WpHome::Dynamic => {
                rows.text("home").filter(|home| !home.is_empty()).or_else(|| rows.text("siteurl")).unwrap_or_default()
            }
        };
        option.trim_end_matches('/').to_owned()
    }
}

fn charset(rows: &Rows) -> Result<(), NotNative> {
    // Normalized like in _canonical_charset().
    let is_utf8 = |charset: &String| ["utf-8", "utf8"].iter().any(|name| charset.eq_ignore_ascii_case(name));
    rows.text("blog_charset")
        .filter(|charset| !is_utf8(charset))
        .map_or(Ok(()), |charset| Err(NotNative::Charset(charset)))
}

pub(super) fn plugin(rows: &Rows) -> Result<String, NotNative> {
    options::plugin_active(rows.option("active_plugins"), rows.meta("active_sitewide_plugins"))
        .map_err(understood("active_plugins"))?
        .ok_or(NotNative::Inactive)
}

fn understood(option: &'static str) -> impl Fn(options::OptionError) -> NotNative {
    move |error| NotNative::Option(option, error.to_string())
}

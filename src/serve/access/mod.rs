//! Who may see the pages, and who may act.
//!
//! On loopback nobody is asked. Elsewhere a token (typed in once, then a session's cookie, or sent
//! as `Authorization: Bearer`) or the header of a trusted proxy says who it is. Everything is
//! decided in one place ([`guard()`]) before any page is reached, and what changes something has to
//! show more: the right to act, a form made by a page of ours, and the same origin.

mod guard;
mod login;
mod sessions;
mod tokens;

pub(super) use guard::{ActForm, guard};
pub(super) use login::routes;
pub use tokens::TokenFileError;

use super::addresses::Network;
use super::config::ServeConfig;
use super::visitor::{Role, Visitor};
use crate::ops::token_buckets::TokenBuckets;
use sessions::Sessions;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tagstream_core::digest;
use tokens::Tokens;

/// The rules, and what is remembered of visitors.
pub(super) struct Access {
    hosts: Vec<String>,
    tokens: Option<Tokens>,
    sessions: Sessions,
    proxy_header: Option<String>,
    proxies: Vec<Network>,
    proxy_act: Vec<String>,
    https: bool,
    local_name: String,
    requests: TokenBuckets<String>,
    acts: TokenBuckets<String>,
    /// Makes form tokens of this process unlike those of any other.
    secret: [u8; 32],
}

impl Access {
    /// The rules of `config`, of pages served at `address`.
    ///
    /// # Errors
    /// [`TokenFileError`], which shows no token.
    pub(super) fn new(config: &ServeConfig, address: SocketAddr) -> Result<Self, TokenFileError> {
        let access = &config.access;
        let tokens = match access.token_file.as_str() {
            "" => None,
            path => Some(Tokens::open(path)?),
        };
        let port = address.port();
        let own = [address.to_string(), format!("localhost:{port}")];
        let bound = config.serve.bind.rsplit_once(':').map(|(host, _)| host);
        let bound = bound.filter(|host| !host.is_empty());
        let bound = bound.map(|host| format!("{host}:{port}"));
        let named = config.serve.hosts.iter().cloned();
        let networks = access.proxy_networks.iter();
        Ok(Access {
            hosts: own.into_iter().chain(bound).chain(named).collect(),
            tokens,
            sessions: Sessions::new(Duration::from_secs(access.session_hours * 3_600)),
            proxy_header: Some(access.proxy_header.clone()).filter(|name| !name.is_empty()),
            proxies: networks.filter_map(|text| Network::parse(text)).collect(),
            proxy_act: access.proxy_act.clone(),
            https: access.https,
            local_name: access.local_name.trim().to_owned(),
            requests: TokenBuckets::a_minute(access.requests_a_minute),
            acts: TokenBuckets::a_minute(access.acts_a_minute),
            secret: rand::random(),
        })
    }

    /// Whether everybody who reaches the pages may do everything.
    fn is_open(&self) -> bool {
        self.tokens.is_none() && self.proxy_header.is_none()
    }

    /// Whether `host`, as a browser sends it, is a name of these pages.
    fn is_ours(&self, host: &str) -> bool {
        let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let same = |own: &String| own.eq_ignore_ascii_case(host) || own.eq_ignore_ascii_case(bare);
        self.hosts.iter().any(same)
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.holds(peer))
    }

    /// What the forms of somebody must carry: nobody else's page can know it.
    fn form_token(&self, way: &str, name: &str) -> String {
        let mut hasher = Sha256::new();
        for part in [&self.secret[..], way.as_bytes(), name.as_bytes()] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        digest::hex(hasher.finalize())
    }

    fn visitor(&self, way: &str, name: &str, role: Role) -> Visitor {
        Visitor {
            name: name.to_owned(),
            role,
            known: way != "local",
            session: false,
            form_token: self.form_token(way, name),
        }
    }
}

/// Compares in a time that does not tell where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// Whether a name can stand in logs, in the registry's history and on labels.
fn is_name(name: &str) -> bool {
    let visible = |c: char| !c.is_control() && !c.is_whitespace();
    (1..=100).contains(&name.len()) && name.chars().all(visible)
}

//! Which internet addresses may be fetched from, and a resolver that hands out no others.

use super::fault::{NameError, Symptom, of_lookup};
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tagstream_core::config::{ConfigError, FetchConfig};

/// Whether `address` belongs to somebody on the public internet. Everything that is private, local,
/// shared, reserved, documentation, multicast or a tunnel to such a place is not. Addresses that
/// carry an IPv4 address for a translator (IPv4-mapped, NAT64) are judged by what they carry.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    // RFC 6890's registry of special-purpose addresses, and multicast.
    !matches!(
        address.octets(),
        [0 | 10 | 127 | 224..=255, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let carried = || {
        let [a, b] = segments[6].to_be_bytes();
        let [c, d] = segments[7].to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, ..] => carried(),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => carried(),
        // Protocol assignments with Teredo (2001::/23), documentation, 6to4, documentation
        // (3fff::/20).
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => {
            false
        }
        // Only 2000::/3 is assigned as global unicast: loopback, link-local, unique local and
        // multicast are elsewhere.
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

/// Which addresses the configuration allows.
#[derive(Debug, Clone)]
pub(super) struct AddressRule {
    allow_private: bool,
    networks: Vec<IpNet>,
}

impl AddressRule {
    pub(super) fn new(config: &FetchConfig) -> Result<Self, ConfigError> {
        let networks = config
            .allow_networks
            .iter()
            .map(|network| {
                network.parse().map_err(|_| ConfigError::BadValue {
                    key: "fetch.allow_networks".into(),
                    reason: format!("has {network:?}, which is not a network like `10.20.0.0/16`"),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(AddressRule {
            allow_private: config.allow_private_addresses,
            networks,
        })
    }

    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allow_private
            || is_public(address)
            || self
                .networks
                .iter()
                .any(|network| network.contains(&address.to_canonical()))
    }
}

/// What [`Lookup::lookup`] returns.
pub type LookupFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Names to addresses. The system's resolver, except in tests.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of `host`.
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0))
                .await?
                .map(|address| address.ip())
                .collect())
        })
    }
}

/// A name that leads to forbidden addresses only. Found in the sources of the HTTP client's error.
#[derive(Debug, thiserror::Error)]
#[error("the host resolves to {0}, which is not a public address")]
pub(super) struct ForbiddenAddress(pub IpAddr);

/// Names that are remembered because they had an address.
const NAMES: usize = 3;

/// A resolver that remembers what it could resolve, so that a name that fails can be told from a
/// resolver that does.
pub(super) struct Names {
    lookup: Arc<dyn Lookup>,
    resolved: Mutex<Vec<String>>,
}

impl Names {
    pub(super) fn new(lookup: Arc<dyn Lookup>) -> Self {
        Names {
            lookup,
            resolved: Mutex::default(),
        }
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let asked = without_dot(host);
        let all = self.lookup.lookup(asked).await.map_err(|error| NameError {
            symptom: of_lookup(&error),
            reason: error.to_string(),
        })?;
        if !all.is_empty() {
            let mut resolved = self.resolved.lock().unwrap_or_else(|e| e.into_inner());
            if !resolved.iter().any(|name| name == host) {
                resolved.truncate(NAMES - 1);
                resolved.insert(0, host.to_owned());
            }
        }
        Ok(all)
    }

    /// Whether names other than `host` that had an address still have one.
    pub(super) async fn others_resolve(&self, host: &str) -> bool {
        let others: Vec<String> = {
            let resolved = self.resolved.lock().unwrap_or_else(|e| e.into_inner());
            let others = resolved.iter().filter(|name| *name != host);
            others.cloned().collect()
        };
        for name in others {
            if self.resolve(&name).await.is_ok() {
                return true;
            }
        }
        false
    }
}

/// `localhost.` is `localhost` (RFC 6761), but the file that has its address rarely says so. Of
/// other names the dot at the end matters: no domain is searched for them.
fn without_dot(host: &str) -> &str {
    match host.strip_suffix('.') {
        Some(name) if name == "localhost" || name.ends_with(".localhost") => name,
        _ => host,
    }
}

/// Resolves names for the HTTP client. The client connects to what this returns and to nothing
/// else, so that a name that changes its address between check and use gains nothing.
pub(super) struct CheckedResolver {
    pub names: Arc<Names>,
    pub rule: AddressRule,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = Arc::clone(&self.names);
        let rule = self.rule.clone();
        Box::pin(async move {
            let all = names.resolve(name.as_str()).await?;
            let allowed: Vec<SocketAddr> = all
                .iter()
                .filter(|address| rule.allows(**address))
                .map(|address| SocketAddr::new(*address, 0))
                .collect();
            match (allowed.is_empty(), all.first()) {
                (false, _) => Ok(Box::new(allowed.into_iter()) as Addrs),
                (true, Some(first)) => Err(ForbiddenAddress(*first).into()),
                (true, None) => Err(NameError {
                    symptom: Symptom::NoSuchName,
                    reason: "the host has no address".into(),
                }
                .into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_can_be_allowed_by_itself() {
        let rule = AddressRule::new(&FetchConfig {
            allow_networks: vec!["10.20.0.0/16".into(), "fd00:1::/32".into()],
            ..FetchConfig::default()
        })
        .unwrap();
        for (address, allowed) in [
            ("10.20.255.1", true),
            ("::ffff:10.20.0.1", true),
            ("10.21.0.1", false),
            ("fd00:1::5", true),
            ("fd00:2::5", false),
            ("127.0.0.1", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(rule.allows(address.parse().unwrap()), allowed, "{address}");
        }
        let error = AddressRule::new(&FetchConfig {
            allow_networks: vec!["10.20.0.0".into()],
            ..FetchConfig::default()
        })
        .unwrap_err();
        assert!(error.to_string().contains("allow_networks"), "{error}");
    }

    #[test]
    fn ordinary_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.1.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}

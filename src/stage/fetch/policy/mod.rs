//! What a URI names, and whether the configuration allows it.

use super::address::AddressRule;
use super::error::Failure;
use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tagstream_core::address::Store;
use tagstream_core::config::{ConfigError, FetchConfig};
use tagstream_core::redact::trimmed;
use url::{Host, Url};

/// Schemes that can be fetched.
const SCHEMES: [&str; 7] = ["file", "s3", "gs", "az", "http", "https", "data"];

/// A URI taken apart and found allowed, as far as that can be told without touching anything.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CheckedUri {
    /// The URI itself holds the bytes.
    Data(String),
    /// A path whose real place has yet to be checked.
    File(PathBuf),
    /// Store, bucket or container, key (percent-decoded).
    Object {
        store: Store,
        bucket: String,
        key: String,
    },
    /// A web address; names have yet to be resolved and checked.
    Web(Url),
}

/// The rules of [`FetchConfig`], parsed.
///
/// ```
/// use tagstream::config::FetchConfig;
/// use tagstream::stage::fetch::{UriPolicy, check};
///
/// let mut config = FetchConfig::default();
/// config.allow_schemes = vec!["https".into()];
/// config.allow_hosts = vec!["*.example.org".into()];
/// let policy = UriPolicy::new(&config)?;
/// assert!(check(&policy, "https://images.example.org/a.jpg").is_ok());
/// assert!(check(&policy, "https://example.org.evil.net/a.jpg").is_err());
/// assert!(check(&policy, "file:///etc/passwd").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct UriPolicy {
    schemes: Vec<&'static str>,
    hosts: Vec<HostRule>,
    buckets: Vec<BucketRule>,
    folders: Vec<Folder>,
    pub(super) addresses: AddressRule,
}

#[derive(Debug, Clone, PartialEq)]
enum HostRule {
    Exact(String),
    /// Hosts below a domain, without the domain itself; begins with a dot.
    Below(String),
}

/// Allowed buckets: of one store or of any, one or all.
#[derive(Debug, Clone, PartialEq)]
struct BucketRule {
    store: Option<Store>,
    /// `None`: all.
    name: Option<String>,
}

/// An allowed folder, as configured and as it really is.
#[derive(Debug, Clone)]
struct Folder {
    configured: PathBuf,
    real: PathBuf,
    /// The file system that it was on.
    device: u64,
}

impl UriPolicy {
    /// Parses the rules.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for a scheme that is not known, a host that cannot be one, or a
    /// folder that is not there.
    pub fn new(config: &FetchConfig) -> Result<Self, ConfigError> {
        let bad = |key: &str, reason: String| ConfigError::BadValue {
            key: key.into(),
            reason,
        };
        let schemes = config
            .allow_schemes
            .iter()
            .map(|scheme| {
                SCHEMES
                    .into_iter()
                    .find(|known| known == scheme)
                    .ok_or_else(|| {
                        bad(
                            "fetch.allow_schemes",
                            format!("has {scheme:?}; known are {}", SCHEMES.join(", ")),
                        )
                    })
            })
            .collect::<Result<_, _>>()?;
        let hosts = config
            .allow_hosts
            .iter()
            .map(|rule| {
                HostRule::parse(rule).ok_or_else(|| {
                    let reason = "which is neither a host, nor a bucket, nor `*.` and a domain";
                    bad("fetch.allow_hosts", format!("has {rule:?}, {reason}"))
                })
            })
            .collect::<Result<_, _>>()?;
        let buckets = config
            .allow_buckets
            .iter()
            .map(|rule| {
                BucketRule::parse(rule).ok_or_else(|| {
                    let reason = "which is neither a bucket, nor `s3://bucket` (gs, az), nor `*`";
                    bad("fetch.allow_buckets", format!("has {rule:?}, {reason}"))
                })
            })
            .collect::<Result<_, _>>()?;
        let folders = config.allow_path_prefixes.iter().map(|f| Folder::open(f));
        let folders = folders.collect::<Result<_, _>>()?;
        Ok(UriPolicy {
            schemes,
            hosts,
            buckets,
            folders,
            addresses: AddressRule::new(config)?,
        })
    }

    /// Takes `uri` apart. Blanks and line ends around it do not count, as in browsers: exports of
    /// tables have them.
    pub(super) fn source(&self, uri: &str) -> Result<CheckedUri, Failure> {
        let uri = trimmed(uri);
        let scheme = uri
            .split_once(':')
            .map(|(scheme, _)| scheme.to_ascii_lowercase())
            .ok_or_else(|| Failure::BadUri("it has no scheme".into()))?;
        // All names of a store are allowed or forbidden as one.
        let store = Store::of_scheme(&scheme);
        let name = store.map_or(scheme.as_str(), |store| store.scheme());
        let Some(scheme) = SCHEMES.into_iter().find(|known| *known == name) else {
            return Err(Failure::BadUri(format!(
                "the scheme is not one of {}",
                SCHEMES.join(", ")
            )));
        };
        self.check_scheme(scheme)?;
        if scheme == "data" {
            return Ok(CheckedUri::Data(uri[5..].into()));
        }
        let url = Url::parse(uri).map_err(|e| Failure::BadUri(e.to_string()))?;
        if store == Some(Store::Az) && url.password().is_none() && !url.username().is_empty() {
            return Err(Failure::Forbidden(
                "a message cannot name an account; write az://container/key and configure \
                 `object_store.az.account_name`"
                    .into(),
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::Forbidden(
                "user names and passwords in URIs are refused; configure credentials".into(),
            ));
        }
        match store {
            Some(store) => self.object(store, &url),
            None if scheme == "file" => self.file(&url),
            None => {
                self.check_web(&url)?;
                Ok(CheckedUri::Web(url))
            }
        }
    }

    fn check_scheme(&self, scheme: &str) -> Result<(), Failure> {
        if self.schemes.contains(&scheme) {
            return Ok(());
        }
        Err(Failure::Forbidden(format!(
            "the scheme `{scheme}` is not in `fetch.allow_schemes`"
        )))
    }

    /// Checks a web address: the first one and every one it is redirected to.
    pub(super) fn check_web(&self, url: &Url) -> Result<(), Failure> {
        self.check_scheme(url.scheme())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::Forbidden(
                "user names and passwords in URIs are refused".into(),
            ));
        }
        // `url` has turned decimal, octal and hexadecimal forms of addresses into plain addresses.
        let address = match url.host() {
            None => return Err(Failure::BadUri("it has no host".into())),
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) => None,
        };
        self.check_host(url.host_str().unwrap_or_default())?;
        match address {
            Some(address) if !self.addresses.allows(address) => Err(Failure::Forbidden(format!(
                "{address} is not a public address, nor in `fetch.allow_networks`"
            ))),
            _ => Ok(()),
        }
    }

    fn check_host(&self, host: &str) -> Result<(), Failure> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if self.hosts.is_empty() || self.hosts.iter().any(|rule| rule.matches(host)) {
            return Ok(());
        }
        Err(Failure::Forbidden(
            "the host or bucket is not in `fetch.allow_hosts`".into(),
        ))
    }

    /// A bucket has to be named by somebody who configures: asking for one that a message names
    /// sends this machine to whoever gives out its credentials.
    fn check_bucket(&self, store: Store, bucket: &str) -> Result<(), Failure> {
        let listed = self.buckets.iter().any(|rule| rule.matches(store, bucket))
            || self.hosts.iter().any(|rule| rule.matches(bucket));
        if listed {
            return Ok(());
        }
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                store = store.scheme(),
                bucket,
                "a message names a bucket that is not in `fetch.allow_buckets`; such messages are \
                 dead letters"
            );
        }
        Err(Failure::Forbidden(
            "the bucket is not in `fetch.allow_buckets`".into(),
        ))
    }

    fn object(&self, store: Store, url: &Url) -> Result<CheckedUri, Failure> {
        let bucket = url.host_str().unwrap_or_default();
        if !is_bucket(bucket) {
            return Err(Failure::BadUri("it has no proper bucket name".into()));
        }
        if url.port().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(Failure::BadUri(
                "an object's URI has no port, query or fragment (write `?` and `#` in keys as %3F \
                 and %23)"
                    .into(),
            ));
        }
        self.check_bucket(store, bucket)?;
        let key = percent_encoding::percent_decode_str(url.path().trim_start_matches('/'))
            .decode_utf8()
            .map_err(|_| Failure::BadUri("the key is not UTF-8".into()))?;
        if key.is_empty() {
            return Err(Failure::BadUri("it has no key".into()));
        }
        Ok(CheckedUri::Object {
            store,
            bucket: bucket.into(),
            key: key.into(),
        })
    }

    fn file(&self, url: &Url) -> Result<CheckedUri, Failure> {
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Failure::BadUri(
                "a file's URI has no query or fragment (write `?` and `#` in names as %3F and %23)"
                    .into(),
            ));
        }
        let path = url
            .to_file_path()
            .map_err(|()| Failure::BadUri("it names no local path".into()))?;
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Failure::BadUri("the path contains a zero byte".into()));
        }
        let inside = |folder: &Folder| {
            path.starts_with(&folder.configured) || path.starts_with(&folder.real)
        };
        if path.components().any(|c| c == Component::ParentDir) || !self.folders.iter().any(inside)
        {
            return Err(Failure::Forbidden(
                "the path is not below one of `fetch.allow_path_prefixes`".into(),
            ));
        }
        Ok(CheckedUri::File(path))
    }

    /// Whether only listed hosts are allowed.
    pub(super) fn lists_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The allowed folder that `path` lies in.
    pub(super) fn folder(&self, path: &Path) -> Option<&Path> {
        let folder = self.folder_of(path)?;
        Some(&folder.configured)
    }

    fn folder_of(&self, path: &Path) -> Option<&Folder> {
        let inside = |folder: &&Folder| {
            path.starts_with(&folder.configured) || path.starts_with(&folder.real)
        };
        self.folders.iter().find(inside)
    }

    /// What has become of the allowed folder that `path` lies in, if it is not what it was when
    /// the process started.
    pub(super) fn changed_folder(&self, path: &Path) -> Option<String> {
        let folder = self.folder_of(path)?;
        let shown = folder.configured.display();
        match folder.configured.metadata() {
            Ok(now) if now.dev() == folder.device => None,
            Ok(_) => Some(format!(
                "{shown} is on another file system than at the start"
            )),
            Err(error) => Some(format!("{shown}: {error}")),
        }
    }

    /// Whether a path without links and dots lies in an allowed folder.
    pub(super) fn allows_real_path(&self, real: &Path) -> bool {
        self.folders
            .iter()
            .any(|folder| real.starts_with(&folder.real))
    }
}

fn is_bucket(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=222).contains(&name.len()) && name.chars().all(plain) && !name.contains("..")
}

impl BucketRule {
    fn parse(rule: &str) -> Option<Self> {
        let (store, name) = match rule.split_once("://") {
            Some((scheme, name)) => (Some(Store::of_scheme(scheme)?), name),
            None => (None, rule),
        };
        match name {
            "*" => Some(BucketRule { store, name: None }),
            name => is_bucket(name).then(|| BucketRule {
                store,
                name: Some(name.into()),
            }),
        }
    }

    fn matches(&self, store: Store, bucket: &str) -> bool {
        self.store.is_none_or(|own| own == store)
            && self
                .name
                .as_ref()
                .is_none_or(|name| name.eq_ignore_ascii_case(bucket))
    }
}

impl Folder {
    fn open(folder: &str) -> Result<Self, ConfigError> {
        let bad = |what: String| ConfigError::BadValue {
            key: "fetch.allow_path_prefixes".into(),
            reason: format!("has {folder:?}{what}"),
        };
        let configured = PathBuf::from(folder);
        let failed = |e: std::io::Error| bad(format!(": {e}"));
        let real = configured.canonicalize().map_err(failed)?;
        if !configured.is_absolute() || !real.is_dir() {
            return Err(bad(", which is not the absolute path of a folder".into()));
        }
        let device = real.metadata().map_err(failed)?.dev();
        Ok(Folder {
            configured,
            real,
            device,
        })
    }
}

impl HostRule {
    fn parse(rule: &str) -> Option<Self> {
        let (domain, below) = match rule.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (rule, false),
        };
        // In addresses an IPv6 address stands in brackets; people write it with and without.
        let host = match domain.parse::<Ipv6Addr>() {
            Ok(address) => Host::Ipv6(address),
            Err(_) => Host::parse(domain).ok()?,
        };
        // Buckets may have underscores and capitals; what is left must be a host.
        let host = match host {
            Host::Domain(domain) => domain,
            address if below => {
                let _ = address;
                return None;
            }
            address => address.to_string(),
        };
        let host = host.strip_suffix('.').unwrap_or(&host);
        if host.is_empty() || host.contains('*') {
            return None;
        }
        Some(if below {
            HostRule::Below(format!(".{host}"))
        } else {
            HostRule::Exact(host.into())
        })
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            HostRule::Exact(allowed) => host.eq_ignore_ascii_case(allowed),
            HostRule::Below(domain) => {
                host.len() > domain.len()
                    && host
                        .get(host.len() - domain.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(domain))
            }
        }
    }
}

/// Takes `uri` apart under `policy` and throws the result away: what the fuzzer calls.
///
/// # Errors
/// The kind of dead letter that the URI makes.
pub fn check(policy: &UriPolicy, uri: &str) -> Result<(), tagstream_core::events::DeadLetterKind> {
    policy
        .source(uri)
        .map(drop)
        .map_err(|failure| match failure {
            Failure::Forbidden(_) => tagstream_core::events::DeadLetterKind::ForbiddenUri,
            _ => tagstream_core::events::DeadLetterKind::BadUri,
        })
}

#[cfg(test)]
mod tests;

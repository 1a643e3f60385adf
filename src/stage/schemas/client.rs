//! The schema registry: what it is asked, and what is remembered of its answers.
//!
//! A schema never changes, so each is fetched once. Whoever meets a schema while it is being asked
//! for waits for that answer, and a question that failed a moment ago is not asked again.

use super::{MessageSchema, SchemaId};
use reqwest::StatusCode;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tagstream_core::config::{ConfigError, SchemaRegistryConfig, Secret};
use tagstream_core::redact::redact_place;
use tagstream_core::tls;
use tokio::time::Instant;
use url::Url;

/// One request may take this long.
const REQUEST: Duration = Duration::from_secs(10);
/// For so long a question that failed is not asked again.
const FAILED_JUST_NOW: Duration = Duration::from_millis(500);
/// Most schemas that are remembered; more are asked for again.
const MOST: usize = 4_096;
/// Most schemas that one schema may use, all together.
const REFERENCES: usize = 256;
/// Longest answer, bytes.
const LONGEST: usize = 16 << 20;
/// What an answer may be, as the interface names it.
const ACCEPT: &str = "application/vnd.schemaregistry.v1+json, application/json";

/// Why there is no schema. No message is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaRegistryError {
    /// It does not answer, or has troubles of its own.
    #[error("the schema registry at {url} cannot be reached: {reason}")]
    Unreachable {
        /// The registry.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It does not let us in.
    #[error(
        "the schema registry at {url} answers {status}: `source.registry.user` and `password`, or \
         `token`, have to be what it knows"
    )]
    Refused {
        /// The registry.
        url: String,
        /// Its answer.
        status: u16,
    },
    /// What answers is something else.
    #[error(
        "what answers at {url} is no schema registry ({reason}): `source.registry.url` names one, \
         with the path below which it has `/schemas`"
    )]
    NoRegistry {
        /// The address.
        url: String,
        /// What tells it.
        reason: String,
    },
    /// It does not know the id in a message's frame.
    #[error(
        "the schema registry at {url} has no schema {id}: it is another one than the producer's, \
         or the message is framed wrongly (`source.registry.unknown_id` says what becomes of such \
         messages)"
    )]
    UnknownId {
        /// The registry.
        url: String,
        /// The number, or the GUID.
        id: SchemaId,
    },
}

/// A registry's answer about a schema.
#[derive(Debug, Deserialize)]
pub(super) struct Registered {
    pub(super) schema: String,
    #[serde(rename = "schemaType", default)]
    pub(super) kind: String,
    #[serde(default)]
    references: Vec<Reference>,
}

impl Registered {
    pub(super) fn alone(kind: &str, schema: String) -> Self {
        Registered {
            schema,
            kind: kind.to_owned(),
            references: Vec::new(),
        }
    }
}

/// A schema that another one uses.
#[derive(Debug, Clone, Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

/// A registry's answer about something that it does not have.
#[derive(Debug, Deserialize)]
struct Missing {
    #[serde(rename = "error_code")]
    code: u32,
}

/// What is shown to a registry that asks for a certificate; or which key is wrong, and why.
fn identity(
    certificate: &[u8],
    key: &[u8],
) -> Result<reqwest::Identity, (&'static str, &'static str)> {
    let has = |pem: &[u8], word: &[u8]| pem.windows(word.len()).any(|some| some == word);
    if !has(certificate, b"-BEGIN CERTIFICATE-") {
        return Err(("certificate_file", "holds no certificate in PEM"));
    }
    if has(key, b"ENCRYPTED") {
        let reason = "holds a key with a password, which is not asked for: `openssl pkey` writes \
                      it without one";
        return Err(("key_file", reason));
    }
    if !has(key, b"PRIVATE KEY-") {
        return Err(("key_file", "holds no private key in PEM"));
    }
    // What the library says of a key is not repeated: it may hold a part of it.
    reqwest::Identity::from_pem(&[certificate, b"\n", key].concat()).map_err(|_| {
        (
            "key_file",
            "holds no key that `certificate_file` could go with",
        )
    })
}

enum Login {
    None,
    Basic(String, Secret),
    Bearer(Secret),
}

/// A schema registry, and what is known of its schemas.
pub struct SchemaRegistry {
    client: reqwest::Client,
    url: Url,
    login: Login,
    known: Mutex<HashMap<SchemaId, Arc<MessageSchema>>>,
    failed: Mutex<HashMap<SchemaId, (Instant, SchemaRegistryError)>>,
    /// Held by who asks.
    asking: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.place();
        f.debug_struct("SchemaRegistry").field("url", &url).finish()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SchemaRegistry {
    /// The registry of the configuration; `None` if it names none.
    ///
    /// # Errors
    /// [`ConfigError`] for an address that is none, and a file of certificates that cannot be read.
    pub fn new(config: &SchemaRegistryConfig) -> Result<Option<Self>, ConfigError> {
        if config.url.is_empty() {
            return Ok(None);
        }
        let bad = |key: &str, reason: String| ConfigError::BadValue {
            key: format!("source.registry.{key}"),
            reason,
        };
        let url = Url::parse(&config.url);
        let mut url = url.map_err(|e| bad("url", format!("is no address: {e}")))?;
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        let mut client = tls::http_client().timeout(REQUEST);
        let read = |key: &str, path: &str| {
            std::fs::read(path).map_err(|e| bad(key, format!("cannot be read: {e}")))
        };
        if !config.ca_file.is_empty() {
            let pem = read("ca_file", &config.ca_file)?;
            let none = || bad("ca_file", "holds no certificate in PEM".into());
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| none())?;
            if all.is_empty() {
                return Err(none());
            }
            for certificate in all {
                client = client.add_root_certificate(certificate);
            }
        }
        if !config.certificate_file.is_empty() {
            let certificate = read("certificate_file", &config.certificate_file)?;
            let key = read("key_file", &config.key_file)?;
            let identity = identity(&certificate, &key);
            client = client.identity(identity.map_err(|(key, why)| bad(key, why.into()))?);
        }
        let login = match (config.user.as_str(), config.token.expose()) {
            ("", "") => Login::None,
            ("", _) => Login::Bearer(config.token.clone()),
            (user, _) => Login::Basic(user.to_owned(), config.password.clone()),
        };
        Ok(Some(SchemaRegistry {
            client: client.build().map_err(|e| bad("url", why(&e)))?,
            url,
            login,
            known: Mutex::default(),
            failed: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }))
    }

    /// Its address, as it may be printed.
    fn place(&self) -> String {
        redact_place(self.url.as_str().trim_end_matches('/'))
    }

    /// The schema of this id, if it was asked for before.
    pub fn known(&self, id: SchemaId) -> Option<Arc<MessageSchema>> {
        locked(&self.known).get(&id).cloned()
    }

    /// The schema of this id. Asks once; whoever waits asks again.
    ///
    /// # Errors
    /// [`SchemaRegistryError`].
    pub async fn schema(&self, id: SchemaId) -> Result<Arc<MessageSchema>, SchemaRegistryError> {
        if let Some(known) = self.known(id) {
            return Ok(known);
        }
        let came = Instant::now();
        let _asking = self.asking.lock().await;
        if let Some(known) = self.known(id) {
            return Ok(known);
        }
        if let Some((at, error)) = locked(&self.failed).get(&id)
            && (*at >= came || at.elapsed() < FAILED_JUST_NOW)
        {
            return Err(error.clone());
        }
        match self.fetch(id).await {
            Ok(schema) => {
                let schema = Arc::new(schema);
                let mut known = locked(&self.known);
                if known.len() >= MOST {
                    known.clear();
                }
                known.insert(id, Arc::clone(&schema));
                locked(&self.failed).remove(&id);
                Ok(schema)
            }
            Err(error) => {
                let mut failed = locked(&self.failed);
                if failed.len() >= MOST {
                    failed.clear();
                }
                failed.insert(id, (Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn fetch(&self, id: SchemaId) -> Result<MessageSchema, SchemaRegistryError> {
        let by = match id {
            SchemaId::Number(_) => "ids",
            SchemaId::Guid(_) => "guids",
        };
        let Some(registered) = self.ask(&format!("schemas/{by}/{id}")).await? else {
            let url = self.place();
            return Err(SchemaRegistryError::UnknownId { url, id });
        };
        let mut used = Used::default();
        self.collect(&registered.references, &mut used).await?;
        Ok(match used.fault {
            None => MessageSchema::of(id, registered, used.texts),
            Some(fault) => MessageSchema::unusable(id, fault),
        })
    }

    /// The texts of `references` and of those that they use, each behind what it uses.
    async fn collect(
        &self,
        references: &[Reference],
        used: &mut Used,
    ) -> Result<(), SchemaRegistryError> {
        for reference in references {
            if !used.seen.insert(reference.name.clone()) {
                continue;
            }
            if used.seen.len() > REFERENCES {
                used.fault = Some(format!("it uses more than {REFERENCES} others"));
                return Ok(());
            }
            let subject = percent_encoding::utf8_percent_encode(
                &reference.subject,
                percent_encoding::NON_ALPHANUMERIC,
            );
            // One that was deleted since may still be used.
            let version = reference.version;
            let path = format!("subjects/{subject}/versions/{version}?deleted=true");
            let Some(registered) = self.ask(&path).await? else {
                let subject = &reference.subject;
                used.fault = Some(format!(
                    "it uses version {version} of {subject:?}, which the registry does not have"
                ));
                return Ok(());
            };
            Box::pin(self.collect(&registered.references, used)).await?;
            let text = registered.schema;
            used.texts.push((reference.name.clone(), text));
        }
        Ok(())
    }

    /// What the registry says of a schema; `None` if it says that it has none.
    async fn ask(&self, path: &str) -> Result<Option<Registered>, SchemaRegistryError> {
        let unreachable = |mut reason: String| {
            // The alert's name in TLS.
            if reason.contains("CertificateRequired") {
                reason += ": it asks for a certificate, which `source.registry.certificate_file` \
                           and `key_file` name";
            }
            SchemaRegistryError::Unreachable {
                url: self.place(),
                reason,
            }
        };
        let no_registry = |reason: String| SchemaRegistryError::NoRegistry {
            url: self.place(),
            reason,
        };
        let url = self.url.join(path);
        let url = url.map_err(|e| unreachable(e.to_string()))?;
        let request = self.client.get(url).header("Accept", ACCEPT);
        let request = match &self.login {
            Login::None => request,
            Login::Basic(user, password) => request.basic_auth(user, Some(password.expose())),
            Login::Bearer(token) => request.bearer_auth(token.expose()),
        };
        let answer = request.send().await.map_err(|e| unreachable(why(&e)))?;
        let status = answer.status();
        let body = body_of(answer).await.map_err(unreachable)?;
        match status {
            StatusCode::NOT_FOUND => match serde_json::from_slice::<Missing>(&body) {
                // 404 itself is what it says of paths that it does not have.
                Ok(missing) if missing.code != 404 => Ok(None),
                _ if path.starts_with("schemas/guids/") => Err(no_registry(format!(
                    "it answers {status}, or knows no GUIDs yet"
                ))),
                _ => Err(no_registry(format!("it answers {status}"))),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(SchemaRegistryError::Refused {
                url: self.place(),
                status: status.as_u16(),
            }),
            _ if !status.is_success() => Err(unreachable(format!("it answers {status}"))),
            _ => match serde_json::from_slice(&body) {
                Ok(registered) => Ok(Some(registered)),
                Err(_) => Err(no_registry("its answer holds no `schema`".into())),
            },
        }
    }
}

/// Schemas that one schema uses.
#[derive(Default)]
struct Used {
    texts: Vec<(String, String)>,
    seen: HashSet<String>,
    /// Why they are of no use.
    fault: Option<String>,
}

async fn body_of(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|e| why(&e))? {
        body.extend_from_slice(&part);
        if body.len() > LONGEST {
            return Err(format!("its answer has more than {LONGEST} bytes"));
        }
    }
    Ok(body)
}

/// An HTTP error's last reason, without the address.
fn why(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    match error.is_timeout() {
        true => format!("no answer within {} s", REQUEST.as_secs()),
        false => reason.to_string(),
    }
}

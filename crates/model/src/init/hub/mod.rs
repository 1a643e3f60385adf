//! Weights from the Hugging Face hub, through the same cache that its own tools use.
//!
//! Honours `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and `HF_TOKEN`. Only the
//! files that a layout needs are fetched; those the hub gives a SHA-256 for are checked against it.

use super::ClipFolder;
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tagstream_core::config::Secret;
use tagstream_core::digest;
use tagstream_core::process::blocking;
use tagstream_core::redact::redact;
use tagstream_core::storage::atomic;
use tagstream_core::storage::atomic::AtomicFile;
use tagstream_core::tls::http_client;
use tokio::io::AsyncWriteExt;

/// Why weights cannot be had from the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not `owner/name`.
    #[error(
        "`{0}` is no repository of the hub: write hf:owner/name or hf:owner/name@revision, where \
         a revision is a branch, a tag, a commit or refs/pr/N"
    )]
    Name(String),
    /// Offline, and not in the cache.
    #[error(
        "{repository} is not in the cache {} and HF_HUB_OFFLINE forbids to fetch it",
        .cache.display()
    )]
    Offline {
        /// The repository.
        repository: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub cannot be reached.
    #[error("{url}: {source}")]
    Http {
        /// The address.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The hub refuses.
    #[error("{url} answers {status}{hint}")]
    Status {
        /// The address.
        url: String,
        /// The answer.
        status: reqwest::StatusCode,
        /// What may help.
        hint: &'static str,
    },
    /// The hub's answer is not what its interface says.
    #[error("{url} answers something else than the hub's interface: {source}")]
    Answer {
        /// The address.
        url: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The repository has no layout that is known.
    #[error("{repository} {reason}; it has {files}")]
    Layout {
        /// The repository.
        repository: String,
        /// What it is or lacks, and what would do.
        reason: String,
        /// Its files.
        files: String,
    },
    /// A file did not come whole.
    #[error("{file} of {repository} came damaged ({flaw}); nothing was kept, try again")]
    Damaged {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What is wrong.
        flaw: String,
    },
    /// The cache cannot be written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl HubError {
    /// A mirror's address may hold a password, and the client's own words repeat it.
    fn http(url: &str, source: reqwest::Error) -> Self {
        HubError::Http {
            url: redact(url),
            source: source.without_url(),
        }
    }
}

/// The hub and its local cache.
#[derive(Debug, Clone)]
pub struct Hub {
    /// `https://huggingface.co` or a mirror.
    pub endpoint: String,
    /// The folder of the hub's cache.
    pub cache: PathBuf,
    /// Whether only the cache is asked.
    pub offline: bool,
    /// Sent to the endpoint for repositories that need it.
    pub token: Option<Secret>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

/// How far a download is: the file, bytes so far, bytes in all if the hub says.
pub type OnProgress<'a> = &'a mut (dyn FnMut(&str, u64, Option<u64>) + Send);

impl Hub {
    /// As the hub's environment variables say.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let home = variable("HF_HOME").map_or_else(
            || {
                let base = variable("XDG_CACHE_HOME")
                    .map(PathBuf::from)
                    .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
                base.unwrap_or_else(std::env::temp_dir).join("huggingface")
            },
            PathBuf::from,
        );
        let yes = |v: String| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str());
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            offline: variable("HF_HUB_OFFLINE").is_some_and(yes),
            token: variable("HF_TOKEN").map(Secret::from),
        }
    }

    /// The folder that holds `owner/name[@revision]`, fetched if need be.
    ///
    /// # Errors
    /// [`HubError`]; a file is in the cache whole or not at all.
    pub async fn fetch(
        &self,
        repository: &str,
        progress: OnProgress<'_>,
    ) -> Result<PathBuf, HubError> {
        let (name, revision) = repository.split_once('@').unwrap_or((repository, "main"));
        if !is_name(name) || !is_revision(revision) {
            return Err(HubError::Name(repository.to_owned()));
        }
        let root = self
            .cache
            .join(format!("models--{}", name.replace('/', "--")));
        if self.offline {
            return self
                .cached(&root, revision)
                .ok_or_else(|| HubError::Offline {
                    repository: repository.to_owned(),
                    cache: self.cache.clone(),
                });
        }
        let client = self.client()?;
        // A revision may have slashes, which are part of its name and not of the path.
        let url = format!(
            "{}/api/models/{name}/revision/{}?blobs=true",
            self.endpoint,
            revision.replace('/', "%2F")
        );
        let response = self.get(&client, &url).await?;
        let body = response.bytes().await;
        let body = body.map_err(|source| HubError::http(&url, source))?;
        let info: Info = serde_json::from_slice(&body).map_err(|source| HubError::Answer {
            url: redact(&url),
            source,
        })?;
        if !is_plain(&info.sha) {
            return Err(HubError::Name(info.sha));
        }
        let files: Vec<String> = info.siblings.iter().map(|s| s.rfilename.clone()).collect();
        let needed = ClipFolder::files_needed(&files).map_err(|reason| HubError::Layout {
            repository: repository.to_owned(),
            reason,
            files: files.join(", "),
        })?;
        let snapshot = root.join("snapshots").join(&info.sha);
        for file in &needed {
            let path = snapshot.join(file);
            if path.is_file() {
                continue;
            }
            let sibling = info.siblings.iter().find(|s| s.rfilename == *file);
            let sha256 = sibling
                .and_then(|s| s.lfs.as_ref())
                .map(|lfs| lfs.sha256.as_str());
            let url = format!("{}/{name}/resolve/{}/{file}", self.endpoint, info.sha);
            let response = self.get(&client, &url).await?;
            let mut heard = |done, total| progress(file, done, total);
            let saved = save(response, &path, &url, sha256, &mut heard).await;
            saved.map_err(|error| match error {
                Failure::Hub(error) => error,
                Failure::Damaged(flaw) => HubError::Damaged {
                    repository: repository.to_owned(),
                    file: file.clone(),
                    flaw,
                },
            })?;
        }
        let reference = root.join("refs").join(revision);
        make_folder(&reference)?;
        atomic::write_file(&reference, &info.sha).map_err(io(&reference))?;
        Ok(snapshot)
    }

    /// The snapshot that the cache has for a revision, if it is a whole CLIP.
    fn cached(&self, root: &Path, revision: &str) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(root.join("refs").join(revision));
        let commit = commit.unwrap_or_else(|_| revision.to_owned());
        let snapshot = root.join("snapshots").join(commit.trim());
        ClipFolder::open(&snapshot).is_ok().then_some(snapshot)
    }

    fn client(&self) -> Result<reqwest::Client, HubError> {
        http_client()
            .user_agent(concat!("tagstream/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            // Between two pieces, not for the whole: weights take as long as they take.
            .read_timeout(Duration::from_secs(60))
            .build()
            .map_err(|source| HubError::http(&self.endpoint, source))
    }

    async fn get(
        &self,
        client: &reqwest::Client,
        url: &str,
    ) -> Result<reqwest::Response, HubError> {
        let http = |source| HubError::http(url, source);
        let mut request = client.get(url);
        if let Some(token) = &self.token {
            // The client drops it when it is sent on to another host.
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await.map_err(http)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let hint = match status.as_u16() {
            401 | 403 => ": the repository needs an account (set HF_TOKEN), or does not exist",
            404 => ": there is no such repository, revision or file",
            _ => "",
        };
        Err(HubError::Status {
            url: redact(url),
            status,
            hint,
        })
    }
}

enum Failure {
    Hub(HubError),
    Damaged(String),
}

async fn save(
    response: reqwest::Response,
    path: &Path,
    url: &str,
    sha256: Option<&str>,
    progress: &mut (dyn FnMut(u64, Option<u64>) + Send),
) -> Result<(), Failure> {
    let written = |source| Failure::Hub(io(path)(source));
    make_folder(path).map_err(Failure::Hub)?;
    let expected = response.content_length();
    let target = AtomicFile::create(path).map_err(written)?;
    let mut file = tokio::fs::File::from_std(target.file().try_clone().map_err(written)?);
    let (mut hasher, mut done) = (Sha256::new(), 0u64);
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|source| Failure::Hub(HubError::http(url, source)))?;
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(written)?;
        done += piece.len() as u64;
        progress(done, expected);
    }
    file.flush().await.map_err(written)?;
    if let Some(expected) = expected.filter(|&expected| expected != done) {
        return Err(Failure::Damaged(format!("{done} of {expected} bytes")));
    }
    let found = digest::hex(hasher.finalize());
    if sha256.is_some_and(|expected| expected != found) {
        return Err(Failure::Damaged(format!("its SHA-256 is {found}")));
    }
    let durable = blocking::run(move || target.commit()).await;
    durable.map_err(Into::into).flatten().map_err(written)
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_path_buf();
    move |source| HubError::Io { path, source }
}

fn make_folder(file: &Path) -> Result<(), HubError> {
    let folder = file.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(io(folder))
}

/// `owner/name`, of characters that mean nothing in a path or an address.
fn is_name(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(owner, name)| is_plain(owner) && is_plain(name))
}

/// A branch, a tag, a commit or `refs/pr/N`: where the hub keeps what a pull request proposes, as
/// its robot does with weights turned into safetensors.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_plain)
}

fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests;

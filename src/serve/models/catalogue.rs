//! What the registry holds, read seldom: versions never change, and one pointer tells of news.

use crate::retrain::judge::Gate;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::config::ObjectStoreConfig;
use tagstream_model::registry::{
    Action, Decision, HistoryEntry, Pointer, Registry, RegistryError, Verdict, VersionRecord,
};
use tokio::sync::Mutex;

/// How long an answer of the registry is good for.
const FRESH: Duration = Duration::from_secs(2);
/// How long a list of versions is, while the pointer does not move.
const VERSIONS_FRESH: Duration = Duration::from_secs(20);
/// Largest report that is shown, bytes.
const LARGEST_REPORT: u64 = 64 << 20;

/// Versions, decisions, and what serves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// The pointer; none before the first decision.
    pub pointer: Option<Pointer>,
    /// Oldest first.
    pub versions: Vec<VersionRecord>,
    /// Oldest first.
    pub history: Vec<HistoryEntry>,
}

impl Listing {
    /// The version that serves.
    pub(crate) fn serving(&self) -> Option<&VersionRecord> {
        let number = self.pointer.as_ref()?.version?;
        self.versions
            .iter()
            .find(|version| version.version == number)
    }

    /// The decision by which it serves.
    pub(crate) fn serves_by(&self) -> Option<&HistoryEntry> {
        self.history.iter().rfind(|entry| entry.action.moves())
    }

    /// The newest decision of a judge.
    pub(crate) fn last_judged(&self) -> Option<&HistoryEntry> {
        self.history.iter().rfind(|entry| entry.verdict.is_some())
    }

    /// Whether a version has ever served.
    pub(crate) fn has_served(&self, version: u64) -> bool {
        let moves = |entry: &&HistoryEntry| entry.action.moves();
        self.history
            .iter()
            .filter(moves)
            .any(|entry| entry.version == version)
    }

    /// The record of version `number`.
    pub(crate) fn version(&self, number: u64) -> Option<&VersionRecord> {
        self.versions
            .iter()
            .find(|version| version.version == number)
    }

    /// How often the pointer was moved.
    pub(crate) fn generation(&self) -> u64 {
        self.pointer
            .as_ref()
            .map_or(0, |pointer| pointer.generation)
    }
}

/// What a retraining's `report.json` says, as far as pages tell it. Figures that could not be
/// measured are missing.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Report {
    /// When it was written.
    pub written: DateTime<Utc>,
    /// The judge's decision.
    pub judgement: Judged,
    /// The labels that there were.
    pub labels: KnownLabels,
}

/// The judge's decision.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Judged {
    /// Promote, hold or reject.
    pub verdict: Verdict,
    /// Every gate, passed or not.
    pub gates: Vec<Gate>,
    /// Where more labels would decide: about how many more.
    #[serde(default)]
    pub labels_wanted: Option<u64>,
    /// Mean average precision of what served.
    #[serde(default)]
    pub champion_map: Option<f64>,
    /// And of the candidate.
    #[serde(default)]
    pub candidate_map: Option<f64>,
}

/// How many labels there were.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct KnownLabels {
    /// Known entries.
    pub known: u64,
}

/// Why the registry does not say.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CatalogueError(String);

impl From<RegistryError> for CatalogueError {
    fn from(error: RegistryError) -> Self {
        CatalogueError(error.to_string())
    }
}

/// The registry, with what was read of it.
pub(crate) struct Catalogue {
    url: String,
    options: ObjectStoreConfig,
    read: Mutex<Read>,
}

#[derive(Default)]
struct Read {
    registry: Option<Registry>,
    listing: Arc<Listing>,
    asked: Option<Instant>,
    listed: Option<Instant>,
    /// By version; none where it has no report that can be read.
    reports: HashMap<u64, Option<Arc<Report>>>,
}

impl Catalogue {
    /// A registry that need not be there yet.
    pub(crate) fn new(url: &str, options: &ObjectStoreConfig) -> Self {
        Catalogue {
            url: url.to_owned(),
            options: options.clone(),
            read: Mutex::default(),
        }
    }

    /// The registry itself.
    ///
    /// # Errors
    /// [`CatalogueError`] if there is none.
    pub(crate) async fn registry(&self) -> Result<Registry, CatalogueError> {
        let mut read = self.read.lock().await;
        self.opened(&mut read).await
    }

    async fn opened(&self, read: &mut Read) -> Result<Registry, CatalogueError> {
        if let Some(registry) = &read.registry {
            return Ok(registry.clone());
        }
        let registry = Registry::open(&self.url, &self.options).await?;
        read.registry = Some(registry.clone());
        Ok(registry)
    }

    /// What it holds now.
    ///
    /// # Errors
    /// [`CatalogueError`] if it cannot be read.
    pub(crate) async fn listing(&self) -> Result<Arc<Listing>, CatalogueError> {
        let mut read = self.read.lock().await;
        let fresh = |when: Option<Instant>, time| when.is_some_and(|when| when.elapsed() < time);
        if fresh(read.asked, FRESH) {
            return Ok(Arc::clone(&read.listing));
        }
        let registry = self.opened(&mut read).await?;
        let pointer = registry.pointer().await?;
        if pointer != read.listing.pointer || !fresh(read.listed, VERSIONS_FRESH) {
            read.listing = Arc::new(Listing {
                versions: registry.versions().await?,
                history: registry.history().await?,
                pointer,
            });
            read.listed = Some(Instant::now());
        }
        read.asked = Some(Instant::now());
        Ok(Arc::clone(&read.listing))
    }

    /// Decides, if the pointer still is what whoever decides has seen.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if somebody else decided meanwhile.
    pub(crate) async fn decide(
        &self,
        action: Action,
        version: u64,
        seen: u64,
        (who, why): (&str, &str),
    ) -> Result<Pointer, RegistryError> {
        let registry = Registry::open(&self.url, &self.options).await?;
        let decision = Decision {
            generation: Some(seen),
            ..Decision::by_hand(action, version, who, why)
        };
        let decided = registry.decide(decision).await;
        // Whatever came of it, what was read is old.
        let mut read = self.read.lock().await;
        (read.asked, read.listed) = (None, None);
        decided
    }

    /// The report of a version's retraining, if it has one.
    pub(crate) async fn report(&self, version: &VersionRecord) -> Option<Arc<Report>> {
        if let Some(known) = self.read.lock().await.reports.get(&version.version) {
            return known.clone();
        }
        let text = match self.attachment(version, "report.json").await {
            Ok(text) => text,
            // It is tried again: the store may be back then.
            Err(_) => return None,
        };
        let report = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .map(Arc::new);
        let mut read = self.read.lock().await;
        read.reports.insert(version.version, report.clone());
        report
    }

    /// A file that is kept beside a version; none if there is no such file.
    ///
    /// # Errors
    /// [`CatalogueError`] if it cannot be read.
    pub(crate) async fn attachment(
        &self,
        version: &VersionRecord,
        name: &str,
    ) -> Result<Option<Vec<u8>>, CatalogueError> {
        let Some(entry) = version.attachments.get(name) else {
            return Ok(None);
        };
        if entry.bytes > LARGEST_REPORT {
            let message = format!("{name} of version {} is too large", version.version);
            return Err(CatalogueError(message));
        }
        let registry = self.registry().await?;
        let aside = std::env::temp_dir().join(format!("tagstream-{:032x}", rand::random::<u128>()));
        let fetched = registry.attachment(version, name, &aside).await;
        let read = tokio::fs::read(&aside).await;
        // It may not be there.
        let _ = tokio::fs::remove_file(&aside).await;
        fetched?;
        read.map(Some)
            .map_err(|error| CatalogueError(error.to_string()))
    }
}

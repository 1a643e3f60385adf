//! What the registry's JSON objects hold.

use crate::bundle::FileEntry;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The registry format this code writes and reads.
pub const REGISTRY_FORMAT: u32 = 1;

/// `versions/<n>.json`: never changed once written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRecord {
    /// [`REGISTRY_FORMAT`].
    pub format_version: u32,
    /// The version's number, from 1.
    pub version: u64,
    /// The bundle's id: what rows carry as `model_version`.
    pub id: String,
    /// The id of the bundle it was trained from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When it was registered.
    pub created: DateTime<Utc>,
    /// Who registered it.
    pub who: String,
    /// In the words of whoever decided.
    pub why: String,
    /// The run of the retraining job that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// How many categories it knows.
    pub categories: usize,
    /// Its quality figures, from the manifest.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Every file of the bundle, `bundle.json` included, by path; contents are blobs.
    pub files: BTreeMap<String, FileEntry>,
    /// Files that tell about the version but do not belong to the bundle (`report.html`,
    /// `report.json`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attachments: BTreeMap<String, FileEntry>,
    /// Random; tells our own put from somebody else's.
    pub nonce: String,
}

/// `current.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    /// [`REGISTRY_FORMAT`].
    pub format_version: u32,
    /// The version that serves; none until the first promotion.
    pub version: Option<u64>,
    /// That version's bundle id.
    pub id: Option<String>,
    /// How often the pointer was moved from version to version.
    pub generation: u64,
    /// Decisions that carry a smaller token are refused.
    pub fence: u64,
    /// The newest history entry.
    pub entry: HistoryEntry,
}

/// `history/<sequence>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryEntry {
    /// 1, 2, 3, ... without a gap.
    pub sequence: u64,
    /// When.
    pub time: DateTime<Utc>,
    /// Who decided.
    pub who: String,
    /// In the words of whoever decided.
    pub why: String,
    /// What was decided.
    pub action: Action,
    /// The version it is about.
    pub version: u64,
    /// That version's bundle id.
    pub id: String,
    /// The version that served before.
    pub from: Option<u64>,
    /// The judge's verdict, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The run of the retraining job that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Random; tells our own put from somebody else's.
    pub nonce: String,
}

/// What was decided about a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It serves from now on.
    Promoted,
    /// A version that served before serves again.
    RolledBack,
    /// It is kept but not used: not measurably better.
    Held,
    /// It is kept but must not be used: worse.
    Rejected,
}

impl Action {
    /// Whether the action changes which version serves.
    pub fn moves(self) -> bool {
        matches!(self, Action::Promoted | Action::RolledBack)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Promoted => "promoted",
            Action::RolledBack => "rolled back",
            Action::Held => "held",
            Action::Rejected => "rejected",
        })
    }
}

/// What the judge says of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Measurably not worse, and worth the change.
    Promote,
    /// Not worse, but not worth the change either; or too little is known.
    Hold,
    /// Measurably worse, or broken.
    Reject,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Promote => "PROMOTE",
            Verdict::Hold => "HOLD",
            Verdict::Reject => "REJECT",
        })
    }
}

/// A bundle to be stored as a version.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// The bundle directory.
    pub bundle: &'a Path,
    /// Files to keep beside it, by the name they get.
    pub attachments: &'a [(String, std::path::PathBuf)],
    /// Who registers.
    pub who: &'a str,
    /// In the words of whoever decides.
    pub why: &'a str,
    /// The run of the retraining job that made it.
    pub run: Option<&'a str>,
}

/// A decision to be recorded.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// About which version.
    pub version: u64,
    /// Who decides.
    pub who: String,
    /// In the words of whoever decided.
    pub why: String,
    /// The judge's verdict, where there was one.
    pub verdict: Option<Verdict>,
    /// The run of the retraining job that decides.
    pub run: Option<String>,
    /// The pointer's generation that the decision was taken on; `None`: whatever it is.
    pub generation: Option<u64>,
    /// The lease's fencing token; `None`: a person decides.
    pub token: Option<u64>,
}

impl Decision {
    /// A person's, whatever the pointer says.
    pub fn by_hand(action: Action, version: u64, who: &str, why: &str) -> Self {
        Decision {
            action,
            version,
            who: who.into(),
            why: why.into(),
            verdict: None,
            run: None,
            generation: None,
            token: None,
        }
    }
}

/// The pointer after `decision` about `version`.
pub(super) fn after(
    before: Option<&Pointer>,
    decision: &Decision,
    version: &VersionRecord,
    nonce: &str,
) -> Pointer {
    let moves = decision.action.moves();
    let from = before.and_then(|p| p.version);
    let entry = HistoryEntry {
        sequence: before.map_or(0, |p| p.entry.sequence) + 1,
        time: Utc::now(),
        who: decision.who.clone(),
        why: decision.why.clone(),
        action: decision.action,
        version: version.version,
        id: version.id.clone(),
        from,
        verdict: decision.verdict,
        run: decision.run.clone(),
        nonce: nonce.into(),
    };
    Pointer {
        format_version: REGISTRY_FORMAT,
        version: if moves { Some(version.version) } else { from },
        id: if moves {
            Some(version.id.clone())
        } else {
            before.and_then(|p| p.id.clone())
        },
        generation: before.map_or(0, |p| p.generation) + u64::from(moves),
        fence: before
            .map_or(0, |p| p.fence)
            .max(decision.token.unwrap_or(0)),
        entry,
    }
}

/// 128 random bits, hex.
pub(super) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

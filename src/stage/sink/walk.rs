//! Where a partition goes on: its origin, its chain of files, and every reason not to believe them.

pub use super::resume_error::ResumeError;

use super::begun::FirstOffset;
use super::broken::{BrokenChain, Resumed};
use super::chain::{Chain, ChainOutcome, FileFacts, Seal, SealReason, TopicIdentity, WriterId};
use super::floor::{Floor, Notes, lost_chain, read_floor};
use super::footer::{FooterError, read_facts};
use super::hint::TableTag;
use super::log_facts::LogFacts;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tagstream_core::config::FileFormat;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::failpoint;
use tagstream_core::storage::names;
use tagstream_core::storage::names::{Epoch, Folder, Name};
use tagstream_core::storage::store::{StoreError, TableStore};

/// The first start of a chain, put once, before anything is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainOrigin {
    /// The chain.
    pub epoch: Epoch,
    /// Its first offset.
    pub offset: Offset,
    /// The topic it reads.
    pub identity: TopicIdentity,
    /// The format of all its files.
    pub format: FileFormat,
    /// Version of the table's columns.
    pub schema_version: u32,
    /// The group's committed offset when the chain began; it says nothing about the chain.
    pub group_offset: Option<Offset>,
    /// Why it began, unless it is the partition's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<SealReason>,
    /// As the seal before it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated_at: Option<Offset>,
    /// When it was put.
    pub created: DateTime<Utc>,
    /// Who put it.
    pub writer: WriterId,
}

/// The folder of one partition, ready to be walked.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    /// The store.
    pub store: &'a TableStore,
    /// Where the partition's files lie.
    pub place: &'a Folder,
    /// The format of its files.
    pub format: FileFormat,
    /// Version of its columns.
    pub schema_version: u32,
    /// The table, as commits name it.
    pub tag: TableTag,
    /// The partition.
    pub partition: &'a PartitionId,
    /// Who walks.
    pub writer: &'a WriterId,
}

/// A chain walked to its end.
#[derive(Debug, Clone)]
pub struct Walked {
    /// The chain, at its end.
    pub chain: Chain,
    /// Where the epoch begins: the first offset that it has.
    pub origin: ChainOrigin,
    /// The start of its last file.
    pub last_start: Option<Offset>,
    /// Whether the group's offset is explained by the chain.
    committed_on_chain: bool,
}

/// A chain followed to its last file.
struct Followed {
    /// What the last file is; `None` if there is none.
    step: Option<ChainOutcome>,
    chain: Chain,
    last_start: Option<Offset>,
    committed_on_chain: bool,
}

impl Resumed {
    /// The chain, if the log can continue it.
    ///
    /// # Errors
    /// [`ResumeError::BrokenChain`] says what does not fit, and what to do.
    pub fn unbroken(self, partition: &PartitionId) -> Result<Self, ResumeError> {
        match self.broken {
            None => Ok(self),
            Some(broken) => Err(ResumeError::BrokenChain {
                partition: partition.clone(),
                epoch: self.chain.epoch,
                end: self.chain.end,
                broken,
            }),
        }
    }
}

impl Walk<'_> {
    fn folder(&self) -> Folder {
        self.place.clone()
    }

    /// Finds the end of the partition's current chain; starts the first chain if there is none.
    ///
    /// # Errors
    /// [`ResumeError`]; input that does not fit the chain is *not* one here (see [`Walk::resume`]).
    pub async fn walk(&self, log: &LogFacts, start: &FirstOffset) -> Result<Walked, ResumeError> {
        let notes = Notes::read(self.store, self.place).await?;
        if notes.newest().is_none() {
            self.refuse_lost(None, log).await?;
        }
        let mut epoch = notes.newest().unwrap_or_default();
        let mut first = ChainOrigin {
            epoch,
            offset: start.of(self.partition, log),
            identity: log.identity.clone(),
            format: self.format,
            schema_version: self.schema_version,
            group_offset: log.committed.as_ref().map(|c| c.offset),
            reason: None,
            truncated_at: None,
            created: Utc::now(),
            writer: self.writer.clone(),
        };
        if let Some(floor) = notes.floor.filter(|(e, _)| *e == epoch) {
            let floor: Floor<ChainOrigin> = read_floor(self.store, self.place, floor).await?;
            first = floor.origin;
        }
        let mut origin = self.origin(&first).await?;
        loop {
            self.check_table(&origin)?;
            let floor = notes.floor_of(epoch);
            let followed = self.follow(&origin, floor, log).await?;
            let Some(ChainOutcome::Sealed(seal)) = followed.step else {
                self.refuse_lost(Some(epoch), log).await?;
                return Ok(Walked {
                    chain: followed.chain,
                    origin,
                    last_start: followed.last_start,
                    committed_on_chain: followed.committed_on_chain,
                });
            };
            epoch = epoch.next();
            origin = self.begin(epoch, &seal).await?;
        }
    }

    /// Refuses a folder where files or the group's offset tell of a chain after `newest`.
    async fn refuse_lost(&self, newest: Option<Epoch>, log: &LogFacts) -> Result<(), ResumeError> {
        let (store, folder) = (self.store, self.place);
        let committed = log.committed.as_ref();
        let told = committed
            .filter(|committed| committed.table == Some(self.tag))
            .and_then(|committed| Some((committed.hint?.epoch, committed.offset)));
        let Some(lost) = lost_chain(store, folder, self.format, newest, told).await? else {
            return Ok(());
        };
        let folder = folder.path().to_string();
        // An operator may have begun the next epoch meanwhile.
        if Notes::read(store, self.place).await?.newest() > newest {
            return Err(ResumeError::Unsettled { path: folder });
        }
        Err(ResumeError::Lost {
            partition: self.partition.clone(),
            folder,
            lost,
        })
    }

    /// Begins `epoch` as the seal before it says, unless it has begun.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub(super) async fn begin(
        &self,
        epoch: Epoch,
        seal: &Seal,
    ) -> Result<ChainOrigin, ResumeError> {
        self.origin(&self.origin_after(epoch, seal)).await
    }

    /// As [`Walk::walk`], and says whether the log can continue the chain, as far as `log` tells.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub async fn resume(
        &self,
        log: &LogFacts,
        start: &FirstOffset,
    ) -> Result<Resumed, ResumeError> {
        let walked = self.walk(log, start).await?;
        if failpoint::is_on("sabotage.resume.trust") {
            let end = log
                .committed
                .as_ref()
                .map_or(walked.origin.offset, |c| c.offset);
            return Ok(Resumed {
                chain: Chain::new(walked.chain.epoch, end),
                last_start: None,
                broken: None,
            });
        }
        let end = walked.chain.end;
        let broken = if walked.origin.identity.contradicts(&log.identity) {
            Some(BrokenChain::Recreated {
                expected: walked.origin.identity.clone(),
                found: log.identity.clone(),
            })
        } else if let (false, Some(committed)) = (walked.committed_on_chain, &log.committed)
            && committed.tells_of(self.tag, walked.chain.epoch)
            && committed.offset > end
        {
            Some(BrokenChain::FilesGone {
                committed: committed.offset,
            })
        } else if end > log.high {
            Some(BrokenChain::AheadOfLog {
                high: log.high,
                same_topic: walked.origin.identity.is_surely(&log.identity),
            })
        } else if end < log.low {
            Some(BrokenChain::Overtaken { low: log.low })
        } else if let (false, Some(committed)) = (walked.committed_on_chain, &log.committed) {
            Some(BrokenChain::OffsetMoved {
                committed: committed.offset,
                high: log.high,
            })
        } else {
            None
        };
        Ok(Resumed {
            chain: walked.chain,
            last_start: walked.last_start,
            broken,
        })
    }

    /// Where the newest chain ends now; `None` if there is none, or it was ended for good and the
    /// next is not begun. Puts nothing.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub async fn reached(&self, log: &LogFacts) -> Result<Option<Offset>, ResumeError> {
        let notes = Notes::read(self.store, self.place).await?;
        let Some(epoch) = notes.newest() else {
            return Ok(None);
        };
        let Some(origin) = self.origin_of(epoch).await? else {
            return Ok(None);
        };
        self.check_table(&origin)?;
        let followed = self.follow(&origin, notes.floor_of(epoch), log).await?;
        let sealed = matches!(followed.step, Some(ChainOutcome::Sealed(_)));
        Ok((!sealed).then_some(followed.chain.end))
    }

    fn origin_after(&self, epoch: Epoch, seal: &Seal) -> ChainOrigin {
        ChainOrigin {
            epoch,
            offset: seal.origin,
            identity: seal.identity.clone(),
            format: self.format,
            schema_version: self.schema_version,
            group_offset: seal.group_offset,
            reason: Some(seal.reason),
            truncated_at: seal.truncated_at,
            created: Utc::now(),
            writer: self.writer.clone(),
        }
    }

    fn check_table(&self, origin: &ChainOrigin) -> Result<(), ResumeError> {
        let state = |format: FileFormat, version: u32| {
            format!("{} files of schema version {version}", format.extension())
        };
        if (origin.format, origin.schema_version) == (self.format, self.schema_version) {
            return Ok(());
        }
        Err(ResumeError::OtherTable {
            partition: self.partition.clone(),
            begun: state(origin.format, origin.schema_version),
            asked: state(self.format, self.schema_version),
        })
    }

    /// Puts `wanted` unless there is an origin already; whichever is there then counts.
    async fn origin(&self, wanted: &ChainOrigin) -> Result<ChainOrigin, ResumeError> {
        if let Some(origin) = self.origin_of(wanted.epoch).await? {
            return Ok(origin);
        }
        let path = self.folder().origin(wanted.epoch);
        let bytes = serde_json::to_vec_pretty(wanted).expect("an origin is plain data");
        self.store.put_if_absent(&path, bytes.into()).await?;
        let put = self.origin_of(wanted.epoch).await?;
        put.ok_or_else(|| ResumeError::Unsettled {
            path: path.to_string(),
        })
    }

    /// The origin of `epoch`, if there is one.
    pub(super) async fn origin_of(&self, epoch: Epoch) -> Result<Option<ChainOrigin>, ResumeError> {
        let path = self.folder().origin(epoch);
        let Some(bytes) = self.store.read(&path).await? else {
            return Ok(None);
        };
        let origin = serde_json::from_slice(&bytes).map_err(|e| ResumeError::BadOrigin {
            path: path.to_string(),
            reason: e.to_string(),
        })?;
        Ok(Some(origin))
    }

    async fn facts(&self, epoch: Epoch, start: Offset) -> Result<Option<FileFacts>, ResumeError> {
        let path = self.folder().file(epoch, start, self.format);
        Ok(read_facts(self.store, &path, self.format).await?)
    }

    /// Follows the chain of `origin` to its last file. The committed offset saves listing the whole
    /// folder if it is the end of the file that it names. Also says whether the committed offset is
    /// one that the chain explains.
    async fn follow(
        &self,
        origin: &ChainOrigin,
        floor: Option<Offset>,
        log: &LogFacts,
    ) -> Result<Followed, ResumeError> {
        let epoch = origin.epoch;
        let hint = log
            .committed
            .as_ref()
            .and_then(|c| Some((c.offset, c.hint?)));
        if let Some((offset, hint)) = hint
            && hint.epoch == epoch
            && let Some(facts) = self.facts(epoch, hint.start).await?
            && facts.range.end == offset
            && facts.range.start == hint.start
        {
            let starts = self.starts(epoch, Some(offset)).await?;
            let mut chain = Chain::new(epoch, hint.start);
            let mut step = self.followed(&mut chain, &facts)?;
            if let Some(last) = starts.last() {
                step = self.follow_last(&mut chain, *last).await?;
            }
            return Ok(Followed {
                step: Some(step),
                chain,
                last_start: starts.last().copied().or(Some(hint.start)),
                committed_on_chain: true,
            });
        }
        let starts = self.starts(epoch, None).await?;
        let mut chain = Chain::new(epoch, origin.offset);
        let step = match starts.last() {
            Some(last) => Some(self.follow_last(&mut chain, *last).await?),
            // The last file of a chain keeps its name for good.
            None => {
                chain.end = floor.unwrap_or(chain.end);
                None
            }
        };
        let explained = log.committed.as_ref().is_none_or(|committed| {
            let offset = committed.offset;
            // Committed by a writer of an earlier chain, or before this chain began: says nothing
            // about it.
            committed.hint.is_some_and(|hint| hint.epoch < epoch)
                || origin.group_offset == Some(offset)
                // Its file has expired, and its name was freed.
                || committed.tells_of(self.tag, epoch) && Some(offset) <= floor
                || starts.contains(&offset)
                || offset == chain.end
        });
        Ok(Followed {
            step,
            chain,
            last_start: starts.last().copied(),
            committed_on_chain: explained,
        })
    }

    async fn follow_last(
        &self,
        chain: &mut Chain,
        last: Offset,
    ) -> Result<ChainOutcome, ResumeError> {
        chain.end = last;
        let facts = self.facts(chain.epoch, last).await?.ok_or_else(|| {
            ResumeError::Footer(FooterError::NotOurs {
                path: self
                    .folder()
                    .file(chain.epoch, last, self.format)
                    .to_string(),
                reason: "it was listed, then gone: committed files must never be removed from the \
                    end of a chain"
                    .into(),
            })
        })?;
        self.followed(chain, &facts)
    }

    fn followed(&self, chain: &mut Chain, facts: &FileFacts) -> Result<ChainOutcome, ResumeError> {
        chain.follow(facts).map_err(|source| ResumeError::Chain {
            partition: self.partition.clone(),
            source,
        })
    }

    /// The starts of an epoch's files, from `from` on.
    pub(super) async fn starts(
        &self,
        epoch: Epoch,
        from: Option<Offset>,
    ) -> Result<BTreeSet<Offset>, StoreError> {
        let folder = self.folder();
        let after = folder.before(epoch, from.unwrap_or(Offset(0)));
        let names = self.store.list(folder.path(), Some(&after)).await?;
        let starts = names.iter().filter_map(|path| match names::parse(path) {
            Some(Name::File {
                epoch: e,
                start,
                format,
            }) if e == epoch && format == self.format => Some(start),
            _ => None,
        });
        Ok(starts.collect())
    }
}

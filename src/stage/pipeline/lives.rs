//! How a partition's lives are watched: at which pace this one works, and on which messages not at
//! all.

use crate::stage::guard::record::{LivesRecord, Pace, Suspect};
use crate::stage::guard::{LifeGuard, OpenLives};
use crate::stage::sink::chain::{Chain, WriterId};
use crate::stage::sink::files::FileSink;
use crate::stage::sink::table::TableRow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::names::Folder;
use tokio::time::Instant;

/// What is finished goes into a file after this time, where lives ended: the chain then ends close
/// to what ends them.
const FILE_AT_ONCE: Duration = Duration::from_millis(200);
/// Careful at least this long.
const CAREFUL: Duration = Duration::from_secs(30);
/// What the guard says of a partition in this life.
pub(super) struct PartitionWatch {
    pub guard: Arc<LifeGuard>,
    pub pace: Pace,
    /// Messages from here on ended no life.
    pub zone_end: Offset,
    pub careful_until: Instant,
    condemned: BTreeMap<Offset, Suspect>,
    record: LivesRecord,
}

/// How a partition's lives are watched.
#[derive(Clone)]
pub(super) struct Watching {
    pub lives: OpenLives,
    /// Messages that may have been in the making when a life ended.
    pub places: i64,
    pub max_age: Duration,
}

impl Watching {
    /// Begins a life of `partition`. Without a record the line goes on unguarded, and says so.
    pub(super) async fn begin<R: TableRow>(
        &self,
        sink: &FileSink<R>,
        partition: &PartitionId,
        chain: &Chain,
        writer: &WriterId,
        log_end: Offset,
    ) -> Option<PartitionWatch> {
        let store = sink.store();
        let path = Folder::new(store.root(), sink.table(), partition).lives(chain.epoch);
        let begun = LifeGuard::begin(store, path, writer, chain.end).await;
        let (guard, record) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                tracing::warn!(%partition, %error, "the record of the partition's lives cannot be \
                    kept: a message that ends the process would not be found");
                return None;
            }
        };
        let guard = Arc::new(guard);
        self.lives.add(&guard);
        let watch = PartitionWatch {
            guard,
            pace: record.pace(),
            zone_end: Offset(log_end.0.min(chain.end.0 + self.places)),
            careful_until: Instant::now() + (2 * self.max_age).max(CAREFUL),
            condemned: record
                .condemned()
                .iter()
                .map(|suspect| (suspect.offset, suspect.clone()))
                .collect(),
            record,
        };
        watch.tell(partition, chain.end);
        if let Some(offset) = watch.record.stuck_at() {
            tracing::error!(%partition, %offset, "processes die at one message after the other: \
                it is not the messages' fault; look at the memory limit, the model and the \
                libraries");
        }
        Some(watch)
    }
}

impl PartitionWatch {
    fn tell(&self, partition: &PartitionId, head: Offset) {
        let deaths = self.record.deaths();
        match self.pace {
            Pace::Normal => {}
            Pace::Careful => tracing::warn!(%partition, start = %head, deaths, "processes died \
                here; what is finished goes into files at once"),
            Pace::Alone => tracing::warn!(%partition, start = %head, end = %self.zone_end, deaths,
                "processes died here; messages are taken one at a time until this is passed"),
        }
    }

    /// When a file ends by age.
    pub(super) fn max_age(&self, normal: Duration) -> Duration {
        match self.pace {
            Pace::Normal => normal,
            Pace::Careful | Pace::Alone => normal.min(FILE_AT_ONCE),
        }
    }

    /// Whether a process has died under the message at `offset`, alone.
    pub(super) fn is_suspect(&self, offset: Offset) -> bool {
        self.record.is_suspect(offset)
    }

    /// Why the message at `offset` must not be worked on, if so.
    pub(super) fn verdict(&self, offset: Offset) -> Option<String> {
        let suspect = self.condemned.get(&offset)?;
        Some(format!(
            "the process died {} times while it worked on this message and no other; the last \
             step begun was {}. How it ended is not known here (an abort, a signal, the memory \
             limit): the log or the supervisor of that process may say",
            suspect.deaths,
            suspect.step.words()
        ))
    }

    pub(super) fn is_taken_alone(&self, offset: Offset) -> bool {
        self.pace == Pace::Alone && offset < self.zone_end && !self.condemned.contains_key(&offset)
    }
}

//! Where a partition without any file starts. "Latest" is a moment, not a rule: the one when the
//! table began, put once beside the partitions. A partition that is added later holds only messages
//! that came after it, and is read from its beginning, however late a stage hears of it.

use super::chain::{TopicIdentity, WriterId};
use super::log_facts::LogFacts;
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::names;
use tagstream_core::storage::names::Folder;
use tagstream_core::storage::store::{StoreError, TableStore};

/// The topic as it was when its table began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableBegun {
    /// The topic.
    pub identity: TopicIdentity,
    /// The ends of the partitions that there were. Empty for a table that had files already: what
    /// has no file there was added since.
    pub ends: BTreeMap<i32, Offset>,
    /// When it was put.
    pub created: DateTime<Utc>,
    /// Who put it.
    pub writer: WriterId,
}

/// Why it is not known how a table began.
#[derive(Debug, thiserror::Error)]
pub enum BegunError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record cannot be read.
    #[error("{path} is not a record that tagstream wrote: {reason}")]
    Bad {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where partitions without any file start.
#[derive(Debug, Clone)]
pub enum FirstOffset {
    /// At the oldest message kept.
    Earliest,
    /// Where partitions ended when the table began; at the oldest message of those that came later.
    Latest(Arc<TableBegun>),
}

impl FirstOffset {
    /// The first offset of `partition`.
    pub fn of(&self, partition: &PartitionId, log: &LogFacts) -> Offset {
        let FirstOffset::Latest(begun) = self else {
            return log.low;
        };
        match begun.ends.get(&partition.partition) {
            // Of another topic by that name, as far as can be told.
            Some(end) if begun.identity.contradicts(&log.identity) || *end > log.high => log.low,
            Some(end) => *end,
            None => log.low,
        }
    }
}

impl TableBegun {
    /// What the table's folder says; `None` before it began.
    ///
    /// # Errors
    /// [`BegunError`].
    pub async fn read(
        store: &TableStore,
        table: &str,
        topic: &str,
    ) -> Result<Option<Self>, BegunError> {
        let path = names::begun(store.root(), table, topic);
        let Some(bytes) = store.read(&path).await? else {
            return Ok(None);
        };
        let begun = serde_json::from_slice(&bytes).map_err(|e| BegunError::Bad {
            path: path.to_string(),
            reason: e.to_string(),
        })?;
        Ok(Some(begun))
    }

    /// Puts this record unless there is one already; whichever is there then counts.
    ///
    /// # Errors
    /// [`BegunError`].
    pub async fn put(
        mut self,
        store: &TableStore,
        table: &str,
        topic: &str,
    ) -> Result<Self, BegunError> {
        let has_files = |partition: &i32| {
            let partition = PartitionId::new(topic, *partition);
            let folder = Folder::new(store.root(), table, &partition);
            let folders = [
                Some(folder),
                Folder::unescaped(store.root(), table, &partition),
            ];
            async move {
                for folder in folders.into_iter().flatten() {
                    let names = store.list(folder.path(), None).await?;
                    if names.iter().any(|name| names::parse(name).is_some()) {
                        return Ok::<_, StoreError>(true);
                    }
                }
                Ok(false)
            }
        };
        if try_join_all(self.ends.keys().map(has_files))
            .await?
            .contains(&true)
        {
            self.ends.clear();
        }
        let path = names::begun(store.root(), table, topic);
        let bytes = serde_json::to_vec_pretty(&self).expect("a record is plain data");
        store.put_if_absent(&path, bytes.into()).await?;
        let put = Self::read(store, table, topic).await?;
        put.ok_or_else(|| BegunError::Bad {
            path: path.to_string(),
            reason: "it vanished".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_core::storage::names::Epoch;

    fn begun(ends: &[(i32, i64)], topic_id: Option<&str>) -> TableBegun {
        TableBegun {
            identity: TopicIdentity {
                cluster_id: None,
                topic_id: topic_id.map(Into::into),
            },
            ends: ends.iter().map(|(p, end)| (*p, Offset(*end))).collect(),
            created: Utc::now(),
            writer: WriterId("w".into()),
        }
    }

    fn first(begun: TableBegun, partition: i32, topic_id: &str) -> i64 {
        let log = LogFacts {
            low: Offset(2),
            stable: Offset(90),
            high: Offset(100),
            leader_epoch: None,
            committed: None,
            identity: TopicIdentity {
                cluster_id: None,
                topic_id: Some(topic_id.into()),
            },
        };
        let partition = PartitionId::new("images", partition);
        FirstOffset::Latest(Arc::new(begun)).of(&partition, &log).0
    }

    #[test]
    fn latest_is_where_partitions_ended_when_the_table_began() {
        let ends = [(0, 50), (1, 1), (2, 101)];
        assert_eq!(first(begun(&ends, Some("a")), 0, "a"), 50);
        // Retention took messages that came since: that is for the chain to say.
        assert_eq!(first(begun(&ends, Some("a")), 1, "a"), 1);
        assert_eq!(first(begun(&ends, None), 0, "a"), 50);
        for (begun, partition) in [
            (begun(&ends, Some("a")), 3),
            (begun(&ends, Some("b")), 0),
            (begun(&ends, None), 2),
            (begun(&[], Some("a")), 0),
        ] {
            assert_eq!(first(begun, partition, "a"), 2);
        }
    }

    #[tokio::test]
    async fn the_first_record_counts_and_tables_with_files_began_before() {
        let store = TableStore::in_memory();
        let read = async || TableBegun::read(&store, "table", "images").await.unwrap();
        assert_eq!(read().await, None);
        let one = begun(&[(0, 50)], Some("a"));
        let other = begun(&[(0, 60), (1, 5)], Some("a"));
        let put = async |b: &TableBegun, topic| b.clone().put(&store, "table", topic).await;
        assert_eq!(put(&one, "images").await.unwrap(), one);
        assert_eq!(put(&other, "images").await.unwrap(), one);
        assert_eq!(read().await, Some(one.clone()));
        // Another topic in the same table is another beginning.
        assert_eq!(put(&other, "more").await.unwrap(), other);
        let partition = PartitionId::new("older", 1);
        let origin = Folder::new(store.root(), "table", &partition).origin(Epoch(0));
        store.put_if_absent(&origin, "{}".into()).await.unwrap();
        assert_eq!(put(&other, "older").await.unwrap().ends, BTreeMap::new());
    }
}

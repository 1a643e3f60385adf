//! A list of images as it is kept beside its table, so that a position stands for the same image
//! however often the work on it is taken up.
//!
//! ```text
//! _listings/<table>/<name>/<first position, 20 digits>.jsonl
//!     a part: what it is, then an image a line; put once, never changed
//! ```

use crate::stage::source::Listing;
use chrono::{DateTime, Utc};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tagstream_core::events::{ImageReference, PartitionId};
use tagstream_core::storage::store::{Put, StoreError, TableStore};

/// The form of parts that this build writes.
const FORMAT: u32 = 1;
/// The folder of all lists.
const FOLDER: &str = "_listings";

/// Why a list cannot be had, or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptListingError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part that is none.
    #[error("{path} is no part of a list that tagstream wrote: {reason}")]
    Bad {
        /// The part.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer build wrote it.
    #[error("{path} has format {format}, written by a newer build: use a newer one")]
    Newer {
        /// The part.
        path: String,
        /// Its format.
        format: u32,
    },
    /// Somebody else was first.
    #[error("{path} was written by another process meanwhile: run again")]
    Overtaken {
        /// The part.
        path: String,
    },
}

/// What a part begins with.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    /// The list's own, in all parts.
    id: String,
    created: DateTime<Utc>,
    count: usize,
}

/// Where a list is kept.
#[derive(Debug, Clone)]
pub struct KeptListing {
    store: TableStore,
    folder: Path,
    partition: PartitionId,
}

/// In what a list that was found differs from the one that is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListingChanges {
    /// Images that the kept one does not have, by their names.
    pub added: Vec<ImageReference>,
    /// Images of the kept one that are no more.
    pub gone: usize,
    /// Images whose address is another one.
    pub moved: usize,
}

impl ListingChanges {
    /// From `kept` to `found`, whatever their orders.
    pub fn between(kept: &[ImageReference], found: Vec<ImageReference>) -> Self {
        let by_id = kept.iter().map(|image| (&*image.image_id, &*image.uri));
        let mut known: HashMap<&str, &str> = by_id.collect();
        let mut changes = ListingChanges::default();
        for image in found {
            match known.remove(&*image.image_id) {
                None => changes.added.push(image),
                Some(uri) if uri != image.uri => changes.moved += 1,
                Some(_) => {}
            }
        }
        changes.gone = known.len();
        changes
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        *self == ListingChanges::default()
    }
}

impl KeptListing {
    /// The list `name` of `table`.
    pub fn of(store: &TableStore, table: &str, name: &str) -> Self {
        KeptListing {
            store: store.clone(),
            folder: store.root().clone().join(FOLDER).join(table).join(name),
            partition: PartitionId::new(name, 0),
        }
    }

    /// What is kept; `None` if nothing is yet.
    ///
    /// # Errors
    /// [`KeptListingError`].
    pub async fn read(&self) -> Result<Option<Listing>, KeptListingError> {
        let mut listing: Option<Listing> = None;
        for path in self.store.list(&self.folder, None).await? {
            let Some(bytes) = self.store.read(&path).await? else {
                continue;
            };
            let bad = |reason: String| KeptListingError::Bad {
                path: path.to_string(),
                reason,
            };
            let (head, images) = part(&path, &bytes)?;
            let kept = listing.get_or_insert_with(|| Listing {
                partition: self.partition.clone(),
                id: head.id.clone(),
                created: head.created,
                images: Vec::new(),
            });
            let begins_at = self.path(kept.images.len());
            if path != begins_at || kept.id != head.id {
                return Err(bad(format!("{begins_at} should follow what is before it")));
            }
            kept.images.extend(images);
        }
        Ok(listing)
    }

    /// Keeps a list that is not there yet.
    ///
    /// # Errors
    /// [`KeptListingError`].
    pub async fn begin(&self, images: Vec<ImageReference>) -> Result<Listing, KeptListingError> {
        let listing = Listing {
            partition: self.partition.clone(),
            id: format!("{:016x}", rand::random::<u64>()),
            created: Utc::now(),
            images: Vec::new(),
        };
        self.append(listing, images).await
    }

    /// Keeps more images behind those of `listing`.
    ///
    /// # Errors
    /// [`KeptListingError`].
    pub async fn append(
        &self,
        mut listing: Listing,
        images: Vec<ImageReference>,
    ) -> Result<Listing, KeptListingError> {
        let path = self.path(listing.images.len());
        let bad = |reason: serde_json::Error| KeptListingError::Bad {
            path: path.to_string(),
            reason: reason.to_string(),
        };
        let head = Head {
            format: FORMAT,
            id: listing.id.clone(),
            created: listing.created,
            count: images.len(),
        };
        let mut text = serde_json::to_vec(&head).map_err(bad)?;
        text.push(b'\n');
        for image in &images {
            serde_json::to_writer(&mut text, image).map_err(bad)?;
            text.push(b'\n');
        }
        match self.store.put_if_absent(&path, text.into()).await? {
            Put::Created => {}
            Put::Exists => {
                let path = path.to_string();
                return Err(KeptListingError::Overtaken { path });
            }
        }
        listing.images.extend(images);
        Ok(listing)
    }

    fn path(&self, start: usize) -> Path {
        self.folder.clone().join(format!("{start:020}.jsonl"))
    }
}

fn part(path: &Path, bytes: &[u8]) -> Result<(Head, Vec<ImageReference>), KeptListingError> {
    let bad = |reason: String| KeptListingError::Bad {
        path: path.to_string(),
        reason,
    };
    let mut lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let first = lines.next().unwrap_or_default();
    let format: Format = serde_json::from_slice(first).map_err(|e| bad(e.to_string()))?;
    if format.format > FORMAT {
        return Err(KeptListingError::Newer {
            path: path.to_string(),
            format: format.format,
        });
    }
    let head: Head = serde_json::from_slice(first).map_err(|e| bad(e.to_string()))?;
    let images = lines.map(ImageReference::from_json);
    let images: Vec<_> = images
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if images.len() != head.count {
        let (is, was) = (images.len(), head.count);
        return Err(bad(format!("it holds {is} images of {was}")));
    }
    Ok((head, images))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> ImageReference {
        ImageReference {
            image_id: name.to_owned(),
            uri: format!("file:///{name}"),
            event_time: None,
            attributes: Default::default(),
        }
    }

    #[tokio::test]
    async fn a_list_is_kept_in_parts_that_nobody_writes_twice() {
        let store = TableStore::in_memory();
        let kept = KeptListing::of(&store, "predictions", "listing");
        assert!(kept.read().await.unwrap().is_none());
        let begun = kept.begin(vec![image("a"), image("b")]).await.unwrap();
        let again = kept.begin(vec![image("c")]).await.unwrap_err();
        assert!(
            matches!(again, KeptListingError::Overtaken { .. }),
            "{again}"
        );
        let all = kept.append(begun, vec![image("d")]).await.unwrap();
        let read = kept.read().await.unwrap().unwrap();
        assert_eq!((&read.images, &read.id), (&all.images, &all.id));
        assert_eq!(read.created, all.created);
        assert_eq!(read.images.len(), 3);
        let other = KeptListing::of(&store, "predictions", "other");
        assert!(other.read().await.unwrap().is_none());

        let hole = kept.path(7);
        let head = format!(
            r#"{{"format":1,"id":"{}","created":"2026-01-31T12:00:00Z","count":0}}"#,
            all.id
        );
        store.put_if_absent(&hole, head.into()).await.unwrap();
        let refused = kept.read().await.unwrap_err().to_string();
        assert!(
            refused.contains("00000000000000000003.jsonl should follow"),
            "{refused}"
        );
        let newer = br#"{"format":2,"new":true}"#;
        store.replace(&hole, newer.to_vec().into()).await.unwrap();
        let refused = kept.read().await.unwrap_err().to_string();
        assert!(refused.contains("newer build"), "{refused}");
    }

    #[test]
    fn changes_are_told_by_name_and_address_whatever_the_order() {
        let kept = [image("a"), image("b"), image("c")];
        let same = vec![image("c"), image("a"), image("b")];
        assert!(ListingChanges::between(&kept, same).is_empty());
        let mut moved = image("a");
        moved.uri.push('2');
        let changes = ListingChanges::between(&kept, vec![moved, image("b"), image("d")]);
        assert_eq!((changes.gone, changes.moved), (1, 1));
        assert_eq!(changes.added, [image("d")]);
    }
}

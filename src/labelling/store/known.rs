//! Which pictures the predictions know, and under which names those stand that they do not.

use super::{TableError, data_files, read_columns, strings};
use std::collections::HashMap;
use tagstream_core::image_id::without_extension;
use tagstream_core::storage::store::TableStore;

/// Pictures that are shown of those that predictions do not know.
const SHOWN: usize = 5;
/// Closeness of one that is the same by its address.
const SAME_ADDRESS: usize = usize::MAX;

/// How many pictures the predictions know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownPictures {
    /// Pictures asked about.
    pub asked: usize,
    /// Those that have a prediction.
    pub known: usize,
    /// Rows of the predictions table.
    pub predicted: u64,
    /// Some of those that have none, first those that are nearly known.
    pub misses: Vec<UnknownPicture>,
}

/// A picture that predictions do not know by this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPicture {
    /// Its name.
    pub image_id: String,
    /// The name of a prediction that may be the same picture: by its address, else by the end of
    /// its path.
    pub nearest: Option<String>,
}

/// A picture that is looked for.
struct Wanted<'a> {
    id: &'a str,
    known: bool,
    nearest: Option<(usize, String)>,
}

/// Looks for pictures, each by name and address (empty if unknown), in the predictions table.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn known_pictures<'a>(
    store: &TableStore,
    predictions: &str,
    pictures: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<KnownPictures, TableError> {
    let mut wanted: Vec<Wanted<'a>> = Vec::new();
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    let mut by_uri: HashMap<&str, usize> = HashMap::new();
    let mut by_end: HashMap<String, Vec<usize>> = HashMap::new();
    for (id, uri) in pictures {
        let at = *by_id.entry(id).or_insert_with(|| {
            by_end.entry(end(id)).or_default().push(wanted.len());
            wanted.push(Wanted {
                id,
                known: false,
                nearest: None,
            });
            wanted.len() - 1
        });
        if !uri.is_empty() {
            by_uri.insert(uri, at);
        }
    }
    let mut predicted = 0;
    for file in data_files(store, predictions).await? {
        read_columns(store, &file, &["image_id", "uri"], |batch, _| {
            let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
            for (id, uri) in ids.iter().zip(uris).filter_map(|(i, u)| i.zip(u)) {
                predicted += 1;
                if let Some(&at) = by_id.get(id) {
                    wanted[at].known = true;
                    continue;
                }
                let same = by_uri.get(uri).map(|at| (*at, SAME_ADDRESS));
                let alike = by_end.get(&end(id)).into_iter().flatten();
                let alike = alike.map(|&at| (at, closeness(id, wanted[at].id)));
                let alike: Vec<(usize, usize)> = alike.chain(same).collect();
                for (at, closeness) in alike {
                    let nearest = &mut wanted[at].nearest;
                    if nearest.as_ref().is_none_or(|(best, _)| *best < closeness) {
                        *nearest = Some((closeness, id.to_owned()));
                    }
                }
            }
            Ok(())
        })
        .await?;
    }
    let known = wanted.iter().filter(|picture| picture.known).count();
    let mut misses: Vec<&Wanted<'_>> = wanted.iter().filter(|picture| !picture.known).collect();
    misses.sort_by_key(|miss| (miss.nearest.is_none(), miss.id));
    let misses = misses.into_iter().take(SHOWN).map(|miss| UnknownPicture {
        image_id: miss.id.to_owned(),
        nearest: miss.nearest.as_ref().map(|(_, id)| id.clone()),
    });
    Ok(KnownPictures {
        asked: wanted.len(),
        known,
        predicted,
        misses: misses.collect(),
    })
}

/// The end of a name: the file's own, without extension, in small letters.
fn end(id: &str) -> String {
    let name = id.rsplit(['/', '\\']).next().unwrap_or(id);
    without_extension(name).to_lowercase()
}

/// How many parts of two paths are the same, counted from their ends.
fn closeness(a: &str, b: &str) -> usize {
    let parts = |text: &str| -> Vec<String> {
        let parts = without_extension(text).rsplit(['/', '\\']);
        parts.map(str::to_lowercase).collect()
    };
    let (a, b) = (parts(a), parts(b));
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b);
    same.count()
}

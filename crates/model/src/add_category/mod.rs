//! A bundle that knows more categories, or other words for those that it has, by words alone: no
//! training, no label.

use super::bundle::{Bundle, BundleError, Category};
use super::categories::{CategoryList, CategoryListError, WordFeatureError, settle, text_features};
use super::head::{ExportedHead, HeadError, NewDirection};
use super::new_head::{NewHead, Towers};
use super::text::{ClipTextEncoder, TextEncoderError};
use super::trained_on::TrainedOn;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How the lineage's method ends where categories were added by their words; the head is the
/// parent's but for that.
pub const BY_WORDS: &str = " and a category by its words";

/// How it ends where categories were given other words.
pub const NEW_WORDS: &str = " and other words";

/// Why categories cannot be added or changed.
#[derive(Debug, thiserror::Error)]
pub enum AddCategoryError {
    /// It is there.
    #[error(
        "the model has a category `{0}` already: `tagstream registry set-words` gives it other \
         words"
    )]
    Known(String),
    /// No name.
    #[error("a category needs a name and words to look for")]
    Empty,
    /// Everything is as the file says.
    #[error("the model's categories are as {0} says: nothing to change")]
    NothingNew(String),
    /// Nothing to make the words' feature with.
    #[error("{0} has no text tower (text/), without which words mean nothing")]
    NoTextTower(String),
    /// The text tower cannot be opened.
    #[error("opening the text tower: {0}")]
    TextTower(#[from] TextEncoderError),
    /// The file of categories.
    #[error(transparent)]
    List(#[from] CategoryListError),
    /// The words cannot be embedded.
    #[error("embedding the categories' words: {0}")]
    Text(#[from] WordFeatureError),
    /// The head does not take it.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The bundle cannot be read or written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Writes to `out` (which must not exist) the bundle with the category `name` behind all others.
/// `words` stand for it in the prompt "a photo of a ..."; without them the name does, underscores
/// as spaces.
///
/// # Errors
/// [`AddCategoryError`]; nothing is left at `out` then.
pub fn add_category(
    bundle: &Bundle,
    name: &str,
    words: Option<&str>,
    out: &Path,
) -> Result<Bundle, AddCategoryError> {
    let (name, words) = (name.trim(), words.map(str::trim));
    if name.is_empty() || words == Some("") {
        return Err(AddCategoryError::Empty);
    }
    add_categories(bundle, &CategoryList::of_one(name, words), out)
}

/// Writes to `out` (which must not exist) the bundle with the categories of `list` behind all
/// others. Their thresholds are those of the list, or where every model's begin: nothing is known
/// of their scores yet, and those of other categories say nothing about them.
///
/// What training left beside the head stays as it is: the next retraining starts the categories
/// from their words.
///
/// # Errors
/// [`AddCategoryError`]; nothing is left at `out` then.
pub fn add_categories(
    bundle: &Bundle,
    list: &CategoryList,
    out: &Path,
) -> Result<Bundle, AddCategoryError> {
    let known = &bundle.manifest().categories;
    let there = list
        .iter()
        .find(|new| known.iter().any(|c| c.name == new.name));
    if let Some(there) = there {
        return Err(AddCategoryError::Known(there.name.clone()));
    }
    Change::of(bundle, list)?.write(BY_WORDS, out)
}

/// Writes to `out` (which must not exist) the bundle in which the categories of `list` have the
/// words and relations that it says; those that the model lacks are added. Categories that the
/// list does not name, and all that was learnt, stay as they are.
///
/// # Errors
/// [`AddCategoryError`]; nothing is left at `out` then.
pub fn set_words(
    bundle: &Bundle,
    list: &CategoryList,
    out: &Path,
) -> Result<Bundle, AddCategoryError> {
    let change = Change::of(bundle, list)?;
    if change.categories == bundle.manifest().categories {
        return Err(AddCategoryError::NothingNew(
            list.path().display().to_string(),
        ));
    }
    change.write(NEW_WORDS, out)
}

/// A bundle and the categories that it is to have.
struct Change<'a> {
    bundle: &'a Bundle,
    list: &'a CategoryList,
    /// The bundle's in their order, then new ones.
    categories: Vec<Category>,
    /// Which of the list each of them is.
    listed: Vec<Option<usize>>,
}

impl<'a> Change<'a> {
    fn of(bundle: &'a Bundle, list: &'a CategoryList) -> Result<Self, AddCategoryError> {
        let mut categories = bundle.manifest().categories.clone();
        let mut listed = vec![None; categories.len()];
        let names = categories.iter().enumerate();
        let places: HashMap<String, usize> = names.map(|(at, c)| (c.name.clone(), at)).collect();
        for (at, new) in list.iter().enumerate() {
            match places.get(&new.name) {
                None => {
                    categories.push(new.clone());
                    listed.push(Some(at));
                }
                Some(place) => {
                    let old = std::mem::replace(&mut categories[*place], new.clone());
                    listed[*place] = Some(at);
                    if new.tags.threshold_from.is_none() {
                        // A line without a threshold says nothing of it.
                        categories[*place].threshold = old.threshold;
                        categories[*place].tags.threshold_from = old.tags.threshold_from;
                    }
                }
            }
        }
        let wordless = |at: &Option<usize>| at.is_some_and(|at| !list.listed()[at].has_words);
        let wordless: Vec<bool> = listed.iter().map(wordless).collect();
        settle(&mut categories.iter_mut().collect::<Vec<_>>(), &wordless);
        list.check_relations(categories.iter(), |at| listed[at])?;
        Ok(Change {
            bundle,
            list,
            categories,
            listed,
        })
    }

    fn write(self, how: &str, out: &Path) -> Result<Bundle, AddCategoryError> {
        let (bundle, manifest) = (self.bundle, self.bundle.manifest());
        let (head, trainable) = bundle.head()?;
        let files = self
            .head(head)?
            .to_files(Some(manifest.positions()), &trainable)?;
        // The id is this name and a hash of the content.
        let base = bundle.id().rsplit_once('-').map_or("model", |(n, _)| n);
        let head = NewHead {
            name: base,
            files: &files,
            categories: self.categories,
            calibration: manifest.calibration,
            // Figures of the parent are not this model's: it answers other questions.
            metrics: BTreeMap::new(),
            method: format!("{}{how}", manifest.lineage.method),
            label_snapshot: manifest.lineage.label_snapshot.clone(),
            seed: manifest.lineage.seed,
            // The same images, under other words.
            trained_on: TrainedOn::of_bundle(bundle)?,
        };
        Ok(Towers::from(bundle).with_head(head, out)?)
    }

    /// The bundle's head with the new words.
    fn head(&self, mut head: ExportedHead) -> Result<ExportedHead, AddCategoryError> {
        let old = &self.bundle.manifest().categories;
        let differs = |at: &usize| {
            old.get(*at).is_none_or(|old| {
                let new = &self.categories[*at];
                (&old.prompt, &old.words) != (&new.prompt, &new.words)
            })
        };
        let changed: Vec<usize> = (0..self.categories.len()).filter(differs).collect();
        if changed.is_empty() {
            return Ok(head);
        }
        let no_tower = || AddCategoryError::NoTextTower(self.bundle.id().into());
        let files = self.bundle.text_files().ok_or_else(no_tower)?;
        let text = ClipTextEncoder::open(&files)?;
        let new: Vec<&Category> = changed.iter().map(|at| &self.categories[*at]).collect();
        let to = text_features(&new, &text, |_| ()).map_err(|e| self.located(e, &changed))?;
        let before: Vec<&Category> = changed.iter().filter_map(|at| old.get(*at)).collect();
        let from = text_features(&before, &text, |_| ())?;
        let rows = changed.iter().zip(to.chunks_exact(head.dim));
        for (row, (category, to)) in rows.enumerate() {
            match from.get(row * to.len()..(row + 1) * to.len()) {
                Some(from) => head.turn(NewDirection {
                    category: *category,
                    from,
                    to,
                })?,
                None => head = head.with_category(to)?,
            }
        }
        Ok(head)
    }

    /// The error with the line that it is about.
    fn located(&self, error: WordFeatureError, changed: &[usize]) -> AddCategoryError {
        let of_list = |at: usize| changed.get(at).and_then(|at| self.listed[*at]);
        match self.list.located(&error, of_list) {
            Some(located) => AddCategoryError::List(located),
            None => AddCategoryError::Text(error),
        }
    }
}

#[cfg(test)]
mod tests;

//! Groups of images: relatives that stay on one side wherever a left-out prediction decides.
//!
//! A memory that has seen one picture of a series knows the others, and a left-out prediction of
//! them says nothing about tomorrow's pictures. So folds are made of *groups*, never of single
//! images: what an attribute or a pattern on the address says, else near-duplicates by embedding
//! ([`near_duplicates`]).
//!
//! The fold of a group depends on nothing but its name ([`fold_of`]), so it is the same in every
//! run, whatever else there is.

mod nearest;
mod pattern;

pub use nearest::{Linked, near_duplicates};
pub use pattern::{GroupPattern, PatternError};

use crate::groups::nearest::union;
use ndarray::ArrayView2;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use tagstream_core::config::settings;

settings! {
    /// What makes images relatives of each other.
    GroupConfig {
        /// The attribute of an image that names its group (a camera, a session, a product); empty:
        /// none.
        attribute: String = String::new(),
        /// A regular expression on the image's address, else on its id; its first capture (without
        /// one, all that it matches) names the group. Empty: none.
        pattern: String = String::new(),
        /// Images that neither names are grouped by embedding: two are relatives if the cosine of
        /// their centred embeddings is at least this, and relatives of relatives are too. Above 1:
        /// every image is a group of its own.
        similarity: f64 = 0.8,
        /// Most images compared with each other by embedding; further ones are groups of their
        /// own. The time grows with the square.
        compared: usize = 100_000,
    }
}

/// Every image's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    of: Vec<usize>,
    names: Vec<String>,
    /// Images that were not compared because there were too many.
    not_compared: usize,
}

/// What is known of images before they are grouped.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// Ids, `[n]`.
    pub ids: &'a [String],
    /// The group that an attribute or a pattern names, `[n]`.
    pub named: &'a [Option<String>],
    /// The group that an earlier run settled, by id: an image keeps its own for ever.
    pub settled: &'a HashMap<String, String>,
    /// Embeddings, `[n, D]`.
    pub embeddings: ArrayView2<'a, f32>,
}

impl Groups {
    /// Images that are relatives of nobody.
    pub fn single(ids: &[String]) -> Self {
        Self::of_names(ids.iter().cloned())
    }

    /// From the name of every image's group.
    ///
    /// ```
    /// use tagstream_train::groups::Groups;
    ///
    /// let groups = Groups::of_names(["may", "june", "may"].map(str::to_owned));
    /// assert_eq!((groups.count(), groups.len()), (2, 3));
    /// assert_eq!(groups.of(0), groups.of(2));
    /// let folds = groups.folds(5);
    /// assert_eq!(folds[0], folds[2]);
    /// ```
    pub fn of_names(names: impl IntoIterator<Item = String>) -> Self {
        let mut index = BTreeMap::new();
        let mut all = Vec::new();
        let of = names.into_iter().map(|name| {
            *index.entry(name).or_insert_with_key(|name| {
                all.push(name.clone());
                all.len() - 1
            })
        });
        Self {
            of: of.collect(),
            names: all,
            not_compared: 0,
        }
    }

    /// Groups as the settings say.
    ///
    /// What an earlier run settled stays. An image that an attribute or a pattern names is in that
    /// group. Of the others, near-duplicates are together: in the group of the relative that has
    /// one already, else in a new one with the name of its least id.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn find(candidates: &Candidates<'_>, config: &GroupConfig) -> Self {
        let Candidates {
            ids,
            named,
            settled,
            embeddings,
        } = candidates;
        assert!(ids.len() == named.len() && ids.len() == embeddings.nrows());
        let given: Vec<Option<&String>> = ids
            .iter()
            .zip(*named)
            .map(|(id, named)| settled.get(id).or(named.as_ref()))
            .collect();
        if given.iter().all(Option::is_some) {
            return Self::of_names(given.into_iter().flatten().cloned());
        }
        let linked = near_duplicates(*embeddings, config.similarity, config.compared);
        // The least name among a cluster's settled images, else among its ids.
        let mut least: HashMap<usize, (bool, &String)> = HashMap::new();
        for ((root, id), given) in linked.roots.iter().zip(*ids).zip(&given) {
            let name = (given.is_none(), given.unwrap_or(id));
            let entry = least.entry(*root).or_insert(name);
            *entry = (*entry).min(name);
        }
        let names = given.iter().zip(&linked.roots);
        let names = names.map(|(given, root)| given.map_or_else(|| least[root].1, |name| name));
        Self {
            not_compared: linked.not_compared,
            ..Self::of_names(names.cloned())
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Number of groups.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// Index of an image's group.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn of(&self, image: usize) -> usize {
        self.of[image]
    }

    /// Every image's group, by index.
    pub fn indices(&self) -> &[usize] {
        &self.of
    }

    /// Name of an image's group.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn name(&self, image: usize) -> &str {
        &self.names[self.of[image]]
    }

    /// Images that were left out of the comparison by embedding because there were too many.
    pub fn not_compared(&self) -> usize {
        self.not_compared
    }

    /// For every image whether another of the same group is there.
    pub fn with_relatives(&self) -> Vec<bool> {
        let mut sizes = vec![0usize; self.count()];
        self.of.iter().for_each(|group| sizes[*group] += 1);
        self.of.iter().map(|group| sizes[*group] > 1).collect()
    }

    /// The fold of every image among `folds`, whole groups together.
    pub fn folds(&self, folds: usize) -> Vec<usize> {
        let of_groups: Vec<usize> = self.names.iter().map(|n| fold_of(n, folds)).collect();
        self.of.iter().map(|group| of_groups[*group]).collect()
    }

    /// The same of some images, in their order.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn select(&self, images: &[usize]) -> Self {
        Self {
            not_compared: self.not_compared,
            ..Self::of_names(images.iter().map(|image| self.name(*image).to_owned()))
        }
    }

    /// The same, with the groups of `others` that have an image here in common joined.
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[must_use]
    pub fn joined(&self, others: &Self) -> Self {
        assert_eq!(self.len(), others.len(), "the same images");
        let shift = self.count();
        let links = self.of.iter().zip(&others.of).map(|(a, b)| (*a, shift + b));
        let roots = union(shift + others.count(), links);
        Self {
            not_compared: self.not_compared.max(others.not_compared),
            ..Self::of_names(
                self.of
                    .iter()
                    .map(|group| self.names[roots[*group]].clone()),
            )
        }
    }
}

/// The fold of a group: `floor(folds * u)`, u in [0, 1) from the first 53 bits of
/// SHA-256("tagstream group", name).
///
/// ```
/// use tagstream_train::groups::fold_of;
///
/// assert!(fold_of("1000", 5) < 5);
/// assert_eq!(fold_of("1000", 5), fold_of("1000", 5));
/// ```
pub fn fold_of(name: &str, folds: usize) -> usize {
    let mut hasher = Sha256::new();
    hasher.update(b"tagstream group\0");
    hasher.update(name.as_bytes());
    let hash = hasher.finalize();
    let bits = hash
        .iter()
        .take(8)
        .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte))
        >> 11;
    let unit = bits as f64 / (1u64 << 53) as f64;
    (folds as f64 * unit) as usize
}

#[cfg(test)]
mod tests;

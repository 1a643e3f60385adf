//! The categories and their pictograms, drawn for this project.

mod living;
mod made;

use super::pictogram::Pictogram;
use std::sync::LazyLock;

type Entry = (&'static str, &'static [&'static str]);

/// Names of the categories, in alphabetical order: the order of `categories.txt` and of category
/// indices.
pub fn categories() -> &'static [&'static str] {
    &CATALOGUE.names
}

/// The pictogram of the category with this index.
pub(super) fn pictogram(category: usize) -> &'static Pictogram {
    &CATALOGUE.pictograms[category]
}

struct Catalogue {
    names: Vec<&'static str>,
    pictograms: Vec<Pictogram>,
}

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let mut entries: Vec<&Entry> = living::ENTRIES.iter().chain(made::ENTRIES).collect();
    entries.sort_by_key(|(name, _)| *name);
    Catalogue {
        names: entries.iter().map(|(name, _)| *name).collect(),
        pictograms: entries
            .iter()
            .map(|(name, parts)| {
                // The texts are constants, and a test parses each of them.
                Pictogram::parse(parts).unwrap_or_else(|error| panic!("{name}: {error}"))
            })
            .collect(),
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_many_distinct_sorted_single_words() {
        let names = categories();
        assert!(names.len() >= 48, "{}", names.len());
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase()))
        );
    }
}

//! `tagstream registry add-category` and `set-words`: versions that differ by words alone.

use super::{BY_HAND, GuessArgs, Reason, register};
use std::path::{Path, PathBuf};
use tagstream_core::error::usage;
use tagstream_model::add_category::{AddCategoryError, add_categories, add_category, set_words};
use tagstream_model::bundle::{Bundle, Category};
use tagstream_model::categories::CategoryList;
use tagstream_model::registry::{Cache, Registry, VersionRecord};

/// What is to change in the version that serves.
#[derive(Debug, Clone, Copy)]
pub(super) enum WordsChange<'a> {
    /// A category more.
    AddOne {
        name: &'a str,
        words: Option<&'a str>,
    },
    /// All categories of a file more.
    Add(&'a Path),
    /// Words and relations as a file says.
    Set(&'a Path),
}

/// A folder of its own that goes when nobody needs it any more.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Self {
        let name = format!("tagstream-category-{:032x}", rand::random::<u128>());
        TemporaryFolder(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl WordsChange<'_> {
    /// Registers the serving version with the change and, if `wanted`, makes it serve.
    pub(super) async fn register(
        self,
        registry: &Registry,
        guess: &GuessArgs,
        wanted: bool,
        reason: &Reason,
    ) -> anyhow::Result<VersionRecord> {
        guess.check()?;
        let pointer = registry.pointer().await?;
        let generation = pointer.map(|p| p.generation);
        let serving = registry.current().await?;
        let folder = registry
            .materialise(&serving, &Cache::default_location())
            .await?;
        // Whatever comes of it, in the registry or not: what lies there is not needed any more.
        let aside = TemporaryFolder::new();
        let bundle = Bundle::open(folder)?;
        let changed =
            self.apply(&bundle, &aside.0.join("changed"))
                .map_err(|error| match error {
                    AddCategoryError::Known(_)
                    | AddCategoryError::Empty
                    | AddCategoryError::NothingNew(_)
                    | AddCategoryError::List(_)
                    | AddCategoryError::Text(_)
                    | AddCategoryError::Head(_) => usage(error.to_string()).into(),
                    other => anyhow::Error::new(other),
                })?;
        let changed = match guess.is_wanted() {
            false => changed,
            true => {
                let before = &bundle.manifest().categories;
                let unknown = |new: &Category| {
                    let same = |old: &Category| {
                        (&old.name, &old.prompt, &old.words) == (&new.name, &new.prompt, &new.words)
                    };
                    !before.iter().any(same)
                };
                guess.apply(&changed, unknown, &aside.0.join("guessed"))?
            }
        };
        let why = match reason.why.as_str() {
            BY_HAND => self.why(),
            why => why.to_owned(),
        };
        let reason = Reason {
            who: reason.who.clone(),
            why,
        };
        let over = wanted.then_some(generation);
        register(registry, &changed, over, &reason).await
    }

    fn apply(self, bundle: &Bundle, out: &Path) -> Result<Bundle, AddCategoryError> {
        match self {
            WordsChange::AddOne { name, words } => add_category(bundle, name, words, out),
            WordsChange::Add(file) => add_categories(bundle, &CategoryList::read_part(file)?, out),
            WordsChange::Set(file) => set_words(bundle, &CategoryList::read_part(file)?, out),
        }
    }

    /// The reason for the history where nobody gave one.
    fn why(self) -> String {
        match self {
            WordsChange::AddOne { name, .. } => format!("category `{name}` by its words"),
            WordsChange::Add(_) => "categories by their words".into(),
            WordsChange::Set(_) => "other words".into(),
        }
    }

    /// Says what came of it.
    pub(super) fn describe(self, version: &VersionRecord, serves: bool) {
        let (number, id, count) = (version.version, &version.id, version.categories);
        match self {
            WordsChange::AddOne { name, .. } => {
                println!("version {number} is {id}, with `{name}` as category {count}");
            }
            WordsChange::Add(_) | WordsChange::Set(_) => {
                println!("version {number} is {id}, with {count} categories");
            }
        }
        if !serves {
            println!("it does not serve yet: `tagstream registry promote {number}`");
        }
    }
}

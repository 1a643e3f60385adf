//! The file of categories.

use super::cells;
use super::error::CategoryListError;
use super::features::WordFeatureError;
use super::rows::{self, Cell, Column, Row};
use super::templates::{TemplateSet, Templates};
use super::words::{CategoryWords, Phrase, ThresholdSource, check_relations};
use crate::bundle::Category;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// The probability from which a category counts as a tag before anything is known of its scores.
const THRESHOLD: f32 = 0.5;

/// A category and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedCategory {
    /// Its line, from 1.
    pub line: usize,
    /// What the line says.
    pub category: Category,
    /// Whether the line gives it words; otherwise its name stands for it, or its children do.
    pub has_words: bool,
}

/// Categories in the order of the score vector.
#[derive(Debug, Clone, PartialEq)]
pub struct CategoryList {
    path: PathBuf,
    listed: Vec<ListedCategory>,
}

impl CategoryList {
    /// Reads a file of all categories that a model is to have: one name a line, optionally followed
    /// by a tab and the words to use in prompts; a CSV file whose header names the columns; or a
    /// JSON object a line. docs/categories.md says what columns there are.
    ///
    /// # Errors
    /// Names the line, the column and what stands there.
    pub fn read(path: &Path) -> Result<Self, CategoryListError> {
        let mut list = Self::read_part(path)?;
        let wordless: Vec<bool> = list.listed.iter().map(|l| !l.has_words).collect();
        let mut all: Vec<&mut Category> = list.listed.iter_mut().map(|l| &mut l.category).collect();
        settle(&mut all, &wordless);
        list.check_relations(list.iter(), Some)?;
        Ok(list)
    }

    /// Reads a file of some of a model's categories; their parents may be others of the model's,
    /// and are looked for among those.
    ///
    /// # Errors
    /// As [`CategoryList::read`].
    pub fn read_part(path: &Path) -> Result<Self, CategoryListError> {
        let content = std::fs::read(path).map_err(|source| CategoryListError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let text = std::str::from_utf8(&content).map_err(|error| {
            let before = &content[..error.valid_up_to()];
            CategoryListError::Line {
                path: path.to_path_buf(),
                line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
                flaw: "this is not UTF-8: save the file as UTF-8 (of a table: \"CSV UTF-8\")"
                    .into(),
            }
        })?;
        // Files written on other systems may begin with a byte order mark.
        let rows = rows::read(path, text.trim_start_matches('\u{feff}'))?;
        if rows.is_empty() {
            return Err(CategoryListError::Empty(path.to_path_buf()));
        }
        let mut reader = RowReader {
            path,
            templates: BTreeMap::new(),
        };
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        let mut listed = Vec::with_capacity(rows.len());
        for row in &rows {
            let one = reader.category(row)?;
            let name = one.category.name.clone();
            if let Some(first) = lines.insert(name, row.line) {
                let flaw = format!(
                    "this category is already on line {first}: give one of both another name, or \
                     put the words of both on one line"
                );
                return Err(reader.wrong(row, Column::Name, flaw));
            }
            listed.push(one);
        }
        Ok(CategoryList {
            path: path.to_path_buf(),
            listed,
        })
    }

    /// A list of one category, as a command line names it.
    pub(crate) fn of_one(name: &str, words: Option<&str>) -> Self {
        let usual = name.replace('_', " ");
        CategoryList {
            path: PathBuf::from("the command line"),
            listed: vec![ListedCategory {
                line: 1,
                category: Category::named(name, words.unwrap_or(&usual), THRESHOLD),
                has_words: words.is_some(),
            }],
        }
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of categories.
    pub fn len(&self) -> usize {
        self.listed.len()
    }

    /// Never true of a list that was read.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The categories.
    pub fn iter(&self) -> impl Iterator<Item = &Category> {
        self.listed.iter().map(|listed| &listed.category)
    }

    /// The categories with their lines.
    pub fn listed(&self) -> &[ListedCategory] {
        &self.listed
    }

    /// Refuses parents that cannot be among `categories`; `listed` says which of them is which of
    /// the list.
    pub(crate) fn check_relations<'a>(
        &self,
        categories: impl Iterator<Item = &'a Category>,
        listed: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), CategoryListError> {
        let Err((at, flaw)) = check_relations(categories) else {
            return Ok(());
        };
        // What is not in the list was right before: a category of the list is what broke it.
        let at = listed(at).unwrap_or(0);
        let category = &self.listed[at].category;
        let value = category.tags.parent.clone().unwrap_or_default();
        let remedy = "name a category that has a line of its own, or leave the cell empty";
        Err(self.wrong(at, Column::Parent, value, format!("{flaw}; {remedy}")))
    }

    /// The line and the cell that an error of [`super::text_features`] is about; `listed` says
    /// which of the list's categories its categories are.
    pub(crate) fn located(
        &self,
        error: &WordFeatureError,
        listed: impl Fn(usize) -> Option<usize>,
    ) -> Option<CategoryListError> {
        let (at, negative) = error.place()?;
        let at = listed(at)?;
        let listed = self.listed.get(at)?;
        let column = match negative {
            true => Column::Negative,
            // Where there is no such cell the name stands for it.
            false if listed.has_words => Column::Words,
            false => Column::Name,
        };
        let value = error.phrase().unwrap_or(&listed.category.prompt).to_owned();
        Some(self.wrong(at, column, value, error.flaw()))
    }

    fn wrong(&self, at: usize, column: Column, value: String, flaw: String) -> CategoryListError {
        CategoryListError::Cell {
            path: self.path.clone(),
            line: self.listed[at].line,
            column: column.name().to_owned(),
            value,
            flaw,
        }
    }
}

/// Decides which categories have the score of their children: those that were given no words
/// (`wordless`) and are a parent.
pub(crate) fn settle(categories: &mut [&mut Category], wordless: &[bool]) {
    let parents = categories.iter().filter_map(|c| c.tags.parent.clone());
    let parents: HashSet<String> = parents.collect();
    for (category, wordless) in categories.iter_mut().zip(wordless) {
        if *wordless && parents.contains(&category.name) {
            category.tags.of_children = true;
        }
    }
}

/// Turns lines into categories.
struct RowReader<'a> {
    path: &'a Path,
    /// Users' own templates that were read, by what the cell says.
    templates: BTreeMap<String, Templates>,
}

impl RowReader<'_> {
    fn wrong(&self, row: &Row, column: Column, flaw: String) -> CategoryListError {
        CategoryListError::Cell {
            path: self.path.to_path_buf(),
            line: row.line,
            column: column.name().to_owned(),
            value: row.cells.get(&column).map(Cell::shown).unwrap_or_default(),
            flaw,
        }
    }

    /// The cell of a column as `read` understands it; `None` where nothing stands.
    fn cell<T>(
        &self,
        row: &Row,
        column: Column,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, CategoryListError> {
        let Some(cell) = row.cells.get(&column) else {
            return Ok(None);
        };
        let text = match cell {
            Cell::Text(text) => text.as_str(),
            Cell::Phrases(_) => return Err(self.wrong(row, column, "it should be a text".into())),
        };
        match read(text) {
            Ok(value) => Ok(Some(value)),
            Err(flaw) => Err(self.wrong(row, column, flaw)),
        }
    }

    fn phrases(
        &self,
        row: &Row,
        column: Column,
        weights: cells::Weights,
    ) -> Result<Vec<Phrase>, CategoryListError> {
        match row.cells.get(&column) {
            Some(Cell::Phrases(phrases)) => Ok(phrases.clone()),
            _ => {
                let read = |text: &str| cells::phrases(text, weights);
                Ok(self.cell(row, column, read)?.unwrap_or_default())
            }
        }
    }

    fn category(&mut self, row: &Row) -> Result<ListedCategory, CategoryListError> {
        let text = |text: &str| Ok(text.to_owned());
        let Some(name) = self.cell(row, Column::Name, text)? else {
            let flaw = "a category needs a name: it is what labels and tags use".to_owned();
            return Err(self.wrong(row, Column::Name, flaw));
        };
        let mut phrases = self.phrases(row, Column::Words, cells::WORDS)?;
        let has_words = !phrases.is_empty();
        if !has_words {
            phrases.push(Phrase {
                text: name.replace('_', " "),
                weight: 1.0,
            });
        }
        let language = self.cell(row, Column::Language, cells::language)?;
        let words = CategoryWords {
            negative: self.phrases(row, Column::Negative, cells::NEGATIVE)?,
            templates: self.templates(row, language.as_deref())?,
            language,
            phrases,
        };
        let threshold = self.cell(row, Column::Threshold, cells::threshold)?;
        let mut category = Category::named(
            &name,
            &words.phrases[0].text,
            threshold.unwrap_or(THRESHOLD),
        );
        category.words = Some(words).filter(|words| !words.is_plain(&category.prompt));
        let tags = &mut category.tags;
        tags.parent = self.cell(row, Column::Parent, text)?;
        tags.group = self.cell(row, Column::Group, text)?;
        tags.display = self.cell(row, Column::Display, text)?;
        tags.hidden = self
            .cell(row, Column::DoNotShow, cells::flag)?
            .unwrap_or(false);
        tags.threshold_from = threshold.map(|_| ThresholdSource::Given);
        Ok(ListedCategory {
            line: row.line,
            category,
            has_words,
        })
    }

    /// The set that the cell names, or the file. Around words of another language no English
    /// sentence stands unless it is asked for.
    fn templates(
        &mut self,
        row: &Row,
        language: Option<&str>,
    ) -> Result<Templates, CategoryListError> {
        let Some(named) = self.cell(row, Column::Templates, |text| Ok(text.to_owned()))? else {
            let english = language.is_none_or(|l| l == "en" || l.starts_with("en-"));
            return Ok(match english {
                true => Templates::default(),
                false => Templates::Named(TemplateSet::None),
            });
        };
        let sets = TemplateSet::NAMES.iter();
        if let Some((_, set)) = sets.into_iter().find(|(name, _)| *name == named) {
            return Ok(Templates::Named(*set));
        }
        if let Some(known) = self.templates.get(&named) {
            return Ok(known.clone());
        }
        let path = self.path.parent().unwrap_or(Path::new("")).join(&named);
        let wrong = |flaw: String| self.wrong(row, Column::Templates, flaw);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            wrong(format!(
                "there is no set of templates of this name ({}), and no file {}: {error}",
                Templates::known(),
                path.display()
            ))
        })?;
        let own = Templates::of_lines(&text).map_err(wrong)?;
        self.templates.insert(named, own.clone());
        Ok(own)
    }
}

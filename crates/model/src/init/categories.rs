//! The file of categories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a file of categories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CategoryListError {
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{} line {line}: {flaw}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        flaw: String,
    },
    /// No line names a category.
    #[error("{} names no category", .0.display())]
    Empty(PathBuf),
}

/// Categories with the words that stand for them in prompts, in the order of the score vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryList(Vec<(String, String)>);

impl CategoryList {
    /// Reads a file with one category a line: its name, and optionally after a tab the words to use
    /// in prompts. Without them the words are the name with underscores as spaces. Empty lines are
    /// skipped.
    ///
    /// # Errors
    /// Names the line: a category twice, an empty name or prompt.
    pub fn read(path: &Path) -> Result<Self, CategoryListError> {
        let content = std::fs::read_to_string(path).map_err(|source| CategoryListError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        let mut all = Vec::new();
        // Files written on other systems may begin with a byte order mark.
        let content = content.trim_start_matches('\u{feff}');
        for (i, line) in content.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let flaw = |flaw: String| CategoryListError::Line {
                path: path.to_path_buf(),
                line: i + 1,
                flaw,
            };
            let (name, words) = match line.split_once('\t') {
                Some((name, words)) => (name.trim(), Some(words.trim())),
                None => (line.trim(), None),
            };
            if name.is_empty() || words == Some("") {
                return Err(flaw("a name or its prompt words are empty".to_owned()));
            }
            if let Some(first) = lines.insert(name, i + 1) {
                return Err(flaw(format!("`{name}` is already on line {first}")));
            }
            let words = words.map_or_else(|| name.replace('_', " "), str::to_owned);
            all.push((name.to_owned(), words));
        }
        if all.is_empty() {
            return Err(CategoryListError::Empty(path.to_path_buf()));
        }
        Ok(Self(all))
    }

    /// Number of categories.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true of a list that was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and prompt words.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, words)| (name.as_str(), words.as_str()))
    }

    /// The prompts, `{}` in `template` replaced by the words.
    pub fn prompts<'a>(&'a self, template: &'a str) -> impl Iterator<Item = String> + 'a {
        self.0
            .iter()
            .map(move |(_, words)| template.replace("{}", words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<CategoryList, CategoryListError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        CategoryList::read(file.path())
    }

    #[test]
    fn names_become_words() {
        let list = read("\u{feff}cat\r\n\ntraffic_light\ntvmonitor\ttelevision screen\n").unwrap();
        let all: Vec<_> = list.iter().collect();
        let expected = [
            ("cat", "cat"),
            ("traffic_light", "traffic light"),
            ("tvmonitor", "television screen"),
        ];
        assert_eq!(all, expected);
        assert_eq!(
            list.prompts("a photo of a {}").nth(1).unwrap(),
            "a photo of a traffic light"
        );
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn flaws_name_the_line() {
        let message = read("cat\ndog\ncat\n").unwrap_err().to_string();
        assert!(
            message.contains("line 3") && message.contains("line 1"),
            "{message}"
        );
        let message = read("cat\ndog\t \n").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
        assert!(matches!(read(" \n\n"), Err(CategoryListError::Empty(_))));
        assert!(CategoryList::read(Path::new("/nowhere")).is_err());
    }
}

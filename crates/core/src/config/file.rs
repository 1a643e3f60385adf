//! A TOML file, held against the keys of a configuration. Everything that can be found wrong with
//! it is found in one pass, each with its line and column.

use super::nearest::advice;
use super::{Key, Kind, Mistake, Origin, Shape, values};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The values that are right.
    pub values: toml::Table,
    /// Where each of them stands.
    pub origins: BTreeMap<String, Origin>,
    /// What is wrong, in the order of the file.
    pub mistakes: Vec<Mistake>,
}

/// Reads `text`, which is that of the file `path`.
pub(super) fn read(path: &str, text: &str, own: &Shape, others: &[Shape]) -> Said {
    let mut reader = Reader {
        path,
        text,
        own,
        others,
        origins: BTreeMap::new(),
        mistakes: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut values = toml::Table::new();
    if errors.is_empty() {
        values = reader.table(table.get_ref(), own.keys, &[]);
    }
    for error in errors {
        // The message alone: with its context it would show the line, which may hold a secret.
        let at = error.span().map_or(0, |span| span.start);
        reader.mistake(at, "", format!("is not TOML: {}", error.message()));
    }
    reader.mistakes.sort_by_key(|(at, _)| *at);
    Said {
        values,
        origins: reader.origins,
        mistakes: reader
            .mistakes
            .into_iter()
            .map(|(_, mistake)| mistake)
            .collect(),
    }
}

/// The names of the sections (and other keys outside any) of a file; none if it is not TOML.
pub fn section_names(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap_or_default();
    table.keys().cloned().collect()
}

struct Reader<'a> {
    path: &'a str,
    text: &'a str,
    own: &'a Shape,
    others: &'a [Shape],
    origins: BTreeMap<String, Origin>,
    /// With their offsets.
    mistakes: Vec<(usize, Mistake)>,
}

impl Reader<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.rfind('\n').map_or(before, |at| &before[at + 1..]);
        Origin::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }

    fn mistake(&mut self, offset: usize, key: &str, reason: String) {
        let mistake = Mistake {
            origin: self.origin(offset),
            key: key.to_owned(),
            reason,
        };
        self.mistakes.push((offset, mistake));
    }

    fn table(&mut self, table: &DeTable<'_>, keys: &[Key], above: &[&str]) -> toml::Table {
        let mut right = toml::Table::new();
        for (name, value) in table {
            let path = [above, &[&**name.get_ref()]].concat();
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else {
                let advice = advice(&path, self.own, self.others);
                self.mistake(name.span().start, &path.join("."), advice);
                continue;
            };
            if let Some(value) = self.value(value, key.kind, &path, name.span().start) {
                right.insert(key.name.to_owned(), value);
            }
        }
        right
    }

    /// The value of the key `path`, whose name stands at `at`.
    fn value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        kind: Kind,
        path: &[&str],
        at: usize,
    ) -> Option<toml::Value> {
        if let (Kind::Section(keys), DeValue::Table(table)) = (kind, value.get_ref()) {
            return Some(toml::Value::Table(self.table(table, keys, path)));
        }
        if let (Some(entries), DeValue::Table(table)) = (kind.entries(), value.get_ref()) {
            return Some(toml::Value::Table(self.open(table, kind, entries, path)));
        }
        let joined = path.join(".");
        match values::from_file(value.get_ref(), kind) {
            Ok(right) => {
                self.origins.insert(joined, self.origin(at));
                Some(right)
            }
            Err(reason) => {
                self.mistake(value.span().start, &joined, reason);
                None
            }
        }
    }

    /// A table whose names are not keys of ours.
    fn open(
        &mut self,
        table: &DeTable<'_>,
        kind: Kind,
        entries: Kind,
        above: &[&str],
    ) -> toml::Table {
        let mut right = toml::Table::new();
        for (name, value) in table {
            let at = name.span().start;
            let name: &str = name.get_ref();
            let path = [above, &[name]].concat();
            let spell = |near: &str| [above, &[near]].concat().join(".");
            if let Err(reason) = values::open_name(kind, name, spell) {
                self.mistake(at, &path.join("."), reason);
            } else if let (Kind::Properties, DeValue::Table(_)) = (kind, value.get_ref()) {
                let reason = "is a table, because the dots are not in quotes: write \
                              \"name.with.dots\" = \"...\"";
                self.mistake(at, &path.join("."), reason.into());
            } else if let Some(value) = self.value(value, entries, &path, at) {
                right.insert(name.to_owned(), value);
            }
        }
        right
    }
}

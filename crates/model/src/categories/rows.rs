//! The lines of a file of categories, in whichever form it is.

use super::cells::{NEGATIVE, WORDS, checked, distinct};
use super::error::{CategoryListError, join_names};
use super::words::Phrase;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What a column says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Name,
    Words,
    Templates,
    Parent,
    Group,
    Language,
    Negative,
    Threshold,
    DoNotShow,
    Display,
}

/// The columns and their names; `negative words` and `do-not-show` are the same names.
const COLUMNS: [(&str, Column); 11] = [
    ("name", Column::Name),
    ("words", Column::Words),
    ("templates", Column::Templates),
    ("parent", Column::Parent),
    ("group", Column::Group),
    ("language", Column::Language),
    ("negative", Column::Negative),
    ("negative_words", Column::Negative),
    ("threshold", Column::Threshold),
    ("do_not_show", Column::DoNotShow),
    ("display", Column::Display),
];

impl Column {
    fn of(header: &str) -> Option<Column> {
        let header = header.trim().to_lowercase().replace([' ', '-'], "_");
        let found = COLUMNS.iter().find(|(name, _)| *name == header);
        found.map(|(_, column)| *column)
    }

    /// As files write it.
    pub(super) fn name(self) -> &'static str {
        let found = COLUMNS.iter().find(|(_, column)| *column == self);
        found.map_or("", |(name, _)| name)
    }
}

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// Text, in the form of a CSV cell.
    Text(String),
    /// A list of phrases, which JSON can write.
    Phrases(Vec<Phrase>),
}

impl Cell {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Phrases(phrases) => {
                let texts: Vec<&str> = phrases.iter().map(|p| p.text.as_str()).collect();
                texts.join(" | ")
            }
        }
    }
}

/// A line with the cells that are not empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// From 1.
    pub line: usize,
    pub cells: BTreeMap<Column, Cell>,
}

/// The lines of `text`, which stands in `path`.
pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Row>, CategoryListError> {
    let lines = text.lines().enumerate();
    let Some((at, first)) = lines.into_iter().find(|(_, line)| !line.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let extension = extension.to_lowercase();
    let line = |flaw: String| CategoryListError::Line {
        path: path.to_path_buf(),
        line: at + 1,
        flaw,
    };
    if serde_json::from_str::<serde_json::Map<_, _>>(first).is_ok()
        || ["jsonl", "ndjson"].contains(&extension.as_str())
    {
        return json_lines(path, text);
    }
    if ["json", "toml", "yaml", "yml"].contains(&extension.as_str()) {
        let flaw = "this form is not read: write one name a line, a CSV file with a header, or one \
                    JSON object a line (.jsonl)";
        return Err(line(flaw.into()));
    }
    let is_table = extension == "csv" || extension == "tsv";
    let header = |delimiter: &char| {
        let names: Vec<&str> = first
            .split(*delimiter)
            .map(|name| name.trim().trim_matches('"'))
            .collect();
        let named = names.iter().any(|n| Column::of(n) == Some(Column::Name));
        named && (names.len() > 1 || is_table)
    };
    if let Some(delimiter) = [',', ';', '\t'].iter().find(|delimiter| header(delimiter)) {
        return table(path, text, *delimiter as u8);
    }
    if extension == "csv" && first.contains([',', ';']) {
        let known = join_names(COLUMNS.iter().map(|(name, _)| *name));
        return Err(line(format!(
            "the header has no column `name`; columns are {known}"
        )));
    }
    plain(path, text)
}

/// One name a line, and words behind a tab.
fn plain(path: &Path, text: &str) -> Result<Vec<Row>, CategoryListError> {
    let mut rows = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let (name, words) = match line.split_once('\t') {
            Some((name, words)) => (name.trim(), Some(words.trim())),
            None => (line.trim(), None),
        };
        if name.is_empty() || words == Some("") {
            return Err(CategoryListError::Line {
                path: path.to_path_buf(),
                line: at + 1,
                flaw: "a name or its prompt words are empty".to_owned(),
            });
        }
        let mut cells = BTreeMap::from([(Column::Name, Cell::Text(name.to_owned()))]);
        if let Some(words) = words {
            // As it stands: neither separators nor weights.
            let phrase = Phrase {
                text: words.to_owned(),
                weight: 1.0,
            };
            cells.insert(Column::Words, Cell::Phrases(vec![phrase]));
        }
        let line = at + 1;
        rows.push(Row { line, cells });
    }
    Ok(rows)
}

/// CSV with a header.
fn table(path: &Path, text: &str, delimiter: u8) -> Result<Vec<Row>, CategoryListError> {
    let flaw = |line: usize, flaw: String| CategoryListError::Line {
        path: path.to_path_buf(),
        line,
        flaw,
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let mut columns: Vec<Column> = Vec::new();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            flaw(line as usize, error.to_string())
        })?;
        let line = line_of(&record, text);
        if columns.is_empty() {
            columns = header(&record).map_err(|what| flaw(line, what))?;
            continue;
        }
        if record.len() > columns.len() {
            return Err(flaw(
                line,
                format!(
                    "it has {} cells, the header {}: put quotes around cells that hold the \
                     separator",
                    record.len(),
                    columns.len()
                ),
            ));
        }
        let cells = columns.iter().zip(record.iter());
        let cells: BTreeMap<Column, Cell> = cells
            .filter(|(_, cell)| !cell.is_empty())
            .map(|(column, cell)| (*column, Cell::Text(cell.to_owned())))
            .collect();
        if !cells.is_empty() {
            rows.push(Row { line, cells });
        }
    }
    Ok(rows)
}

/// The line on which a record begins. The reader says where it began to look for one, which may be
/// an empty line before it.
fn line_of(record: &csv::StringRecord, text: &str) -> usize {
    let Some(position) = record.position() else {
        return 0;
    };
    let from = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let rest = text.as_bytes().get(from..).unwrap_or_default();
    let empty = rest.iter().take_while(|byte| [b'\r', b'\n'].contains(byte));
    position.line() as usize + empty.filter(|byte| **byte == b'\n').count()
}

fn header(record: &csv::StringRecord) -> Result<Vec<Column>, String> {
    let mut columns: Vec<Column> = Vec::new();
    for name in record {
        let column = Column::of(name).ok_or_else(|| unknown_column(name))?;
        if columns.contains(&column) {
            return Err(format!("the column `{}` is there twice", column.name()));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn unknown_column(name: &str) -> String {
    let known = join_names(COLUMNS.iter().map(|(name, _)| *name));
    format!("there is no column `{name}`; columns are {known}")
}

/// A JSON object a line.
fn json_lines(path: &Path, text: &str) -> Result<Vec<Row>, CategoryListError> {
    let mut rows = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let flaw = |flaw: String| CategoryListError::Line {
            path: path.to_path_buf(),
            line: at + 1,
            flaw,
        };
        let object: serde_json::Map<String, Value> =
            serde_json::from_str(line).map_err(|error| flaw(format!("no JSON object: {error}")))?;
        let mut cells = BTreeMap::new();
        for (name, value) in object {
            let column = Column::of(&name).ok_or_else(|| flaw(unknown_column(&name)))?;
            let cell = json_cell(column, &value).map_err(|flaw| CategoryListError::Cell {
                path: path.to_path_buf(),
                line: at + 1,
                column: column.name().to_owned(),
                value: value.to_string(),
                flaw,
            })?;
            if cells.contains_key(&column) {
                return Err(flaw(format!("`{}` is there twice", column.name())));
            }
            if let Some(cell) = cell {
                cells.insert(column, cell);
            }
        }
        let line = at + 1;
        rows.push(Row { line, cells });
    }
    Ok(rows)
}

/// `None` where there is nothing.
fn json_cell(column: Column, value: &Value) -> Result<Option<Cell>, String> {
    Ok(match value {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(Cell::Text(text.trim().to_owned())),
        Value::Bool(_) | Value::Number(_) if column != Column::Words => {
            Some(Cell::Text(value.to_string()))
        }
        Value::Array(items) if [Column::Words, Column::Negative].contains(&column) => {
            let weights = match column {
                Column::Negative => NEGATIVE,
                _ => WORDS,
            };
            let phrase = |item: &Value| match (item, item.get("text"), item.get("weight")) {
                (Value::String(text), ..) => checked(text.trim(), weights.usual, weights),
                (Value::Object(o), Some(Value::String(text)), None) if o.len() == 1 => {
                    checked(text.trim(), weights.usual, weights)
                }
                (Value::Object(o), Some(Value::String(text)), Some(Value::Number(weight)))
                    if o.len() == 2 =>
                {
                    let weight = weight.as_f64().unwrap_or(f64::NAN) as f32;
                    checked(text.trim(), weight, weights)
                }
                _ => Err(r#"a phrase is a text or {"text": ..., "weight": ...}"#.into()),
            };
            let phrases = distinct(items.iter().map(phrase).collect::<Result<_, _>>()?)?;
            (!phrases.is_empty()).then_some(Cell::Phrases(phrases))
        }
        _ => return Err("it should be a text".into()),
    })
}

//! The reference files in `configs/`: every key, commented, with its default and its description.

use super::{Configuration, Key};
use toml::{Table, Value};

/// The widest line of prose in a reference file.
const WIDTH: usize = 100;

/// The text of the reference file of a configuration.
pub fn reference<T: Configuration>() -> String {
    let shape = T::SHAPE;
    let stem = shape.file.trim_end_matches(".toml");
    let mut text = format!("#:schema ../schemas/{stem}.schema.json\n#\n");
    text.push_str(&wrapped(shape.head));
    text.push_str("#\n");
    text.push_str(&wrapped(HOW));
    text.push_str("#\n");
    text.push_str(&wrapped(MADE));
    let defaults = Table::try_from(T::default()).expect("the defaults are plain data");
    for section in shape.keys {
        write_section(&mut text, section, section.name, &defaults[section.name]);
    }
    text
}

/// A section: its keys, then the sections within it.
fn write_section(text: &mut String, section: &Key, path: &str, defaults: &Value) {
    text.push('\n');
    text.push_str(&wrapped(&description(section)));
    text.push_str(&format!("[{path}]\n"));
    let (within, keys): (Vec<&Key>, Vec<&Key>) = section
        .kind
        .keys()
        .iter()
        .partition(|key| !key.kind.keys().is_empty());
    for key in keys {
        text.push_str(&wrapped(&description(key)));
        let default = inline(&defaults[key.name]);
        text.push_str(&format!("#{} = {default}\n", key.name));
    }
    for key in within {
        let path = format!("{path}.{}", key.name);
        write_section(text, key, &path, &defaults[key.name]);
    }
}

const HOW: &str = "A line that begins with `#` and no space is a key with its default: take the \
    `#` away to change it. An environment variable overrides a key by its path: \
    TAGSTREAM_FETCH__TIMEOUT_MS=2000 sets fetch.timeout_ms. \
    `tagstream config validate --config FILE` checks a file, `tagstream config print` shows what \
    results.";

const MADE: &str = "Made from the settings in the source; a test fails when it is stale \
    (UPDATE_DOCS=1 cargo test --test suite shipped writes it, and its schema).";

/// A key's description as one paragraph.
pub(super) fn description(key: &Key) -> String {
    let words: Vec<&str> = key.docs.iter().map(|line| line.trim()).collect();
    words.join(" ")
}

/// Prose as lines of comment.
fn wrapped(prose: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in prose.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// One value on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "{}".into(),
        other => other.to_string(),
    }
}

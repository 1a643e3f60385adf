//! The names of YOLO's classes, in the files that its tools keep them in.

use super::super::error::{LabelFileError, LabelsError, line};
use super::super::objects::text;
use std::collections::BTreeMap;
use std::path::Path;

/// Files that hold a name a line.
const LISTS: [&str; 3] = ["classes.txt", "obj.names", "predefined_classes.txt"];
/// Files of Ultralytics' form.
const YAML: [&str; 4] = ["data.yaml", "data.yml", "dataset.yaml", "dataset.yml"];

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_number: BTreeMap<usize, String>,
    /// Where they stand.
    pub(super) source: String,
}

impl Names {
    pub(super) fn get(&self, class: usize) -> Option<&str> {
        self.by_number.get(&class).map(String::as_str)
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.by_number.values()
    }
}

/// The names that a folder tells; `path` may be the file itself.
pub(super) fn of_folder(root: &Path, path: &Path) -> Result<Names, LabelFileError> {
    let known = YAML.iter().chain(&LISTS).map(|name| root.join(name));
    let file = match path.is_file() {
        true => Some(path.to_path_buf()),
        false => known.into_iter().find(|file| file.is_file()),
    };
    let Some(file) = file else {
        let names = [&YAML[..], &LISTS].concat().join(", ");
        let reason = format!("tells no names of classes: none of {names} is there");
        return Err(LabelsError::Empty(reason).at(root));
    };
    let content = text(&file)?;
    let extension = file
        .extension()
        .map(|extension| extension.to_string_lossy());
    let by_number = match extension.is_some_and(|e| e == "yaml" || e == "yml") {
        true => yaml(&content).map_err(|error| error.at(&file))?,
        false => {
            let lines = content.lines().map(str::trim).enumerate();
            let named = lines.filter(|(_, name)| !name.is_empty());
            named
                .map(|(number, name)| (number, name.to_owned()))
                .collect()
        }
    };
    if by_number.is_empty() {
        return Err(LabelsError::Empty("names no class".into()).at(&file));
    }
    Ok(Names {
        by_number,
        source: file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    })
}

/// The key `names` of a YAML file: a list or a map, in brackets or over several lines.
fn yaml(text: &str) -> Result<BTreeMap<usize, String>, LabelsError> {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().position(|line| line.starts_with("names:"));
    let start = start.ok_or_else(|| line(1, "there is no `names:`, which holds the classes"))?;
    let number = start as u64 + 1;
    let first = without_comment(lines[start]["names:".len()..].trim());
    let items = match first.chars().next() {
        Some(open @ ('[' | '{')) => {
            let close = if open == '[' { ']' } else { '}' };
            bracketed(&lines[start..], first, close)
                .ok_or_else(|| line(number, format!("`names: {open}` has no `{close}`")))?
        }
        None => {
            let below = lines[start + 1..].iter().map(|line| without_comment(line));
            let inside =
                below.take_while(|line| line.is_empty() || line.starts_with([' ', '\t', '-']));
            inside
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect()
        }
        Some(_) => return Err(line(number, "`names:` is neither a list nor a map")),
    };
    let mut names = BTreeMap::new();
    for (item, at) in items.iter().zip(0..) {
        let (key, name) = match item.strip_prefix('-') {
            Some(name) => (at, name),
            // A colon stands in a map, or in a name that is quoted.
            None => match item.split_once(':') {
                Some((key, name)) if !item.starts_with(['"', '\'']) => {
                    let wrong = || line(number, format!("`names` has the key `{key}`, no number"));
                    (unquoted(key).parse().map_err(|_| wrong())?, name)
                }
                _ => (at, item.as_str()),
            },
        };
        names.insert(key, unquoted(name).to_owned());
    }
    names.retain(|_, name| !name.is_empty());
    Ok(names)
}

/// What stands between brackets, parted by commas outside of quotes.
fn bracketed(lines: &[&str], first: &str, close: char) -> Option<Vec<String>> {
    let rest = lines.iter().skip(1).map(|line| without_comment(line));
    let mut items = vec![String::new()];
    let mut quote = None;
    for text in std::iter::once(&first[1..]).chain(rest) {
        for c in text.chars() {
            let item = items.last().map_or("", |item| item.trim());
            let begins = item.is_empty() || item.ends_with(':');
            match quote {
                Some(open) if c == open => quote = None,
                None if begins && (c == '"' || c == '\'') => quote = Some(c),
                None if c == close => {
                    items.retain(|item| !item.trim().is_empty());
                    return Some(items.iter().map(|item| item.trim().to_owned()).collect());
                }
                None if c == ',' => {
                    items.push(String::new());
                    continue;
                }
                _ => {}
            }
            if let Some(item) = items.last_mut() {
                item.push(c);
            }
        }
        if let Some(item) = items.last_mut() {
            item.push(' ');
        }
    }
    None
}

/// A line without the comment at its end. Within quotes there is none.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if (c == '"' || c == '\'') && !before.is_alphanumeric() => quote = Some(c),
            None if c == '#' && before.is_whitespace() => return line[..at].trim_end(),
            _ => {}
        }
        before = c;
    }
    line.trim_end()
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inside = |quote| {
        text.strip_prefix(quote)
            .and_then(|t: &str| t.strip_suffix(quote))
    };
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_way_that_yaml_writes_them() {
        for text in [
            "path: x\nnames: [cat, 'big dog', \"a: b\"] # three\nnc: 3\n",
            "names: ['cat', 'big dog',\n  'a: b']\n",
            "nc: 3\nnames:\n- cat\n- big dog  # x\n- 'a: b'\ntrain: images\n",
            "names:\n  0: cat\n  1: 'big dog'\n\n  2: \"a: b\"\nval: x\n",
            "names: {0: cat, 1: big dog, 2: 'a: b'}\n",
        ] {
            let names: Vec<String> = yaml(text).unwrap().into_values().collect();
            assert_eq!(names, ["cat", "big dog", "a: b"], "{text}");
        }
        for (text, said) in [
            ("nc: 3\n", "no `names:`"),
            ("names: [a, b\n", "has no `]`"),
            ("names: classes.txt\n", "neither a list nor a map"),
            ("names:\n  cat: 0\n", "the key `cat`"),
        ] {
            let error = yaml(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}

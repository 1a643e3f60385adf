//! The nearest right name for one that is wrong.

use super::{Key, Shape};

/// What the names of keys end in where they have a unit.
const UNITS: [&str; 10] = [
    "ms", "s", "sec", "seconds", "minutes", "kib", "mib", "mb", "gib", "gb",
];

/// The name among `candidates` that was most likely meant, if any is near enough.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(&name, candidate)?, candidate.len(), candidate)))
        .min()
        .map(|(.., candidate)| candidate)
}

/// How far a name is from what was written; `None`: too far to be what was meant.
fn distance(name: &str, candidate: &str) -> Option<usize> {
    // A unit that is missing or another one is the likeliest mistake of all.
    if without_unit(name) == without_unit(candidate) {
        return Some(0);
    }
    let longer_by = |long: &str, short: &str| -> Option<usize> {
        long.strip_prefix(short)?.strip_prefix('_').map(|_| 2)
    };
    let ends_in = |long: &str, short: &str| -> Option<usize> {
        long.strip_suffix(short)?.strip_suffix('_').map(|_| 3)
    };
    let edits = edits(name, candidate);
    let near = edits <= (name.chars().count().max(3) / 3).max(1);
    [
        near.then_some(edits),
        longer_by(candidate, name),
        longer_by(name, candidate),
        ends_in(candidate, name),
        ends_in(name, candidate),
    ]
    .into_iter()
    .flatten()
    .min()
}

fn without_unit(name: &str) -> &str {
    match name.rsplit_once('_') {
        Some((rest, unit)) if UNITS.contains(&unit) => rest,
        _ => name,
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that make one of the other
/// (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The path of the key of `shape` that was most likely meant by `path`.
pub(super) fn nearest_key(path: &[&str], shape: &Shape) -> Option<String> {
    let (name, sections) = path.split_last()?;
    let joined = |section: &str, name: &str| format!("{section}.{name}");
    if let [section] = sections {
        let known = shape.keys.iter().find(|key| key.name == *section);
        // A section misspelt, a key right or nearly so.
        let near = || {
            let near = nearest(section, shape.keys.iter().map(|key| key.name))?;
            shape.keys.iter().find(|key| key.name == near)
        };
        if let Some(section) = known.or_else(near)
            && let Some(found) = nearest(name, names(section.kind.keys()))
        {
            return Some(joined(section.name, found));
        }
    }
    if sections.is_empty()
        && let Some(section) = nearest(name, names(shape.keys))
    {
        return Some(section.into());
    }
    // The right name, or one that lacks its unit, in the wrong section.
    let all = shape.keys.iter().flat_map(|section| {
        let keys = section.kind.keys().iter();
        keys.map(move |key| (section.name, key.name))
    });
    all.filter_map(|(section, key)| Some((distance(name, key)?, section, key)))
        .filter(|(distance, ..)| *distance == 0)
        .min()
        .map(|(_, section, key)| joined(section, key))
}

fn names(keys: &'static [Key]) -> impl Iterator<Item = &'static str> {
    keys.iter().map(|key| key.name)
}

/// What to say about a path that names no key of `own`.
pub(super) fn advice(path: &[&str], own: &Shape, others: &[Shape]) -> String {
    let here = own.file;
    let what = if path.len() == 1 { "section" } else { "key" };
    if let Some(other) = others.iter().find(|other| other.has(path)) {
        return format!("is a {what} of {}, not of {here}", other.file);
    }
    let no = format!("is no {what} of {here}");
    if let Some(key) = nearest_key(path, own) {
        return format!("{no}; did you mean `{key}`?");
    }
    let elsewhere = others
        .iter()
        .find_map(|other| Some((nearest_key(path, other)?, other.file)));
    if let Some((key, file)) = elsewhere {
        return format!("{no}; {file} has `{key}`");
    }
    let (group, keys) = match path {
        [section, _, ..] => match own.section(section) {
            Some(keys) => (format!("the keys of [{section}]"), keys),
            None => ("its sections".into(), own.keys),
        },
        _ => ("its sections".into(), own.keys),
    };
    let list: Vec<&str> = names(keys).collect();
    format!("{no}; {group} are {}", list.join(", "))
}

impl Shape {
    /// Whether a path names a section or a key.
    pub(super) fn has(&self, path: &[&str]) -> bool {
        let mut keys = self.keys;
        let mut open = false;
        for name in path {
            match keys.iter().find(|key| key.name == *name) {
                Some(key) => {
                    open = key.kind.entries().is_some();
                    keys = key.kind.keys();
                }
                None => return open,
            }
        }
        !path.is_empty()
    }

    fn section(&self, name: &str) -> Option<&'static [Key]> {
        let section = self.keys.iter().find(|key| key.name == name)?;
        Some(section.kind.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_as_people_make_them() {
        for (a, b, count) in [
            ("", "", 0),
            ("", "abc", 3),
            ("region", "regon", 1),
            ("retires", "retries", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), count, "{a} {b}");
            assert_eq!(edits(b, a), count, "{b} {a}");
        }
    }

    #[test]
    fn the_unit_that_is_missing_wins_over_other_likely_names() {
        let keys = [
            "connect_timeout_ms",
            "timeout_ms",
            "timeouts",
            "retries",
            "max_mib",
        ];
        for (wrong, right) in [
            ("timeout", Some("timeout_ms")),
            ("Timeout-MS", Some("timeout_ms")),
            ("timeout_s", Some("timeout_ms")),
            ("conect_timeout_ms", Some("connect_timeout_ms")),
            ("retrys", Some("retries")),
            ("max", Some("max_mib")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wrong, keys), right, "{wrong}");
        }
    }
}

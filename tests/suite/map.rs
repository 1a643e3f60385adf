//! The map in `src/lib.rs` is true: it lists every room, and no room imports what its row does not
//! name.
//!
//! A room is a folder or file below `src/`, a whole crate, or a module of a crate that holds
//! several rooms. Arrows are read from the sources: `use` lines and paths that begin with `crate::`
//! or the name of one of the workspace's crates, without comments and tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates whose top modules are rooms of their own; the other crates are one room each.
const MANY_ROOMS: [&str; 3] = ["core", "train", "tagstream"];

/// A source file without its tests and comments.
struct Source {
    path: PathBuf,
    /// `core`, ..., or `tagstream` for the root package.
    krate: String,
    /// Below the crate's root: `["storage", "store"]`; empty for `lib.rs` and `main.rs`.
    module: Vec<String>,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`.
pub(crate) fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// `text` without comments and without what follows `#[cfg(test)] mod tests {`.
fn production(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {");
    let code = &text[..end.unwrap_or(text.len())];
    let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The modules that `text` declares for tests only.
fn test_modules(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2);
    pairs
        .filter(|pair| pair[0].contains("cfg(") && pair[0].contains("test"))
        .filter_map(|pair| pair[1].split_once("mod ")?.1.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

fn sources() -> Vec<Source> {
    let mut folders = vec![("tagstream".to_owned(), root().join("src"))];
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        folders.push((name, path.join("src")));
    }
    let mut all = Vec::new();
    for (krate, folder) in folders {
        let mut files = Vec::new();
        rust_files(&folder, &mut files);
        let mut for_tests = BTreeSet::new();
        let mut of_crate = Vec::new();
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let below = path.strip_prefix(&folder).unwrap().with_extension("");
            let parts = below.iter().map(|part| part.to_str().unwrap().to_owned());
            let mut module: Vec<String> = parts.collect();
            if matches!(
                module.last().map(String::as_str),
                Some("mod" | "lib" | "main")
            ) {
                module.pop();
            }
            for name in test_modules(&text) {
                for_tests.insert([module.clone(), vec![name]].concat());
            }
            let text = production(&text);
            let krate = krate.clone();
            of_crate.push(Source {
                path,
                krate,
                module,
                text,
            });
        }
        of_crate.retain(|file| !for_tests.iter().any(|m| file.module.starts_with(m)));
        all.extend(of_crate);
    }
    assert!(all.len() > 200, "only {} sources were found", all.len());
    all
}

fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// All paths in `text` that begin with `start`, as their parts behind it; braces are opened.
fn paths(text: &str, start: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(start) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let mut rest = &text[at + start.len()..];
        let mut parts = Vec::new();
        loop {
            let name = name_of(rest);
            if name.is_empty() {
                break;
            }
            parts.push(name.to_owned());
            match rest[name.len()..].strip_prefix("::") {
                Some(more) => rest = more,
                None => break,
            }
        }
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap();
                for name in list.split(',').map(|name| name_of(name.trim())) {
                    if !name.is_empty() {
                        found.push([parts.clone(), vec![name.to_owned()]].concat());
                    }
                }
            }
            None => found.push(parts),
        }
    }
    found
}

fn room(krate: &str, module: &[String]) -> Option<String> {
    match MANY_ROOMS.contains(&krate) {
        true => module.first().cloned(),
        false => Some(krate.to_owned()),
    }
}

/// The rooms that `file` names.
fn arrows(file: &Source, rooms: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |krate: &str, path: &[String]| {
        // Macros and items at a crate's root belong to no room below it.
        found.extend(room(krate, path).filter(|room| rooms.contains(room)));
    };
    for path in paths(&file.text, "crate::") {
        add(&file.krate, &path);
    }
    for path in paths(&file.text, "super::") {
        add(&file.krate, &resolved_super(&file.module, &path));
    }
    for krate in ["core", "image", "kernels", "model", "multiversion", "train"] {
        for path in paths(&file.text, &format!("tagstream_{krate}::")) {
            add(krate, &path);
        }
    }
    for path in paths(&file.text, "tagstream::") {
        add("tagstream", &path);
    }
    found
}

/// The rows of the map: a room, and what it may import.
fn map() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let quoted = |cell: &str| -> Vec<String> {
        let parts = cell.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    let rows = rows.filter_map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let room = quoted(cells[0]).pop()?;
        Some((room, quoted(cells.get(2)?).into_iter().collect()))
    });
    rows.collect()
}

#[test]
fn the_map_lists_every_room_and_no_other() {
    let map = map();
    let rooms: BTreeSet<String> = sources()
        .iter()
        .filter_map(|file| room(&file.krate, &file.module))
        .collect();
    let listed: BTreeSet<String> = map.keys().cloned().collect();
    assert_eq!(
        listed, rooms,
        "left: the map in src/lib.rs, right: the sources"
    );
    for (room, imports) in &map {
        let unknown: Vec<_> = imports.difference(&listed).collect();
        assert!(
            unknown.is_empty(),
            "`{room}` may import {unknown:?}, which are no rooms"
        );
    }
}

#[test]
fn no_room_imports_what_its_row_does_not_name() {
    let map = map();
    let rooms: BTreeSet<String> = map.keys().cloned().collect();
    let mut wrong = Vec::new();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources() {
        let Some(own) = room(&file.krate, &file.module) else {
            continue;
        };
        for other in arrows(&file, &rooms) {
            if other == own {
                continue;
            }
            if !map[&own].contains(&other) {
                wrong.push(format!("{}: {own} -> {other}", file.path.display()));
            }
            used.entry(own.clone()).or_default().insert(other);
        }
    }
    assert!(
        wrong.is_empty(),
        "the map in src/lib.rs has no such arrow:\n{}",
        wrong.join("\n")
    );
    let mut unused = Vec::new();
    for (room, imports) in map {
        let used = used.remove(&room).unwrap_or_default();
        let more = imports.difference(&used);
        unused.extend(more.map(|other| format!("{room} -> {other}")));
    }
    assert!(
        unused.is_empty(),
        "no import needs what the map allows: {unused:?}"
    );
}

/// A circle in `arrows`, if there is one.
fn circle<T: Ord + Clone>(arrows: &BTreeMap<T, BTreeSet<T>>) -> Option<Vec<T>> {
    // Whatever has no arrow left is no part of a circle.
    let mut left = arrows.clone();
    loop {
        let names: BTreeSet<T> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, to| {
            to.retain(|t| names.contains(t));
            !to.is_empty()
        });
        if left.len() == before {
            break;
        }
    }
    let mut at = left.keys().next()?.clone();
    let mut way = Vec::new();
    while !way.contains(&at) {
        way.push(at.clone());
        at = left[&at].first()?.clone();
    }
    let begin = way.iter().position(|step| *step == at)?;
    Some(way.split_off(begin))
}

#[test]
fn rooms_form_no_circle() {
    assert_eq!(circle(&map()), None);
}

/// The absolute form, below the crate's root, of a path that begins with `super::`.
fn resolved_super(module: &[String], path: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|part| *part == "super").count() + 1;
    let kept = module.len().saturating_sub(ups);
    [&module[..kept], &path[ups - 1..]].concat()
}

#[test]
fn files_form_no_circle() {
    let files = sources();
    for krate in files.iter().map(|f| &f.krate).collect::<BTreeSet<_>>() {
        let of_crate: Vec<&Source> = files.iter().filter(|f| f.krate == *krate).collect();
        let modules: BTreeSet<&[String]> = of_crate.iter().map(|f| &f.module[..]).collect();
        let mut graph: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for file in &of_crate {
            let mut targets = paths(&file.text, "crate::");
            for path in paths(&file.text, "super::") {
                targets.push(resolved_super(&file.module, &path));
            }
            for target in targets {
                let lengths = (1..=target.len()).rev();
                let Some(other) = lengths
                    .map(|n| &target[..n])
                    .find(|prefix| modules.contains(prefix))
                else {
                    continue;
                };
                // A module and those inside it are one matter in several files.
                if other.starts_with(&file.module) || file.module.starts_with(other) {
                    continue;
                }
                let arrows = graph.entry(file.module.clone()).or_default();
                arrows.insert(other.to_vec());
            }
        }
        let found = circle(&graph).map(|way| way.iter().map(|m| m.join("::")).collect::<Vec<_>>());
        assert_eq!(
            found, None,
            "files of {krate} import each other in a circle"
        );
    }
}

#[test]
fn a_circle_is_found() {
    let arrows = |pairs: &[(u8, u8)]| {
        let mut map: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        for (from, to) in pairs {
            map.entry(*from).or_default().insert(*to);
        }
        map
    };
    assert_eq!(circle(&arrows(&[(1, 2), (2, 3), (4, 3)])), None);
    assert_eq!(circle(&arrows(&[(1, 2), (2, 3), (3, 2)])), Some(vec![2, 3]));
}

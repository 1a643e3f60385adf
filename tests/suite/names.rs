//! One meaning a name: no public type has the name of another, anywhere in the workspace.

use crate::map::rust_files;
use std::collections::BTreeMap;
use std::path::Path;

/// Names that are public in two places, and why they may be.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// The name of the type that a line declares for everybody.
fn declared(line: &str) -> Option<&str> {
    let mut words = line.trim_start().strip_prefix("pub ")?.split(' ');
    let mut word = words.next()?;
    if word == "unsafe" {
        word = words.next()?;
    }
    if !["struct", "enum", "trait", "type", "union"].contains(&word) {
        return None;
    }
    let rest = words.next()?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    // A macro's declaration has a name only where the macro is called.
    Some(&rest[..end.unwrap_or(rest.len())]).filter(|name| !name.is_empty())
}

#[test]
fn no_public_type_has_the_name_of_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    for entry in std::fs::read_dir(root.join("crates")).unwrap() {
        rust_files(&entry.unwrap().path().join("src"), &mut files);
    }
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            if let Some(name) = declared(line) {
                let file = file.strip_prefix(root).unwrap().display();
                let place = format!("{file}:{}", number + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    assert!(places.len() > 200, "{}", places.len());
    places.retain(|_, places| places.len() > 1);
    for (name, _) in EXCEPTIONS {
        let found = places.remove(name);
        assert!(
            found.is_some(),
            "{name} is no longer public twice: not an exception"
        );
    }
    assert!(places.is_empty(), "public in several places: {places:#?}");
}

#[test]
fn declarations_are_found_in_every_form() {
    for (line, name) in [
        ("pub struct Chain {", Some("Chain")),
        ("    pub enum Kind<T> {", Some("Kind")),
        ("pub unsafe trait Real: Copy {", Some("Real")),
        ("pub type Footer = HashMap<String, String>;", Some("Footer")),
        ("pub struct Unit;", Some("Unit")),
        ("pub struct $name {", None),
        ("pub(crate) struct Hidden;", None),
        ("pub fn kind() {", None),
        ("struct Private;", None),
    ] {
        assert_eq!(declared(line), name, "{line}");
    }
}

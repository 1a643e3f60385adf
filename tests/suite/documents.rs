//! What the documents say about the tests is true of the tests.

use crate::map::rust_files;
use std::collections::BTreeSet;
use std::path::Path;

/// The last parts of names in backquotes that have the form of a test's: `fetch::tests::a_name` or
/// a long name by itself.
fn tests_named_in(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| name.contains("::") || name.matches('_').count() >= 4)
        .filter_map(|name| name.rsplit("::").next())
        .filter(|name| !name.is_empty() && *name != "*")
        .collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["crates", "src", "tests"] {
        rust_files(&root.join(folder), &mut files);
    }
    let code: String = files
        .iter()
        .map(|f| std::fs::read_to_string(f).unwrap())
        .collect();
    let functions: BTreeSet<&str> = code
        .split("fn ")
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect();
    let document = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let named = tests_named_in(&document);
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<_> = named.difference(&functions).collect();
    assert!(
        missing.is_empty(),
        "docs/security.md names tests that do not exist: {missing:?}"
    );
}

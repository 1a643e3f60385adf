//! `tagstream labels` on places where no tables are.

use std::process::Command;

/// A mistyped folder is said to be missing, and stays missing.
#[test]
fn reading_a_folder_that_is_not_there_creates_nothing() {
    let above = tempfile::tempdir().unwrap();
    let missing = above.path().join("tabels");
    for arguments in [
        ["stats", "--json"].as_slice(),
        &["export", "--form", "events"],
        &["suggest", "--count", "3"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .arg("labels")
            .args(arguments)
            .arg("--store")
            .arg(&missing)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        let named = format!("no folder {}", missing.display());
        assert!(
            said.contains(&named) && said.contains("output.url"),
            "{said}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!missing.exists(), "{arguments:?}");
    }
}

/// What an import leaves out, takes for what, and refuses is said with the file's name.
#[test]
fn an_import_says_what_it_made_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let import = |name: &str, text: &str, more: &[&str]| {
        std::fs::write(folder.path().join(name), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .current_dir(folder.path())
            .args(["labels", "import", name, "--out", "events.jsonl"])
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = import("onehot.csv", "filename,cat,dog\nx/a.jpg,1,0\n", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("a column a category") && said.contains("2 known labels"),
        "{said}"
    );
    let events = std::fs::read_to_string(folder.path().join("events.jsonl")).unwrap();
    assert!(events.contains("\"image_id\":\"x/a\""), "{events}");

    let two = "filename,label,state\nx/a.jpg,cat,1\ny/a.jpg,cat,0\n";
    let (code, said) = import("two.csv", two, &["--id", "stem"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("two.csv: two pictures have the same id `a`"),
        "{said}"
    );
    let (code, said) = import("two.csv", two, &["--id", "name"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("path, uri, stem, sha256"), "{said}");

    let (code, said) = import("two.csv", two, &["--control", "x"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("--control"), "{said}");

    let missing = folder.path().join("tables");
    let missing = missing.to_str().unwrap();
    let (code, said) = import("two.csv", two, &["--store", missing]);
    assert_eq!(code, Some(2));
    assert!(said.contains("no folder"), "{said}");
    let (code, said) = import("a.txt", "", &["--form", "yolo"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("yolo") || said.contains("names"), "{said}");
}

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

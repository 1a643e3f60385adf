//! Where the name of a build comes from.

#[allow(dead_code)]
#[path = "../../build.rs"]
mod build_script;

use std::path::Path;
use std::process::Command;

fn git(folder: &Path, arguments: &[&str]) {
    let ended = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=a", "-c", "user.email=a@b"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(ended.status.success(), "git {arguments:?}: {ended:?}");
}

#[test]
fn a_checkout_has_its_commit_and_a_mark_while_what_is_built_has_changes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, content) in [("src/main.rs", "fn main() {}"), ("build.rs", "")] {
        std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        std::fs::write(root.join(name), content).unwrap();
    }
    git(root, &["init", "--quiet"]);
    assert_eq!(build_script::revision_of(root), None, "nothing committed");
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "--message", "one"]);
    let clean = build_script::revision_of(root).unwrap();
    assert_eq!(clean.len(), 12, "{clean}");
    assert!(clean.bytes().all(|b| b.is_ascii_hexdigit()), "{clean}");

    // What is not built is no change of the build.
    std::fs::write(root.join("notes.txt"), "").unwrap();
    assert_eq!(build_script::revision_of(root).unwrap(), clean);
    std::fs::write(root.join("src").join("new.rs"), "").unwrap();
    let dirty = build_script::revision_of(root).unwrap();
    assert_eq!(dirty, format!("{clean}-dirty"));
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "--message", "two"]);
    let next = build_script::revision_of(root).unwrap();
    assert!(next != clean && !next.ends_with("-dirty"), "{clean} {next}");

    // An archive that was unpacked inside a checkout is not that checkout.
    let inside = root.join("src");
    assert_eq!(build_script::revision_of(&inside), None);
}

#[test]
fn without_git_there_is_the_version_and_what_a_packager_says_is_taken() {
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(build_script::revision_of(nowhere.path()), None);
    assert_eq!(build_script::name("0.2.0", None), "0.2.0");
    let given = build_script::plain(" v0.2/deb 1 ");
    assert_eq!(build_script::name("0.2.0", Some(given)), "0.2.0+v0.2-deb-1");
}

#[test]
fn the_command_says_its_version_and_its_revision() {
    let command = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .arg("--version")
        .output()
        .unwrap();
    let said = String::from_utf8(command.stdout).unwrap();
    let version = format!("tagstream {}", env!("CARGO_PKG_VERSION"));
    let rest = said
        .trim()
        .strip_prefix(&version)
        .expect("the version first");
    assert!(rest.is_empty() || rest.starts_with('+'), "{said}");
    if cfg!(debug_assertions) && option_env!("TAGSTREAM_REVISION").is_none() {
        assert_eq!(rest, "+debug");
    }
}

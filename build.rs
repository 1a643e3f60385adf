//! Gives the build its name: `VERSION+REVISION`, in the variable `TAGSTREAM_BUILD`.
//!
//! The revision is `$TAGSTREAM_REVISION`, for those who build from an archive; else git's commit,
//! with `-dirty` behind it when what is built has changes; else there is none. A debug build has
//! `debug`: otherwise each commit would compile the stage and all its tests again.

use std::path::Path;
use std::process::Command;

/// What the binary is made from.
const BUILT: [&str; 6] = [
    "src",
    "crates",
    "schemas",
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() {
    let root = env!("CARGO_MANIFEST_DIR");
    let root = Path::new(root);
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TAGSTREAM_REVISION");
    let given = std::env::var("TAGSTREAM_REVISION").ok();
    let profile = std::env::var("PROFILE").unwrap_or_default();
    let revision = match given.filter(|given| !given.trim().is_empty()) {
        Some(given) => Some(plain(&given)),
        None if profile == "debug" => Some("debug".to_owned()),
        None => {
            watch(root);
            revision_of(root)
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    println!(
        "cargo:rustc-env=TAGSTREAM_BUILD={}",
        name(version, revision)
    );
}

pub(crate) fn name(version: &str, revision: Option<String>) -> String {
    match revision {
        Some(revision) => format!("{version}+{revision}"),
        None => version.to_owned(),
    }
}

/// What may stand behind the `+` of a version.
pub(crate) fn plain(revision: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let part = |c| if plain(c) { c } else { '-' };
    revision.trim().chars().map(part).collect()
}

/// Asks cargo to ask again after a commit or a checkout, and after an edit of what is built.
fn watch(root: &Path) {
    let built = BUILT.iter().map(|name| root.join(name));
    let git = ["HEAD", "logs/HEAD", "packed-refs"]
        .iter()
        .filter_map(|name| {
            let path = git(root, &["rev-parse", "--git-path", name])?;
            Some(root.join(path))
        });
    // A file that is not there would have the build begin again each time.
    for path in built.chain(git).filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

/// The commit of the checkout at `root`; none if `root` is not one, as when an archive was unpacked
/// inside another project's.
pub(crate) fn revision_of(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(
        root,
        &[&["status", "--porcelain", "--"], &BUILT[..]].concat(),
    )?;
    let mark = if changed.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{mark}"))
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let asked = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output()
        .ok()?;
    let said = String::from_utf8(asked.stdout).ok()?;
    asked.status.success().then(|| said.trim().to_owned())
}

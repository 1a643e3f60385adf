//! The name of this build: its version and the revision that it was made from.
//!
//! The binary's package asks git when it is built and [announces](announce) the name when the
//! process begins. Nothing below it is compiled again because somebody has committed.

use std::sync::OnceLock;

static NAME: OnceLock<&'static str> = OnceLock::new();

/// The version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Says what this process was built from: `VERSION` or `VERSION+REVISION`. The first call counts.
pub fn announce(name: &'static str) {
    NAME.get_or_init(|| name);
}

/// `0.2.0+1a2b3c4d5e6f`, with `-dirty` behind it if what was built had changes that were not
/// committed; the version alone where no revision is known, as in other processes than the
/// command's own.
pub fn name() -> &'static str {
    NAME.get().copied().unwrap_or(VERSION)
}

/// The part of [`name`] behind the `+`, or nothing.
pub fn revision() -> &'static str {
    revision_of(name())
}

fn revision_of(name: &str) -> &str {
    name.split_once('+').map_or("", |(_, revision)| revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only test here that announces anything: it is the process's.
    #[test]
    fn a_build_has_its_version_until_its_revision_is_announced() {
        assert_eq!((name(), revision()), (VERSION, ""));
        announce("0.2.0+1a2b3c4d5e6f-dirty");
        announce("0.2.0+other");
        assert_eq!(name(), "0.2.0+1a2b3c4d5e6f-dirty");
        assert_eq!(revision(), "1a2b3c4d5e6f-dirty");
    }
}

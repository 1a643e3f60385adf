//! What lies beside the binary: in the repository, or where `make install` puts it.

use std::path::{Path, PathBuf};

/// The demo model in the repository, as seen from its root.
const DEMO_CLIP: &str = "models/demo-clip";

/// The folder of the demo model: that of the working directory if it has one, else the installed
/// one. Neither need exist; whoever opens it names it.
pub(super) fn demo_clip() -> PathBuf {
    let here = PathBuf::from(DEMO_CLIP);
    let program = std::env::current_exe().ok();
    let installed = program.as_deref().and_then(share_of);
    installed
        .map(|share| share.join(DEMO_CLIP))
        .filter(|folder| !here.is_dir() && folder.is_dir())
        .unwrap_or(here)
}

/// `<prefix>/share/tagstream` of `<prefix>/bin/tagstream`.
fn share_of(program: &Path) -> Option<PathBuf> {
    Some(program.parent()?.parent()?.join("share/tagstream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_beside_the_folder_of_binaries() {
        let share = share_of(Path::new("/opt/t/bin/tagstream"));
        assert_eq!(share, Some(PathBuf::from("/opt/t/share/tagstream")));
        assert_eq!(share_of(Path::new("tagstream")), None);
    }
}

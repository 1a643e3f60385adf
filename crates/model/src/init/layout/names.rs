//! Names of files that belong together.

use std::collections::BTreeSet;

/// Names below one folder.
pub(super) struct Names<'a> {
    pub names: &'a BTreeSet<String>,
    /// Empty, or with a slash at its end.
    pub folder: String,
}

impl Names<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(&format!("{}{name}", self.folder))
    }

    /// The names in the folder itself.
    pub(super) fn here(&self) -> impl Iterator<Item = &str> {
        let inside = self
            .names
            .iter()
            .filter_map(|name| name.strip_prefix(&*self.folder));
        inside.filter(|name| !name.contains('/'))
    }

    pub(super) fn at(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }
}

//! The Huffman tables of a scan, kept from one picture to the next.

use super::frame::Frame;
use super::huffman::{AcTable, DcTable};

/// Lookups for two tables of each class, as many as baseline files may have (T.81, table B.5). Most
/// files bring the same tables, so the lookups made for the file before often serve.
#[derive(Default)]
pub(super) struct Tables {
    pub dc: [DcTable; 2],
    pub ac: [AcTable; 2],
}

impl Tables {
    /// Makes the lookups that the frame's components need, unless they are there already. `None` if
    /// a table is missing or cannot be one.
    pub(super) fn set(&mut self, frame: &Frame) -> Option<()> {
        for component in frame.components() {
            let dc = frame.dc_tables[component.dc_table].as_ref()?;
            self.dc[component.dc_table].set(dc)?;
            let ac = frame.ac_tables[component.ac_table].as_ref()?;
            self.ac[component.ac_table].set(ac)?;
        }
        Some(())
    }
}

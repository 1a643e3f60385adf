//! Cells of tables for spreadsheets, which compute what looks like a formula: a category that is
//! called `=HYPERLINK(...)` would run on the desk of whoever opens the export.

use std::borrow::Cow;

/// Begins a cell that would be computed.
const GUARD: char = '\'';

/// What spreadsheets compute, also in their wide forms.
fn begins_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

/// A cell as it is written: what would be computed stands behind an apostrophe, and so does what
/// looks as if it had been guarded, so that [`unguarded`] gives back every text.
pub fn guarded(text: &str) -> Cow<'_, str> {
    match begins_formula(text.trim_start_matches(GUARD)) {
        true => format!("{GUARD}{text}").into(),
        false => text.into(),
    }
}

/// A cell as it was before [`guarded`].
pub fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix(GUARD) {
        Some(text) if begins_formula(text.trim_start_matches(GUARD)) => text,
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_computed_is_guarded_and_every_text_comes_back() {
        for (text, cell) in [
            ("cat", "cat"),
            ("o'clock", "o'clock"),
            ("'quoted'", "'quoted'"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@sum", "'@sum"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("＝1", "'＝1"),
            ("'=1", "''=1"),
        ] {
            assert_eq!(guarded(text), cell);
            assert_eq!(unguarded(cell), text);
        }
    }
}

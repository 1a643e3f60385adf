//! Shared by the test binaries.
#![allow(dead_code, reason = "not every test binary uses all of it")]

pub(crate) mod garbage;
pub(crate) mod hook;
pub(crate) mod hostile;
pub(crate) mod object_server;
pub(crate) mod pictures;
pub(crate) mod web_server;

use std::io::Write;

/// Asks for a page.
pub(crate) async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
    let client = tagstream::tls::http_client().build()?;
    client.get(url).send().await
}

/// Says on the test run's own output, past libtest's capture, that something was not tested.
/// `scripts/test.sh` counts these lines.
pub(crate) fn not_tested(what: &str) {
    let mut out = std::io::stdout().lock();
    // On a line of its own: with --quiet libtest writes dots without an end.
    writeln!(out, "\nNOT TESTED: {what}").unwrap();
}

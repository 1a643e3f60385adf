//! A line of JSON for each round or cell, kept as a row.

use crate::Arena;
use crate::checker::Verdict;
use anyhow::{Context, Result};
use std::io::Write;
use std::time::Duration;

impl Arena {
    pub(super) fn log_round(
        &mut self,
        round: u64,
        faults: &[String],
        took: Duration,
        verdict: &Verdict,
    ) -> Result<()> {
        let (rows, files) = self.checker.size();
        let (predictions, told_again) = self.predictions.size();
        self.rounds_done += 1;
        for fault in faults {
            let kind = fault.split('@').next().unwrap_or(fault).to_string();
            *self.seen.entry(kind).or_default() += 1;
        }
        let line = serde_json::json!({
            "seed": self.options.seed, "round": round, "brokers": self.options.brokers,
            "faults": faults, "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
            "messages": self.producer.produced.len(), "rows": rows, "files": files,
            "dead_letters": self.dead.letters.len(), "s3_faults": self.proxy.hits(),
            "predictions": predictions, "told_again": told_again,
            "exits": std::mem::take(&mut self.exits),
            "lost": verdict.lost, "doubled": verdict.doubled, "misordered": verdict.misordered,
            "wrong": verdict.wrong, "unexpected": verdict.unexpected,
        });
        self.log(&line)
    }

    /// One line for the whole run, with how often each kind of fault was seen.
    pub(super) fn log_summary(&self, verdict: &Verdict) -> Result<()> {
        let (rows, files) = self.checker.size();
        let line = serde_json::json!({
            "summary": true, "seed": self.options.seed, "brokers": self.options.brokers,
            "rounds": self.rounds_done, "failpoints": self.options.failpoints, "faults": self.seen,
            "messages": self.producer.produced.len(), "rows": rows, "files": files,
            "dead_letters": self.dead.letters.len(), "s3_faults": self.proxy.hits(),
            "lost": verdict.lost, "doubled": verdict.doubled,
            "misordered": verdict.misordered, "wrong": verdict.wrong,
            "unexpected": verdict.unexpected,
        });
        self.log(&line)
    }

    pub(super) fn log(&self, line: &serde_json::Value) -> Result<()> {
        let Some(path) = &self.options.log else {
            return Ok(());
        };
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        writeln!(file, "{line}")?;
        Ok(())
    }
}

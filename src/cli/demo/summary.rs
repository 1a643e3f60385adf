//! The table at the end of the demonstration: what came of the stream, and where to look further.

use super::show;
use std::path::Path;
use std::time::{Duration, Instant};
use tagstream::demo::scoreboard::{Scoreboard, VersionScore};
use tagstream::demo::story::Followed;

/// What was counted and measured on the way.
pub(super) struct Summary<'a> {
    /// The rows in the files.
    pub board: &'a Scoreboard,
    /// The answers on the topics.
    pub progress: &'a Followed,
    /// Pictures whose tagging was timed and how long it took, half by half.
    pub tagging: [(usize, Duration); 2],
    /// Labels that are known, and all that could be.
    pub labels: (usize, usize),
    /// Of the whole job, with the judge.
    pub training: Duration,
    /// The first version's quality on the second half.
    pub before: VersionScore,
    /// The candidate's, on what it tagged of the second half.
    pub after: &'a VersionScore,
}

impl Summary<'_> {
    /// Where all messages went; printed before they are checked, so that what is missing can be
    /// seen.
    pub(super) fn print_counts(&self) {
        eprintln!();
        row("pictures tagged", &self.board.rows.len().to_string());
        for (version, count) in self.progress.versions() {
            row(&format!("  by {version}"), &count.to_string());
        }
        for (kind, count) in self.progress.dead_letters() {
            row(&format!("dead letters, {kind}"), &count.to_string());
        }
    }

    /// Speed, labels and quality, and the time since `started`.
    pub(super) fn print_gain(&self, started: Instant) {
        let rate = |(count, took): (usize, Duration)| count as f64 / took.as_secs_f64();
        row(
            "pictures a second",
            &format!(
                "{:.0} and {:.0}",
                rate(self.tagging[0]),
                rate(self.tagging[1])
            ),
        );
        let (known, pairs) = self.labels;
        row("labels known", &format!("{known} of {pairs}"));
        row(
            "retraining",
            &format!("{:.0} s, all of it", self.training.as_secs_f64()),
        );
        for (when, score) in [("before", &self.before), ("after", self.after)] {
            row(
                &format!("tags {when}, {} unseen pictures", score.images),
                &format!(
                    "{:.0} % right, {:.0} % of what is there found, {:.1} a picture (F1 {:.3})",
                    100.0 * score.right,
                    100.0 * score.found,
                    score.tags as f64 / score.images.max(1) as f64,
                    score.f1()
                ),
            );
        }
        let gain = self.after.map - self.before.map;
        row(
            "mAP before, after, gain",
            &format!(
                "{:.1}, {:.1}, {gain:+.1} points",
                self.before.map, self.after.map
            ),
        );
        row("time", &format!("{:.0} s", started.elapsed().as_secs_f64()));
    }

    /// What lies in the folder `out`, and a query to begin with.
    pub(super) fn print_places(&self, out: &Path) {
        eprintln!();
        let table = out.join("predictions");
        row("report", &show(&out.join("report.html")));
        row(
            "tables",
            &format!("{} ({} files)", show(&table), self.board.files),
        );
        row("models", &show(&out.join("registry")));
        eprintln!("\n  Ask the files yourself, for example:");
        eprintln!(
            "    duckdb -c \"select tag.category, count(*) n, round(avg(tag.score), 2) score \
             from '{}/**/*.parquet', unnest(tags) t(tag) group by 1 order by 2 desc limit 10\"",
            show(&table)
        );
    }
}

/// A line to stderr, in the columns where all of them stand.
fn row(name: &str, value: &str) {
    eprintln!("  {name:<34} {value}");
}

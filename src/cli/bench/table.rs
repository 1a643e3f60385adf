//! The rows that a run left behind, and what their times say.

use anyhow::Context;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Time from a message's timestamp to its finished row, milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

/// Since 1970.
pub(super) fn milliseconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// A row's place and times, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    pub number: usize,
    pub event_ms: f64,
    pub processed_ms: f64,
}

/// All rows of a run, and the files they are in.
#[derive(Default)]
pub(super) struct Table {
    pub rows: Vec<Row>,
    pub files: usize,
    pub bytes: u64,
    pub last_commit_ms: f64,
}

impl Table {
    /// Reads every Parquet file below `folder`.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut table = Table::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "parquet") {
                    table
                        .add(&path)
                        .with_context(|| path.display().to_string())?;
                }
            }
        }
        Ok(table)
    }

    fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        self.files += 1;
        self.bytes += metadata.len();
        self.last_commit_ms = self.last_commit_ms.max(milliseconds(metadata.modified()?));
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            let batch = batch?;
            let column = |name: &str| {
                batch
                    .column_by_name(name)
                    .with_context(|| format!("no column `{name}`"))
            };
            let times = |name: &str| {
                column(name)?
                    .as_primitive_opt::<TimestampMicrosecondType>()
                    .with_context(|| format!("column `{name}` holds no times in microseconds"))
            };
            let ids = column("image_id")?
                .as_string_opt::<i32>()
                .context("column `image_id` holds no strings")?;
            let (event, processed) = (times("event_time")?, times("processed_time")?);
            for (i, id) in ids.iter().enumerate() {
                let number = id.and_then(|id| id.strip_prefix("bench-")?.parse().ok());
                self.rows.push(Row {
                    number: number.context("an image_id that was not sent")?,
                    event_ms: event.value(i) as f64 / 1e3,
                    processed_ms: processed.value(i) as f64 / 1e3,
                });
            }
        }
        Ok(())
    }
}

/// In ascending order.
pub(super) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Rows a second between the first and the last tenth.
pub(super) fn steady_rate(rows: &[Row]) -> f64 {
    let times = sorted(rows.iter().map(|r| r.processed_ms));
    let (first, last) = (times.len() / 10, times.len() - 1 - times.len() / 10);
    (last - first) as f64 / ((times[last] - times[first]) / 1e3)
}

/// Of these rows.
pub(super) fn latency(rows: &[Row]) -> Latency {
    let values = sorted(rows.iter().map(|r| r.processed_ms - r.event_ms));
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    Latency {
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        // One every 10 ms, each 5 ms after its event, but the first ten are slow.
        (0..100)
            .map(|i| Row {
                number: i,
                event_ms: i as f64 * 10.0,
                processed_ms: i as f64 * 10.0 + if i < 10 { 95.0 } else { 5.0 },
            })
            .collect()
    }

    #[test]
    fn rates_and_latencies_come_from_the_rows() {
        let rows = rows();
        assert!(
            (steady_rate(&rows) - 100.0).abs() < 12.0,
            "{}",
            steady_rate(&rows)
        );
        let latency = latency(&rows);
        assert_eq!((latency.p50_ms, latency.p99_ms), (5.0, 95.0));
    }
}

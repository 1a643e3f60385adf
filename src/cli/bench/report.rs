//! The figures of a run: medians with their spread, ratios, JSON and text.

use super::BenchArgs;
use super::ceiling::{BytesPerImage, Ceiling};
use super::host::Host;
use super::parity::Comparison;
use super::pictures::Pictures;
use super::subject::Outcome;
use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tagstream_core::build;
use tagstream_model::bundle::Bundle;
use tagstream_model::tagger::Tagger;

/// The middle of some values, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The median.
    #[serde(rename = "median")]
    pub middle: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

/// Median and spread.
///
/// # Panics
/// If there are no values.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "a median of nothing");
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let middle = if values.len() % 2 == 1 {
        values[half]
    } else {
        (values[half - 1] + values[half]) / 2.0
    };
    Spread {
        middle,
        least: values[0],
        most: values[values.len() - 1],
    }
}

/// Everything that was measured.
pub(super) struct Report<'a> {
    pub args: &'a BenchArgs,
    pub bundle: &'a Bundle,
    pub tagger: &'a Tagger,
    /// Opening the model in this process, all workers' sessions.
    pub model_load_seconds: f64,
    /// With the reference, if there is one.
    pub compared: Option<&'a Comparison>,
    pub pictures: &'a Pictures,
    pub batch: usize,
    pub images: usize,
    pub ceilings: &'a [Ceiling],
    pub stage: &'a [Outcome],
    pub peer: Option<&'a [Outcome]>,
    pub paced: Option<&'a Outcome>,
    pub broker: &'static str,
    pub bytes: BytesPerImage,
}

fn over(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> Spread {
    median(outcomes.iter().map(of))
}

/// Memory on GPUs, where every run had some.
fn device_memory(outcomes: &[Outcome]) -> Option<Spread> {
    let bytes: Option<Vec<f64>> = outcomes
        .iter()
        .map(|o| Some(o.device_memory_bytes? as f64))
        .collect();
    Some(median(bytes?.into_iter()))
}

/// Milliseconds of processor time an image, by kind of thread, of the median repetition.
fn cpu(outcomes: &[Outcome]) -> BTreeMap<String, f64> {
    let mut order: Vec<&Outcome> = outcomes.iter().collect();
    order.sort_by(|a, b| a.images_per_second.total_cmp(&b.images_per_second));
    let middle = order[order.len() / 2];
    let per_image = |seconds: &f64| seconds * 1e3 / middle.images as f64;
    let all = middle.cpu_seconds.iter();
    all.map(|(name, seconds)| (name.clone(), per_image(seconds)))
        .collect()
}

/// A figure to stderr, in the column where all of them stand.
fn line(name: &str, value: String) {
    eprintln!("  {name:<46} {value}");
}

/// Images a second, with one decimal: more would be noise.
fn rate(s: Spread) -> String {
    format!("{:.1} ({:.1} to {:.1})", s.middle, s.least, s.most)
}

/// A ratio of two throughputs, in thousandths.
fn share(s: Spread) -> String {
    format!("{:.3} ({:.3} to {:.3})", s.middle, s.least, s.most)
}

/// The median of some numbers of bytes, in whole MiB.
fn mib(s: Spread) -> String {
    format!("{:.0} MiB", s.middle / f64::from(1 << 20))
}

impl Report<'_> {
    /// The stage's throughput over a ceiling, repetition by repetition: both were measured one
    /// after the other.
    fn stage_over(&self, ceiling: impl Fn(&Ceiling) -> f64) -> Spread {
        let pairs = self.stage.iter().zip(self.ceilings);
        median(pairs.map(|(stage, c)| stage.images_per_second / ceiling(c)))
    }

    fn stage_over_peer(&self) -> Option<Spread> {
        let pairs = self.stage.iter().zip(self.peer?);
        Some(median(pairs.map(|(stage, peer)| {
            stage.images_per_second / peer.images_per_second
        })))
    }

    fn subject(&self, outcomes: &[Outcome]) -> Value {
        let mut figures = json!({
            "startup_seconds": over(outcomes, |o| o.startup_seconds),
            "images_per_second": over(outcomes, |o| o.images_per_second),
            "first_row_seconds": over(outcomes, |o| o.first_row_seconds),
            "last_row_seconds": over(outcomes, |o| o.last_row_seconds),
            "seconds": over(outcomes, |o| o.seconds),
            "steady_images_per_second": over(outcomes, |o| o.steady_images_per_second),
            "peak_memory_bytes": over(outcomes, |o| o.peak_memory_bytes as f64),
            "cpu_ms_per_image": cpu(outcomes),
            "cpu_cores_busy": over(outcomes, |o| o.cpu_seconds.values().sum::<f64>() / o.seconds),
            "repetitions": outcomes,
        });
        if let Some(memory) = device_memory(outcomes) {
            figures["device_memory_bytes"] = json!(memory);
        }
        figures
    }

    /// All figures.
    pub(super) fn json(&self) -> Value {
        let cores = Host::this().cores;
        let model = self.tagger.model();
        let overrides: BTreeMap<String, String> = std::env::vars()
            .filter(|(key, _)| {
                // The configuration's, and how the peer works.
                key.starts_with("TAGSTREAM_PEER_")
                    || key.starts_with("TAGSTREAM_") && key.contains("__")
            })
            .collect();
        json!({
            "case": self.args.case,
            "time": chrono::Utc::now().to_rfc3339(),
            "version": build::VERSION,
            "revision": build::revision(),
            "command": super::host::command(),
            "host": Host::this(),
            "overrides": overrides,
            "broker": self.broker,
            "partitions": self.args.partitions,
            "model": {
                "id": self.bundle.id(),
                "device": model.device.to_string(),
                "input": [model.shape.height, model.shape.width],
                "locations": model.shape.locations,
                "embedding": model.shape.dim,
                "categories": model.categories(),
                "workers": self.tagger.workers(),
                "load_seconds": self.model_load_seconds,
            },
            "pictures": {
                "source": self.pictures.source,
                "count": self.pictures.all.len(),
                "mean_bytes": self.pictures.mean_bytes(),
                "mean_megapixels": self.pictures.mean_megapixels(),
            },
            "images": self.images,
            "ceiling": {
                "model_batch": self.batch,
                "model_images_per_second": median(self.ceilings.iter().map(|c| c.model)),
                "decode_images_per_second_per_core": median(
                    self.ceilings.iter().map(|c| c.decode / cores as f64)
                ),
                "decode_images_per_second": median(self.ceilings.iter().map(|c| c.decode)),
                "least_images_per_second": median(self.ceilings.iter().map(Ceiling::least)),
                "shared_images_per_second": median(self.ceilings.iter().map(Ceiling::shared)),
                "repetitions": self.ceilings,
            },
            "stage": self.subject(self.stage),
            "stage_over_ceiling": self.stage_over(Ceiling::least).middle,
            "stage_over_ceiling_spread": self.stage_over(Ceiling::least),
            "stage_over_shared_ceiling": self.stage_over(Ceiling::shared).middle,
            "stage_over_shared_ceiling_spread": self.stage_over(Ceiling::shared),
            "latency": self.paced.map(|paced| json!({
                "load": self.args.latency_load,
                "images_per_second": paced.images_per_second,
                "p50_ms": paced.latency.p50_ms,
                "p99_ms": paced.latency.p99_ms,
            })),
            "bytes_per_image": self.bytes,
            "parity": self.compared,
            "peer": self.peer.map(|peer| self.subject(peer)),
            "stage_over_peer": self.stage_over_peer(),
        })
    }

    /// The figures that people look for first, to stderr.
    pub(super) fn print(&self) {
        let host = Host::this();
        eprintln!(
            "\n{}, {} cores; {}; {:.2} MP pictures; images a second, median (least to most)",
            host.cpu,
            host.cores,
            self.bundle.id(),
            self.pictures.mean_megapixels()
        );
        line(
            "(a) model alone, every core",
            rate(median(self.ceilings.iter().map(|c| c.model))),
        );
        line(
            "(b) decoding alone, one core of all busy",
            rate(median(
                self.ceilings.iter().map(|c| c.decode / host.cores as f64),
            )),
        );
        line(
            "(c) stage, broker to Parquet",
            rate(over(self.stage, |o| o.images_per_second)),
        );
        line(
            "c / min(a, b x cores)",
            share(self.stage_over(Ceiling::least)),
        );
        line(
            "c / (1 / (1/a + 1/(b x cores)))",
            share(self.stage_over(Ceiling::shared)),
        );
        if let Some(compared) = self.compared {
            line("as the reference on the processor", compared.line());
        }
        if let Some(paced) = self.paced {
            line(
                "latency to the row, p50 and p99",
                format!(
                    "{:.0} ms, {:.0} ms at {:.1} images/s",
                    paced.latency.p50_ms,
                    paced.latency.p99_ms,
                    paced.images as f64 / paced.seconds
                ),
            );
        }
        self.print_costs();
        self.print_peer();
    }

    /// Memory, time to get going and processor time: what the stage's throughput was paid with.
    fn print_costs(&self) {
        line(
            "peak memory",
            mib(over(self.stage, |o| o.peak_memory_bytes as f64)),
        );
        if let Some(memory) = device_memory(self.stage) {
            line("memory on the GPU", mib(memory));
        }
        line(
            "model opened; stage started to its first row",
            format!(
                "{:.2} s; {:.2} s",
                self.model_load_seconds,
                over(self.stage, |o| o.startup_seconds).middle
            ),
        );
        for (name, milliseconds) in cpu(self.stage) {
            if milliseconds >= 0.005 {
                line(
                    &format!("processor time an image, {name}"),
                    format!("{milliseconds:.2} ms"),
                );
            }
        }
    }

    /// The other program's figures, and the stage's over them, if one was measured.
    fn print_peer(&self) {
        if let (Some(peer), Some(ratio)) = (self.peer, self.stage_over_peer()) {
            line("(d) peer", rate(over(peer, |o| o.images_per_second)));
            line("c / d", share(ratio));
            line(
                "peer's peak memory",
                mib(over(peer, |o| o.peak_memory_bytes as f64)),
            );
        }
    }
}

/// Appends one line to a file of JSON lines.
pub(super) fn append(path: &Path, json: &Value) -> anyhow::Result<()> {
    let open = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)?;
        file.write_all(format!("{json}\n").as_bytes())
    };
    open().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_sorted_values() {
        let odd = median([3.0, 1.0, 2.0].into_iter());
        assert_eq!((odd.middle, odd.least, odd.most), (2.0, 1.0, 3.0));
        assert_eq!(median([4.0, 1.0].into_iter()).middle, 2.5);
    }
}

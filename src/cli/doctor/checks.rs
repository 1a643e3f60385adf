//! The doctor: what is needed to run, found or missing, and what to do about it.

use rdkafka::consumer::{BaseConsumer, Consumer};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tagstream::stage::source::{
    Broker, ClientSettings, Covering, ImageTopics, SourceError, await_token, security_features,
};
use tagstream_core::config::{Provider, StageConfig};
use tagstream_core::process::blocking;
use tagstream_core::storage::store::TableStore;
use tagstream_image::decoders::Decoders;
use tagstream_model as model;
use tagstream_model::bundle::Bundle;
use tagstream_model::init::{CategoryList, ClipFolder, Init};
use tagstream_model::runtime::Runtime;
use tagstream_model::tagger::{Tagger, TaggerOptions};

/// The brokers may take this long to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Found and working.
    Good,
    /// Not there, but nothing configured needs it.
    Unused,
    /// Missing or broken: the stage would not run.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    /// What.
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, or what is wrong and what to do.
    pub detail: String,
}

impl Finding {
    fn of<E: std::fmt::Display>(subject: &str, result: Result<String, E>) -> Self {
        let (verdict, detail) = match result {
            Ok(detail) => (Verdict::Good, detail),
            Err(error) => (Verdict::Bad, error.to_string()),
        };
        Finding {
            subject: subject.into(),
            verdict,
            detail,
        }
    }

    fn unused(subject: &str, detail: impl Into<String>) -> Self {
        Finding {
            subject: subject.into(),
            verdict: Verdict::Unused,
            detail: detail.into(),
        }
    }
}

/// Looks at everything that `config` needs, and at the demo model in `demo_clip` if that folder is
/// there.
pub(super) async fn examine(config: &StageConfig, demo_clip: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let runtime = match Runtime::load() {
        Ok(runtime) => {
            let found = format!(
                "{}, version {}",
                runtime.library().display(),
                runtime.version()
            );
            findings.push(Finding::of::<String>("ONNX Runtime", Ok(found)));
            Some(runtime)
        }
        Err(error) => {
            findings.push(Finding::of("ONNX Runtime", Err(error)));
            None
        }
    };
    if let Some(runtime) = &runtime {
        findings.extend(providers(runtime, config));
        findings.push(configured_model(runtime, config).await);
        findings.push(demo_model(runtime, demo_clip));
    }
    findings.push(heic());
    findings.push(security());
    findings.push(broker(config).await);
    findings.push(store(config).await);
    findings
}

fn providers(runtime: &Runtime, config: &StageConfig) -> Vec<Finding> {
    let wanted = config.model.provider;
    [
        ("provider cpu", Provider::Cpu),
        ("provider cuda", Provider::Cuda),
        ("provider tensorrt", Provider::Tensorrt),
    ]
    .into_iter()
    .map(
        |(subject, provider)| match runtime.resolve(provider, config.model.device) {
            Ok(device) => Finding::of::<String>(subject, Ok(format!("usable as {device}"))),
            Err(error) if provider == wanted => Finding::of(subject, Err(error)),
            Err(error) => Finding::unused(subject, error.to_string()),
        },
    )
    .collect()
}

async fn configured_model(runtime: &Runtime, config: &StageConfig) -> Finding {
    const SUBJECT: &str = "model";
    if config.model.path.is_empty() {
        return Finding::unused(
            SUBJECT,
            "`model.path` is empty: name one there or with --model",
        );
    }
    let open = async {
        let opened = model::open(&config.model.path, &config.object_store)
            .await
            .map_err(|e| e.to_string())?;
        let bundle = opened.into_bundle().map_err(|e| e.to_string())?;
        let tagger = tagger(runtime, &bundle, config.model.provider)?;
        tagger.canary().map_err(|e| e.to_string())?;
        let dims = bundle.manifest().dims;
        Ok(format!(
            "{}: {} categories, embeddings of {} numbers, trial passed on {}",
            bundle.id(),
            bundle.manifest().categories.len(),
            dims.embedding,
            tagger.model().device
        ))
    };
    Finding::of::<String>(SUBJECT, open.await)
}

fn tagger(runtime: &Runtime, bundle: &Bundle, provider: Provider) -> Result<Tagger, String> {
    let device = runtime.resolve(provider, 0).map_err(|e| e.to_string())?;
    let options = TaggerOptions {
        workers: 1,
        ..TaggerOptions::on(device)
    };
    Tagger::open(runtime, bundle, options, None).map_err(|e| e.to_string())
}

/// `sanity/expected.json` of the demo model.
#[derive(Debug, Deserialize)]
struct Expected {
    categories: Vec<String>,
    scenes: Vec<Scene>,
    found_at_least: f64,
}

/// One scene of it.
#[derive(Debug, Deserialize)]
struct Scene {
    image_id: String,
    present: Vec<String>,
}

/// A folder of our own that goes when this does.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a bundle of the demo model as `tagstream init` does and looks whether it finds what is in
/// its sanity scenes: the whole road from weights to scores, on this machine.
fn demo_model(runtime: &Runtime, folder: &Path) -> Finding {
    const SUBJECT: &str = "demo model";
    if !folder.join("sanity/expected.json").is_file() {
        let detail = format!("{} is not there; only the demo needs it", folder.display());
        return Finding::unused(SUBJECT, detail);
    }
    Finding::of(SUBJECT, sanity(runtime, folder))
}

fn sanity(runtime: &Runtime, folder: &Path) -> Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let expected = fs::read_to_string(folder.join("sanity/expected.json")).map_err(|e| text(&e))?;
    let expected: Expected = serde_json::from_str(&expected).map_err(|e| text(&e))?;
    let name = format!(
        "tagstream-doctor-{}-{:08x}",
        std::process::id(),
        rand::random::<u32>()
    );
    let scratch = Scratch(std::env::temp_dir().join(name));
    fs::create_dir(&scratch.0).map_err(|e| text(&e))?;
    let bundle = zero_shot(folder, &expected.categories, &scratch.0)?;
    let tagger = tagger(runtime, &bundle, Provider::Cpu)?;
    let (hits, all) = found_of_present(&tagger, folder, &expected)?;
    let share = hits as f64 / all.max(1) as f64;
    let least = expected.found_at_least;
    let found = format!(
        "{hits} of {all} things found in {} sanity scenes",
        expected.scenes.len()
    );
    if share >= least {
        Ok(found)
    } else {
        Err(format!(
            "{found}, fewer than {:.0} %: inference or decoding does not work as it should on this \
             machine",
            least * 100.0
        ))
    }
}

/// A bundle in `scratch` of the weights in `folder`, with these categories by their names alone.
fn zero_shot(folder: &Path, categories: &[String], scratch: &Path) -> Result<Bundle, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let names = scratch.join("categories.txt");
    fs::write(&names, categories.join("\n")).map_err(|e| text(&e))?;
    let categories = CategoryList::read(&names).map_err(|e| text(&e))?;
    let clip = ClipFolder::open(folder).map_err(|e| text(&e))?;
    let init = Init {
        clip: &clip,
        name: "doctor",
        source: "doctor",
        categories: &categories,
        tower: Default::default(),
        views: tagstream_model::views::Views::default(),
        fit: Default::default(),
    };
    init.run(&scratch.join("bundle"), |_| ())
        .map_err(|e| text(&e))
}

/// How many of the things in the scenes are among a scene's best categories (as many as it has
/// things), and how many things there are.
fn found_of_present(
    tagger: &Tagger,
    folder: &Path,
    expected: &Expected,
) -> Result<(usize, usize), String> {
    let decoders = Decoders::default();
    decoders.prove().map_err(|e| e.to_string())?;
    let tally = Mutex::new((0usize, 0usize));
    let mut failure = None;
    tagger
        .tag_each(
            expected.scenes.len(),
            false,
            |i, pixels| {
                let name = format!("sanity/{}.jpg", expected.scenes[i].image_id);
                let bytes = fs::read(folder.join(&name)).map_err(|e| format!("{name}: {e}"))?;
                decoders
                    .decode_into(&bytes, tagger.model().preprocessing(), pixels)
                    .map(|size| (size.width, size.height))
                    .map_err(|e| format!("{name}: {e}"))
            },
            |i, result| match result {
                Ok((inference, ..)) => {
                    let present = &expected.scenes[i].present;
                    let mut order: Vec<usize> = (0..expected.categories.len()).collect();
                    order.sort_by(|a, b| inference.scores[*b].total_cmp(&inference.scores[*a]));
                    order.truncate(present.len());
                    let hits = order
                        .iter()
                        .filter(|c| present.contains(&expected.categories[**c]))
                        .count();
                    let mut tally = tally.lock().unwrap_or_else(|e| e.into_inner());
                    *tally = (tally.0 + hits, tally.1 + present.len());
                }
                Err(error) => failure = Some(error),
            },
        )
        .map_err(|e| e.to_string())?;
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(tally.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Whether HEIC is read here: the only format that takes a library of the system's.
fn heic() -> Finding {
    const SUBJECT: &str = "HEIC";
    match tagstream::image::decoders::heic_library() {
        Ok(version) => Finding::of::<String>(SUBJECT, Ok(format!("libde265 {version}"))),
        Err(reason) => Finding::unused(SUBJECT, format!("refused by name: {reason}")),
    }
}

/// Which ways to speak to brokers this build has.
fn security() -> Finding {
    let features = security_features();
    let (has, lacks) = (features.has.join("; "), features.lacks.join("; "));
    let found = format!("{has}; not in this build: {lacks}");
    Finding::of::<String>("broker security", Ok(found))
}

async fn broker(config: &StageConfig) -> Finding {
    let (kafka, brokers) = (config.kafka.clone(), config.kafka.brokers.clone());
    let topics = ImageTopics::of(&config.source);
    let output = &config.output;
    let mut others = vec![
        ("output.predictions_topic", output.predictions_topic.clone()),
        ("output.dead_letter_topic", output.dead_letter_topic.clone()),
    ];
    if config.labels.enabled {
        others.push(("labels.topic", config.labels.topic.clone()));
    }
    others.retain(|(_, name)| !name.is_empty());
    let written = others.iter().map(|(_, name)| name.as_str().into());
    let written: Vec<Arc<str>> = written.collect();
    let group = config.kafka.group_id.clone();
    let ask = move || -> Result<String, String> {
        let text = |e: SourceError| e.to_string();
        let topics = topics.map_err(|e| e.to_string())?;
        let topics = topics.found(&kafka, &written).map_err(text)?;
        let (mut brokers_there, mut partitions) = (0, 0);
        for topic in &topics {
            let broker = Broker::new(&kafka, &group, Arc::clone(topic)).map_err(text)?;
            let reached = broker.with_patience(ANSWER).reach();
            let reached = reached.map_err(|error| match error {
                SourceError::NoTopic { .. } => {
                    format!("{error}; it is `source.images_topic`, or one of `source.topics`")
                }
                other => other.to_string(),
            })?;
            brokers_there = reached.brokers;
            partitions += reached.partitions;
        }
        let told: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        let told = told.join(", ");
        let settings = ClientSettings::of(&kafka);
        let consumer: BaseConsumer<Covering> = settings.create().map_err(|e| e.to_string())?;
        await_token(&consumer);
        let metadata = consumer.fetch_metadata(None, ANSWER);
        let metadata = metadata.map_err(|e| format!("{brokers} does not answer any more: {e}"))?;
        let missing = others
            .iter()
            .find(|(_, name)| !metadata.topics().iter().any(|t| t.name() == name));
        match missing {
            Some((key, name)) => Err(format!(
                "{brokers} answers but has no topic `{name}` ({key}): create it, unless the \
                 brokers create topics by themselves"
            )),
            None => Ok(format!(
                "{brokers_there} brokers at {brokers}, topic {told} has {partitions} partitions; \
                 its leaders and the group's coordinator answer"
            )),
        }
    };
    let answer = blocking::run(ask).await;
    Finding::of("broker", answer.unwrap_or_else(|e| Err(e.to_string())))
}

async fn store(config: &StageConfig) -> Finding {
    const SUBJECT: &str = "output";
    let url = &config.output.url;
    if url.is_empty() {
        return Finding::unused(
            SUBJECT,
            "`output.url` is empty: name a folder or an object store there",
        );
    }
    let opened = TableStore::open(url, &config.object_store).await;
    Finding::of(
        SUBJECT,
        opened.map(|store| format!("{}: create-if-absent works", store.url())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
        findings.iter().find(|f| f.subject == subject).unwrap()
    }

    #[tokio::test]
    async fn what_is_missing_is_named_and_what_works_is_said() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let mut config = StageConfig::default();
        // A port that was free a moment ago: nobody answers.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        config.kafka.brokers = closed.local_addr().unwrap().to_string();
        drop(closed);
        config.output.url = folder.path().display().to_string();
        config.model.path = root.join("tests/fixtures/tiny-model").display().to_string();
        let findings = examine(&config, &root.join("models/demo-clip")).await;
        let verdict = |subject| by(&findings, subject).verdict;
        assert_eq!(verdict("ONNX Runtime"), Verdict::Good);
        assert_eq!(verdict("provider cpu"), Verdict::Good);
        assert_eq!(
            verdict("model"),
            Verdict::Good,
            "{:?}",
            by(&findings, "model")
        );
        // It goes as far as a test can: its program is no `tagstream` that could decode.
        let demo = by(&findings, "demo model");
        assert!(demo.detail.contains("decoding helper"), "{demo:?}");
        assert_eq!(
            verdict("output"),
            Verdict::Good,
            "{:?}",
            by(&findings, "output")
        );
        let broker = by(&findings, "broker");
        assert_eq!(broker.verdict, Verdict::Bad);
        assert!(
            broker.detail.contains(&config.kafka.brokers),
            "{}",
            broker.detail
        );

        config.model.path = "/nowhere/at/all".into();
        let runtime = Runtime::load().unwrap();
        let model = configured_model(&runtime, &config).await;
        assert_eq!(model.verdict, Verdict::Bad);
        assert!(model.detail.contains("/nowhere/at/all"), "{}", model.detail);
    }
}

//! `tagstream produce`: write image references to a topic.

use super::kafka::KafkaArgs;
use anyhow::Context;
use clap::Args;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tagstream::stage::source::Covering;
use tagstream_core::error::{Exit, usage};
use tagstream_core::events::ImageReference;
use tagstream_core::redact::redact_place;

/// Image files, by extension.
const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Arguments of `tagstream produce`.
#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Configuration file of the stage, whose `[kafka]` section says how to reach the brokers.
    #[arg(long, env = "TAGSTREAM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Topic to write to.
    #[arg(long)]
    pub topic: String,
    /// A folder of images, or a file with one path or URI a line.
    #[arg(value_name = "DIR|LIST")]
    pub input: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: ProduceArgs) -> anyhow::Result<Exit> {
    let references = references(&args.input)?;
    if references.is_empty() {
        return Err(usage(format!("{} names no image", args.input.display())).into());
    }
    let mut settings = args.kafka.client(args.config.as_deref())?;
    settings
        .set("enable.idempotence", "true")
        .set_unless_users("message.timeout.ms", "60000");
    let context = Deliveries {
        covering: settings.covering(),
        failures: Default::default(),
    };
    let made = settings.create_with(context);
    let producer: ThreadedProducer<Deliveries> = made.map_err(|e| usage(e.to_string()))?;
    for reference in &references {
        let value = serde_json::to_vec(reference)?;
        let mut record = BaseRecord::to(&args.topic)
            .key(&reference.image_id)
            .payload(&value);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error)
                    .with_context(|| format!("writing {} to {}", reference.image_id, args.topic));
            }
            std::thread::sleep(Duration::from_millis(10));
            record = back;
        }
    }
    producer
        .flush(Duration::from_secs(70))
        .context("waiting for the brokers")?;
    let failed = producer
        .context()
        .failures
        .lock()
        .expect("no panic while locked")
        .take();
    if let Some(error) = failed {
        return Err(error).with_context(|| format!("writing to {}", args.topic));
    }
    eprintln!(
        "{} image references written to {}",
        references.len(),
        args.topic
    );
    Ok(Exit::Success)
}

/// Keeps the first failure.
struct Deliveries {
    covering: Covering,
    failures: std::sync::Mutex<Option<KafkaError>>,
}

impl rdkafka::ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.covering.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.covering.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        rdkafka::ClientContext::error(&self.covering, error, reason);
    }
}

impl rdkafka::producer::ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failures
                .lock()
                .expect("no panic while locked")
                .get_or_insert(error.clone());
        }
    }
}

/// Image references for every image below a folder, or for every line of a list.
fn references(input: &Path) -> anyhow::Result<Vec<ImageReference>> {
    let meta = std::fs::metadata(input).map_err(|e| usage(format!("{}: {e}", input.display())))?;
    let mut references = Vec::new();
    if meta.is_dir() {
        let root = input.canonicalize()?;
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if is_image(&path) {
                    references.push(reference(&root, &path)?);
                }
            }
        }
        references.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    } else {
        let text = std::fs::read_to_string(input).with_context(|| input.display().to_string())?;
        let folder = input.parent().unwrap_or(Path::new("."));
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            references.push(if line.contains("://") || line.starts_with("data:") {
                named(image_id_of_uri(line), line.to_owned())
            } else {
                let path = folder.join(line);
                let path = path
                    .canonicalize()
                    .with_context(|| redact_place(&path.to_string_lossy()))?;
                reference(path.parent().unwrap_or(Path::new("/")), &path)?
            });
        }
    }
    Ok(references)
}

fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// An image's name: its path below `root`, without the extension.
fn reference(root: &Path, path: &Path) -> anyhow::Result<ImageReference> {
    let name = path.strip_prefix(root).unwrap_or(path).with_extension("");
    let uri = url::Url::from_file_path(path)
        .map_err(|()| anyhow::anyhow!("{} cannot be written as a URI", path.display()))?;
    Ok(named(name.to_string_lossy().into_owned(), uri.into()))
}

fn image_id_of_uri(uri: &str) -> String {
    if uri.starts_with("data:") {
        return format!("data-{:x}", fingerprint(uri));
    }
    let path = uri.split(['?', '#']).next().unwrap_or(uri);
    let last = path.rsplit('/').next().unwrap_or(path);
    let stem = last.rsplit_once('.').map_or(last, |(stem, _)| stem);
    // What stands where a name should may be a password or a signature, and a name is shown
    // everywhere.
    if stem.is_empty() || stem.contains(['@', ':', ';', '&', '%']) {
        format!("uri-{:x}", fingerprint(uri))
    } else {
        stem.to_owned()
    }
}

/// FNV-1a: a name for what has none.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn named(image_id: String, uri: String) -> ImageReference {
    ImageReference {
        image_id,
        uri,
        event_time: None,
        attributes: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_lists_become_references() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["b.JPG", "sub/a.png", "notes.txt"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = references(folder.path()).unwrap();
        let ids: Vec<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids, ["b", "sub/a"]);
        assert!(found[0].uri.starts_with("file:///") && found[0].uri.ends_with("/b.JPG"));
        let list = folder.path().join("list");
        std::fs::write(&list, "b.JPG\n\nhttps://host/x/y.png?size=2\n").unwrap();
        let found = references(&list).unwrap();
        assert_eq!(found[1].image_id, "y");
        assert_eq!(found.len(), 2);
        std::fs::write(&list, "missing.jpg\n").unwrap();
        assert!(references(&list).is_err());
    }
}

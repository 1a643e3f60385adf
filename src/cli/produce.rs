//! `tagstream produce`: write image references to a topic.

use super::labels::NamingArgs;
use anyhow::Context;
use clap::Args;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tagstream::stage::source::{ClientSettings, Covering};
use tagstream_core::error::{Exit, usage};
use tagstream_core::events::ImageReference;
use tagstream_core::image_id::{ImageNaming, PicturePlace, is_address};
use tagstream_core::redact::{redact_place, trimmed};
use tagstream_image::folder::pictures_below;

/// Arguments of `tagstream produce`.
#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    /// Brokers, host:port, comma-separated.
    #[arg(long)]
    pub brokers: String,
    /// Topic to write to.
    #[arg(long)]
    pub topic: String,
    /// Further properties of librdkafka, for example --property security.protocol=ssl.
    #[arg(long = "property", value_name = "KEY=VALUE")]
    pub properties: Vec<String>,
    #[command(flatten)]
    pub naming: NamingArgs,
    /// A folder of images, or a file with one path or URI a line.
    #[arg(value_name = "DIR|LIST")]
    pub input: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: ProduceArgs) -> anyhow::Result<Exit> {
    let references = references(&args.input, &args.naming)?;
    if references.is_empty() {
        return Err(usage(format!("{} names no image", args.input.display())).into());
    }
    let mut settings = ClientSettings::new(&args.brokers);
    settings
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "60000");
    for (property, number) in args.properties.iter().zip(1..) {
        // What has no `=` may be a value all the same.
        let (key, value) = property
            .split_once('=')
            .ok_or_else(|| usage(format!("--property number {number} is not KEY=VALUE")))?;
        settings.set_users(key, value, format!("--property {key}"));
    }
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
fn references(input: &Path, naming: &NamingArgs) -> anyhow::Result<Vec<ImageReference>> {
    let meta = std::fs::metadata(input).map_err(|e| usage(format!("{}: {e}", input.display())))?;
    let found = match meta.is_dir() {
        true => in_folder(input)?,
        false => in_list(input)?,
    };
    let naming = ImageNaming {
        rule: naming.id.unwrap_or_default(),
        root: naming.root.clone(),
    };
    let (places, uris): (Vec<PicturePlace>, Vec<String>) = found.into_iter().unzip();
    let named = naming.ids(&places);
    let named = named.map_err(|error| usage(format!("{}: {error}", input.display())))?;
    if let Some(note) = named.note {
        eprintln!("{note}");
    }
    let reference = |(image_id, uri)| ImageReference {
        image_id,
        uri,
        event_time: None,
        attributes: Default::default(),
    };
    Ok(named.ids.into_iter().zip(uris).map(reference).collect())
}

/// A picture's place and address.
type Found = (PicturePlace, String);

fn in_folder(input: &Path) -> anyhow::Result<Vec<Found>> {
    let root = input.canonicalize()?;
    let pictures = pictures_below(&root)?;
    if pictures.left_out.count() > 0 {
        eprintln!("{}: {}", input.display(), pictures.left_out);
    }
    let mut found = Vec::new();
    for path in &pictures.files {
        found.push(of_file(path.strip_prefix(&root).unwrap_or(path), path)?);
    }
    found.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    Ok(found)
}

fn in_list(input: &Path) -> anyhow::Result<Vec<Found>> {
    let text = std::fs::read_to_string(input).with_context(|| input.display().to_string())?;
    let text = text.trim_start_matches('\u{feff}');
    let folder = input.parent().unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for line in text.lines().map(trimmed).filter(|line| !line.is_empty()) {
        if is_address(line) {
            found.push((PicturePlace::of(line), line.to_owned()));
            continue;
        }
        let written = folder.join(line);
        let path = written.canonicalize();
        let path = path.with_context(|| redact_place(&written.to_string_lossy()))?;
        // Folders below the list's own belong to the name, as do those of an absolute path.
        found.push(of_file(
            written.strip_prefix(folder).unwrap_or(&written),
            &path,
        )?);
    }
    Ok(found)
}

/// A file's place: `name` is its path below the root.
fn of_file(name: &Path, path: &Path) -> anyhow::Result<Found> {
    let uri = url::Url::from_file_path(path)
        .map_err(|()| anyhow::anyhow!("{} cannot be written as a URI", path.display()))?;
    let place = PicturePlace {
        path: name.to_string_lossy().into_owned(),
        whole: uri.as_str().to_owned(),
    };
    Ok((place, uri.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tagstream_core::image_id::IdRule;

    #[test]
    fn folders_and_lists_become_references() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for (name, bytes) in [
            ("b.JPG", &b"\xff\xd8\xff\xe0"[..]),
            ("sub/a.png", b"\x89PNG\r\n\x1a\n"),
            ("notes.txt", b"x"),
        ] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let naming = NamingArgs {
            id: None,
            root: String::new(),
        };
        let found = references(folder.path(), &naming).unwrap();
        let ids: Vec<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids, ["b", "sub/a"]);
        assert!(found[0].uri.starts_with("file:///") && found[0].uri.ends_with("/b.JPG"));
        let list = folder.path().join("list");
        std::fs::write(&list, "sub/a.png\n\n https://host/x/y.png?size=2 \n").unwrap();
        let found = references(&list, &naming).unwrap();
        let ids: Vec<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids, ["sub/a", "x/y"]);
        std::fs::write(&list, "missing.jpg\n").unwrap();
        assert!(references(&list, &naming).is_err());
        let uris =
            "https://h/1001/a.jpg\nhttps://h/1002/a.jpg\nhttps://h/p?id=7\nhttps://h/p?id=8\n";
        std::fs::write(&list, uris).unwrap();
        let found = references(&list, &naming).unwrap();
        let ids: HashSet<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids.len(), 4, "{ids:?}");
        let stem = NamingArgs {
            id: Some(IdRule::Stem),
            ..naming
        };
        let refused = references(&list, &stem).unwrap_err().to_string();
        assert!(refused.contains("the same id `a`"), "{refused}");
    }
}

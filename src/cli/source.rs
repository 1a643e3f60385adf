//! `tagstream source check`: what the mapping makes of the topic's own messages, before anything
//! runs. It joins no group, commits nothing and fetches nothing.

mod framed;
mod sample;

use super::config::{checks, refused};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use sample::{Sampled, newest, newest_of};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tagstream::stage::fetch::{UriPolicy, check};
use tagstream::stage::schemas::Frame;
use tagstream::stage::source::ImageTopics;
use tagstream_core::config::{MappingConfig, StageConfig};
use tagstream_core::error::{Exit, usage};
use tagstream_core::events::{ImageReference, PartitionId};
use tagstream_core::mapping::{Mapping, preset_names};
use tagstream_core::redact::redact;

/// Arguments of `tagstream source`.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    #[command(subcommand)]
    command: SourceCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum SourceCommand {
    /// Read the newest messages of the images topic, and show which images `[source.mapping]` makes
    /// of them, and why not; exit code 1 if any message is refused. Nothing is fetched, written or
    /// committed.
    Check(CheckArgs),
}

/// Arguments of `tagstream source check`.
#[derive(Debug, Args)]
struct CheckArgs {
    /// The stage's configuration file: brokers, topic and mapping.
    #[arg(long, env = "TAGSTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at so many messages, the newest of all partitions together.
    #[arg(long, value_name = "N", default_value_t = 100)]
    sample: usize,
    /// Read them as this preset would, instead of the configuration's mapping.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Print JSON: a line for each image or refusal, then one with the counts.
    #[arg(long)]
    json: bool,
}

/// What the mapping makes of one record, or of a message that has none.
struct Line {
    partition: PartitionId,
    offset: i64,
    record: Option<u32>,
    made: Made,
}

enum Made {
    Image(ImageReference),
    /// An image that `[fetch]` does not allow.
    Forbidden(ImageReference, &'static str),
    PassedOver,
    Refused(String),
}

/// Runs the command.
pub(super) fn run(args: SourceArgs) -> anyhow::Result<Exit> {
    let SourceCommand::Check(args) = args.command;
    let loaded = super::config::load::<StageConfig>(args.config.as_deref())?;
    let config = &loaded.config;
    loaded
        .refuse(checks::properties(&config.kafka.properties))
        .map_err(refused)?;
    let mapping = match &args.preset {
        None => config.source.mapping.compile(),
        Some(name) => preset(name).compile(),
    };
    let mapping = mapping.map_err(|error| match &args.preset {
        Some(_) => usage(format!("--preset: {}", error.reason)),
        None => usage(format!("`source.mapping.{}` {}", error.key, error.reason)),
    })?;
    let policy = UriPolicy::new(&config.fetch).map_err(refused)?;
    let topics = topics(config)?;
    let mut sampled = Vec::new();
    for topic in &topics {
        let newest = newest(&config.kafka, topic, args.sample);
        sampled.extend(newest.with_context(|| format!("reading the topic {topic}"))?);
    }
    let mut sampled = newest_of(sampled, args.sample);
    let topic = &topics.join(", ");
    framed::open(config, &mut sampled)?;
    let registry = !config.source.registry.url.is_empty();
    let mut lines = Vec::new();
    for message in &sampled {
        lines.extend(read(&mapping, &policy, message, registry));
    }
    for line in &lines {
        match args.json {
            true => println!("{}", line.json()),
            false => println!("{}", line.text()),
        }
    }
    Ok(summary(&args, topic, &sampled, &lines))
}

/// The topics that there are.
fn topics(config: &StageConfig) -> anyhow::Result<Vec<String>> {
    let topics = ImageTopics::of(&config.source).map_err(refused)?;
    let output = &config.output;
    let written = [
        &output.predictions_topic,
        &output.dead_letter_topic,
        &config.labels.topic,
    ];
    let written = written.map(|topic| Arc::from(topic.as_str()));
    let found = topics.found(&config.kafka, &written)?;
    Ok(found.iter().map(|topic| topic.to_string()).collect())
}

fn preset(name: &str) -> MappingConfig {
    MappingConfig {
        preset: name.to_owned(),
        ..MappingConfig::default()
    }
}

/// What the mapping makes of a message, whose frame was taken off if there is a `registry`.
fn read(mapping: &Mapping, policy: &UriPolicy, message: &Sampled, registry: bool) -> Vec<Line> {
    let line = |record, made| Line {
        partition: message.partition.clone(),
        offset: message.offset,
        record,
        made,
    };
    if let Some(reason) = &message.unreadable {
        return vec![line(None, Made::Refused(reason.clone()))];
    }
    let records = match mapping.read(&message.parts()) {
        Err(error) => {
            let headers: &[_] = if registry { &[] } else { &message.headers };
            let alike = Frame::alike(message.value.as_deref().unwrap_or_default(), headers);
            let reason = alike.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
            return vec![line(None, Made::Refused(reason))];
        }
        Ok(records) if records.is_empty() => return vec![line(None, Made::PassedOver)],
        Ok(records) => records,
    };
    let each = records.into_iter().map(|record| {
        let made = match record.reference {
            Err(error) => Made::Refused(error.to_string()),
            Ok(image) => match check(policy, &image.uri) {
                Ok(()) => Made::Image(image),
                Err(kind) => Made::Forbidden(image, kind.as_str()),
            },
        };
        line(mapping.has_many().then_some(record.index), made)
    });
    each.collect()
}

impl Line {
    fn place(&self) -> String {
        let record = self.record.map(|r| format!("[{r}]")).unwrap_or_default();
        format!("{}@{}{record}", self.partition, self.offset)
    }

    fn text(&self) -> String {
        let place = self.place();
        let image = |image: &ImageReference| {
            let time = image.event_time.map(|t| format!("  {}", t.to_rfc3339()));
            let attributes: Vec<String> = image
                .attributes
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let (id, uri) = (redact_id(&image.image_id), redact(&image.uri));
            let time = time.unwrap_or_default();
            format!("{id}  {uri}{time}  {}", attributes.join(" "))
        };
        match &self.made {
            Made::Image(reference) => format!("image     {place}  {}", image(reference)),
            Made::Forbidden(reference, kind) => {
                format!(
                    "forbidden {place}  {}  ({kind}: see [fetch])",
                    image(reference)
                )
            }
            Made::PassedOver => format!("-         {place}"),
            Made::Refused(reason) => format!("refused   {place}  {reason}"),
        }
    }

    fn json(&self) -> serde_json::Value {
        let mut line = serde_json::json!({
            "topic": &*self.partition.topic, "partition": self.partition.partition,
            "offset": self.offset, "record": self.record,
        });
        let image = |image: &ImageReference| {
            serde_json::json!({
                "image_id": redact_id(&image.image_id), "uri": redact(&image.uri),
                "event_time": image.event_time, "attributes": image.attributes,
            })
        };
        match &self.made {
            Made::Image(reference) => line["image"] = image(reference),
            Made::Forbidden(reference, kind) => {
                line["image"] = image(reference);
                line["forbidden"] = (*kind).into();
            }
            Made::PassedOver => line["passed_over"] = true.into(),
            Made::Refused(reason) => line["refused"] = reason.as_str().into(),
        }
        line
    }
}

/// A name, which may be an address.
fn redact_id(id: &str) -> String {
    match id.contains("://") || id.starts_with("data:") {
        true => redact(id),
        false => id.to_owned(),
    }
}

fn summary(args: &CheckArgs, topic: &str, sampled: &[Sampled], lines: &[Line]) -> Exit {
    let count = |of: fn(&Made) -> bool| lines.iter().filter(|line| of(&line.made)).count();
    let images = count(|made| matches!(made, Made::Image(_)));
    let forbidden = count(|made| matches!(made, Made::Forbidden(..)));
    let passed_over = count(|made| matches!(made, Made::PassedOver));
    let refused = count(|made| matches!(made, Made::Refused(_)));
    let (messages, bad) = (sampled.len(), refused + forbidden);
    let better = (bad > 0).then(|| better_preset(sampled, images)).flatten();
    if args.json {
        let counts = serde_json::json!({
            "messages": messages, "images": images, "forbidden": forbidden,
            "passed_over": passed_over, "refused": refused,
            "better_preset": better.map(|(name, _)| name),
        });
        println!("{counts}");
    } else {
        eprintln!(
            "{messages} messages of {topic}: {images} images, {forbidden} that [fetch] forbids, \
             {passed_over} passed over, {refused} refused"
        );
        if let Some((name, read)) = better {
            eprintln!("the preset `{name}` would find {read} images (--preset {name} shows them)");
        }
    }
    match bad {
        0 => Exit::Success,
        _ => Exit::Failure,
    }
}

/// The preset that finds the most images, if they are more than `images`.
fn better_preset(sampled: &[Sampled], images: usize) -> Option<(&'static str, usize)> {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for name in preset_names() {
        let Ok(mapping) = preset(name).compile() else {
            continue;
        };
        let read = sampled.iter().map(|message| {
            let records = mapping.read(&message.parts()).unwrap_or_default();
            records.iter().filter(|r| r.reference.is_ok()).count()
        });
        found.insert(name, read.sum());
    }
    // Of those that are alike (`s3`, `minio`, `ceph`) the first.
    let most = found.values().copied().max()?;
    let name = preset_names().find(|name| found.get(name) == Some(&most))?;
    (most > images).then_some((name, most))
}

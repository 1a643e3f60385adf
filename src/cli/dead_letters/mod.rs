//! `tagstream dead-letters`: what came to nothing, and sending it again.

mod journal;
pub(in crate::cli) mod letters;
mod replay;
pub(in crate::cli) mod topic;
mod writer;

use super::config::{checks, refused};
use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use letters::{Letter, Original};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tagstream::stage::source::ImageTopics;
use tagstream_core::config::StageConfig;
use tagstream_core::error::{Exit, usage};
use tagstream_core::events::DeadLetterKind;
use topic::Topic;

/// Arguments of `tagstream dead-letters`.
#[derive(Debug, Args)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// What came to nothing, oldest first within a partition.
    List(Selection),
    /// Send originals to the topic that they came from, each once however often this is called:
    /// key, value, headers and partition as they were, and the headers `replay.of` and
    /// `replay.time` (the original's time). What was sent is noted in the dead-letter topic itself.
    Replay {
        #[command(flatten)]
        selection: Selection,
        /// Send nothing; say what would be sent.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which dead letters.
#[derive(Debug, Args)]
struct Selection {
    /// The stage's configuration file: brokers and topics.
    #[arg(long, env = "TAGSTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only letters of this kind, such as `outage`. May be repeated.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<DeadLetterKind>,
    /// Only letters written since then: `90m`, `6h`, `2d`, or a time like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<DateTime<Utc>>,
    /// Print JSON: a line for each letter, then (replay) one with the counts.
    #[arg(long)]
    json: bool,
}

fn kind(text: &str) -> Result<DeadLetterKind, String> {
    let found = DeadLetterKind::ALL.iter().find(|k| k.as_str() == text);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = DeadLetterKind::ALL.iter().map(|k| k.as_str()).collect();
        format!("known are {}", known.join(", "))
    })
}

fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let wrong = || "write 90m, 6h or 2d, or a time like 2026-01-31T12:00:00Z".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let count: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| wrong())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let ago = Duration::from_secs(count.checked_mul(seconds).ok_or_else(wrong)?);
    let ago = chrono::Duration::from_std(ago).map_err(|_| wrong())?;
    Utc::now().checked_sub_signed(ago).ok_or_else(wrong)
}

impl Selection {
    fn takes(&self, letter: &Letter) -> bool {
        let of_kind = self.kind.is_empty() || self.kind.iter().any(|k| k.as_str() == letter.kind);
        let in_time = self
            .since
            .is_none_or(|since| letter.time.is_some_and(|t| t >= since));
        of_kind && in_time
    }
}

/// Runs the command.
pub(super) fn run(args: DeadLettersArgs) -> anyhow::Result<Exit> {
    let (selection, replay) = match &args.command {
        DeadLettersCommand::List(selection) => (selection, None),
        DeadLettersCommand::Replay { selection, dry_run } => (selection, Some(*dry_run)),
    };
    let loaded = super::config::load::<StageConfig>(selection.config.as_deref())?;
    let config = &loaded.config;
    loaded
        .refuse(checks::properties(&config.kafka.properties))
        .map_err(refused)?;
    let topic = Topic::open(&config.kafka, &config.output.dead_letter_topic)?;
    let scanned = topic.scan().context("reading the dead letters")?;
    let of_images = ImageTopics::of(&config.source).map_err(refused)?;
    let from = scanned.letters.iter().filter_map(Letter::source_topic);
    let from: BTreeSet<&str> = from.filter(|topic| of_images.takes(topic)).collect();
    let named = of_images.names().iter().map(|name| &**name);
    let sources: Vec<&str> = from
        .into_iter()
        .chain(named)
        .chain([&*config.labels.topic])
        .collect();
    let noted = |letter: &Letter| scanned.journal.is_replayed(letter.partition, letter.offset);
    let sent = scanned.letters.iter().filter(|l| noted(l));
    let sent: BTreeSet<_> = sent.flat_map(Letter::identities).collect();
    let mut chosen: Vec<Letter> = Vec::new();
    for letter in scanned.letters.iter().filter(|l| selection.takes(l)) {
        let mut letter = letter.clone();
        letter.replayed = noted(&letter) || letter.clone().without(|i| sent.contains(i));
        chosen.push(letter);
    }
    match replay {
        None => list(selection, &chosen, &sources),
        Some(dry_run) => {
            let replay = replay::Replay {
                kafka: &config.kafka,
                topic: &topic,
                sources: &sources,
                dry_run,
            };
            replayed(selection, &replay.run(&scanned, &chosen)?)
        }
    }
}

fn list(selection: &Selection, chosen: &[Letter], sources: &[&str]) -> anyhow::Result<Exit> {
    for letter in chosen {
        if selection.json {
            println!("{}", letter.json(sources));
            continue;
        }
        let time = letter
            .time
            .map_or_else(|| "-".to_owned(), |t| t.to_rfc3339());
        let mark = match (letter.replayed, letter.original(sources)) {
            (true, _) => "sent again",
            (false, Original::Here) => "",
            (false, Original::AtItsSource) => "without its whole original",
            (false, Original::Nowhere(_)) => "cannot be sent again",
        };
        let (kind, source, reason) = (&letter.kind, letter.source_text(), &letter.reason);
        println!(
            "{:<12} {time}  {kind:<17} {source}  {mark}  {reason}",
            letter.place()
        );
    }
    if !selection.json {
        let replayed = chosen.iter().filter(|l| l.replayed).count();
        eprintln!(
            "{} dead letters, {replayed} of them sent again",
            chosen.len()
        );
    }
    Ok(Exit::Success)
}

fn replayed(selection: &Selection, done: &replay::Done) -> anyhow::Result<Exit> {
    if selection.json {
        for (letter, reason) in &done.refused {
            let line = serde_json::json!({
                "letter": letter.place(), "source": letter.source_text(), "not_sent": reason,
            });
            println!("{line}");
        }
        let counts = serde_json::json!({
            "sent": done.sent, "sent_before": done.before, "not_sent": done.refused.len(),
            "dry_run": done.dry_run,
        });
        println!("{counts}");
    } else {
        for (letter, reason) in &done.refused {
            eprintln!(
                "not sent: {} ({}): {reason}",
                letter.place(),
                letter.source_text()
            );
        }
        let would = if done.dry_run {
            "would be sent"
        } else {
            "sent"
        };
        eprintln!(
            "{} {would}, {} were sent before, {} cannot be sent",
            done.sent,
            done.before,
            done.refused.len()
        );
    }
    Ok(if done.refused.is_empty() {
        Exit::Success
    } else {
        Exit::Failure
    })
}

/// An error of the brokers' that may pass.
fn temporary(message: String) -> anyhow::Error {
    tagstream_core::error::WithExit {
        exit: Exit::Temporary,
        message,
    }
    .into()
}

/// What librdkafka makes of a configuration.
fn refused_client(error: impl std::fmt::Display) -> anyhow::Error {
    usage(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_kinds_are_read() {
        assert_eq!(kind("outage"), Ok(DeadLetterKind::Outage));
        assert!(kind("outrage").unwrap_err().contains("outage"));
        let six_hours = Utc::now() - since("6h").unwrap();
        assert_eq!((six_hours.num_seconds() + 5) / 10, 2_160);
        assert_eq!(
            since("2026-01-31T12:00:00+01:00").unwrap().timestamp(),
            1_769_857_200
        );
        for wrong in [
            "",
            "6",
            "h",
            "6w",
            "-1h",
            "99999999999999999999d",
            "ä",
            "18446744073709551615d",
        ] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}

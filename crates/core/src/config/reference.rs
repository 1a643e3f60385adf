//! The reference file `configs/stage.toml`: every key, commented, with its default and its
//! description.

use super::*;

/// A section's name, what it is for, and its keys with their descriptions.
type Section = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static [&'static str])],
);

fn sections() -> Vec<Section> {
    vec![
        (
            "kafka",
            "The broker and the consumer group.",
            KafkaConfig::KEYS,
        ),
        ("source", "The topics read.", SourceConfig::KEYS),
        ("memory", "The bound on memory.", MemoryConfig::KEYS),
        (
            "fetch",
            "How images are fetched, and from where they may be.",
            FetchConfig::KEYS,
        ),
        ("decode", "How images are decoded.", DecodeConfig::KEYS),
        (
            "model",
            "The model and how batches are made for it.",
            ModelConfig::KEYS,
        ),
        ("output", "Where rows and messages go.", OutputConfig::KEYS),
        ("labels", "The label store.", LabelsConfig::KEYS),
        (
            "http",
            "The HTTP port for health, metrics and information.",
            HttpConfig::KEYS,
        ),
        ("log", "Logs.", LogConfig::KEYS),
        (
            "object_store",
            "Credentials and options of object stores, by URL scheme; where a key is missing the usual environment variables count.",
            ObjectStoreConfig::KEYS,
        ),
        ("shutdown", "How the stage ends.", ShutdownConfig::KEYS),
    ]
}

const HEADER: &str = "\
# The stage's configuration: every key with its default. A line that begins with `#` and no space is a key: take the `#` away
# to change it. An environment variable overrides a key by its path: TAGSTREAM_FETCH__TIMEOUT_MS=2000 sets fetch.timeout_ms.
# Variables that name keys of retrain.toml alone are left to that job; one that names no key of either is an error.
# `tagstream config validate --config FILE` checks a file, `tagstream config print` shows what results.
#
# Made from src/config.rs; a test fails when it is stale (UPDATE_DOCS=1 cargo test --lib config:: writes it).
";

/// The text of `configs/stage.toml`.
pub fn reference() -> String {
    let defaults =
        toml::Value::try_from(StageConfig::default()).expect("the defaults are plain data");
    let mut text = HEADER.to_owned();
    for (section, about, keys) in sections() {
        text.push_str(&format!("\n# {about}\n[{section}]\n"));
        for (key, lines) in keys {
            for line in *lines {
                text.push_str(&format!("# {}\n", line.trim()));
            }
            text.push_str(&format!("#{key} = {}\n", inline(&defaults[section][*key])));
        }
    }
    text
}

/// One value on one line.
fn inline(value: &toml::Value) -> String {
    match value {
        toml::Value::Table(table) if table.is_empty() => "{}".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    fn path() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("configs/stage.toml")
    }

    fn uncommented(text: &str) -> String {
        text.lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.is_empty() && !key.starts_with(' ') => key,
                _ => line,
            })
            .fold(String::new(), |text, line| text + line + "\n")
    }

    #[test]
    fn the_shipped_file_is_fresh() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(path(), reference()).unwrap();
        }
        let shipped = fs::read_to_string(path()).unwrap();
        assert_eq!(
            shipped,
            reference(),
            "run UPDATE_DOCS=1 cargo test --lib config::"
        );
    }

    #[test]
    fn the_shipped_file_is_the_defaults_as_it_is_and_with_every_key_uncommented() {
        let shipped = fs::read_to_string(path()).unwrap();
        let as_it_is: StageConfig = toml::from_str(&shipped).unwrap();
        assert_eq!(as_it_is, StageConfig::default());
        let all = uncommented(&shipped);
        let with_all: StageConfig = toml::from_str(&all).unwrap();
        assert_eq!(with_all, StageConfig::default());
        // Every key of the types stands in the file, and no other.
        let stand: toml::Table = toml::from_str(&all).unwrap();
        let exist = toml::Table::try_from(StageConfig::default()).unwrap();
        let keys = |table: &toml::Table| -> BTreeSet<String> {
            let of = |section: &str| format!("{section}.");
            table
                .iter()
                .flat_map(|(s, t)| t.as_table().unwrap().keys().map(move |k| of(s) + k))
                .collect()
        };
        assert_eq!(keys(&stand), keys(&exist));
        assert!(keys(&stand).len() > 40);
    }

    #[test]
    fn every_key_is_described() {
        for (section, _, keys) in sections() {
            for (key, lines) in keys {
                assert!(!lines.is_empty(), "{section}.{key} has no description");
            }
        }
    }
}

//! `tagstream config`: validate or print a configuration. The other commands read theirs here, too,
//! because only the command line knows all configurations that share an environment.

pub(super) mod checks;

use anyhow::Context;
use checks::Check;
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use tagstream::retrain::config::RetrainConfig;
use tagstream::serve::config::ServeConfig;
use tagstream_core::config;
use tagstream_core::config::{
    ConfigError, Configuration, Flaw, Loaded, Shape, StageConfig, reference, schema, section_names,
};
use tagstream_core::error::{Exit, usage};
use tagstream_core::redact::redact_place;
use tagstream_model::registry::Location;

/// The configurations that share an environment.
const ALL: [Shape; 3] = [StageConfig::SHAPE, RetrainConfig::SHAPE, ServeConfig::SHAPE];

/// Reads a configuration and checks its values.
pub(super) fn load<T: Configuration>(path: Option<&Path>) -> anyhow::Result<Loaded<T>> {
    Ok(config::load(path, &ALL).map_err(refused)?)
}

/// The error of a command that a configuration keeps from starting.
pub(super) fn refused(error: ConfigError) -> tagstream_core::error::WithExit {
    usage(error.to_string())
}

/// Arguments of `tagstream config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a file and TAGSTREAM_* variables, and say where what is wrong stands; exit code 2 if
    /// anything is. Every check is made that needs no network: keys, types, values, addresses,
    /// names of object stores' options, whether the model and the job's folders are there.
    Validate {
        #[command(flatten)]
        what: What,
    },
    /// Print what results from the file and the variables, as TOML; secrets are not shown, and
    /// values are not checked beyond their types.
    Print {
        #[command(flatten)]
        what: What,
        /// Print every key, commented, with its default and its description.
        #[arg(long, conflicts_with = "config")]
        reference: bool,
        /// Print the JSON Schema, for editors.
        #[arg(long, conflicts_with_all = ["config", "reference"])]
        schema: bool,
    },
}

/// Which configuration is meant.
#[derive(Debug, Args)]
pub(super) struct What {
    /// The file; without it what TAGSTREAM_CONFIG names (with --kind retrain:
    /// TAGSTREAM_RETRAIN_CONFIG, with --kind serve: TAGSTREAM_SERVE_CONFIG), else defaults and
    /// variables alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Whose configuration it is. Without it a file is taken for the one that knows most of its
    /// sections, and among several for the one in its name (`retrain`, `serve`); all else is the
    /// stage's.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

/// Whose configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// `tagstream run`'s.
    Stage,
    /// `tagstream retrain`'s.
    Retrain,
    /// `tagstream serve`'s.
    Serve,
}

impl What {
    fn resolved(self) -> (Kind, Option<PathBuf>) {
        let of_variable = |name| {
            let set = std::env::var_os(name).filter(|path| !path.is_empty());
            set.map(PathBuf::from)
        };
        match (self.kind, self.config) {
            (Some(kind), Some(path)) => (kind, Some(path)),
            (Some(Kind::Retrain), None) => (Kind::Retrain, of_variable("TAGSTREAM_RETRAIN_CONFIG")),
            (Some(Kind::Serve), None) => (Kind::Serve, of_variable("TAGSTREAM_SERVE_CONFIG")),
            (Some(Kind::Stage), None) => (Kind::Stage, of_variable("TAGSTREAM_CONFIG")),
            (None, path) => match path.or_else(|| of_variable("TAGSTREAM_CONFIG")) {
                Some(path) => (recognised(&path), Some(path)),
                None => (Kind::Stage, None),
            },
        }
    }
}

/// Whose configuration a file is. One that cannot be read is said to be so by whoever loads it.
fn recognised(path: &Path) -> Kind {
    let sections = section_names(&std::fs::read_to_string(path).unwrap_or_default());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let has = |shape: &Shape, name: &str| shape.keys.iter().any(|key| key.name == name);
    // A section that several know speaks for each of them.
    let kinds = [Kind::Stage, Kind::Retrain, Kind::Serve].map(|kind| {
        let known = sections.iter().filter(|name| has(&kind.shape(), name));
        (known.count(), kind)
    });
    let most = kinds
        .iter()
        .map(|(known, _)| *known)
        .max()
        .unwrap_or_default();
    let mut likely = kinds
        .iter()
        .filter(|(known, _)| *known == most)
        .map(|(_, kind)| *kind);
    let named = |kind: &Kind| match kind {
        Kind::Stage => false,
        Kind::Retrain => name.contains("retrain"),
        Kind::Serve => name.contains("serve"),
    };
    likely
        .clone()
        .find(named)
        .or_else(|| likely.next())
        .unwrap_or(Kind::Stage)
}

impl Kind {
    fn shape(self) -> Shape {
        match self {
            Kind::Stage => StageConfig::SHAPE,
            Kind::Retrain => RetrainConfig::SHAPE,
            Kind::Serve => ServeConfig::SHAPE,
        }
    }
}

/// Runs the command.
pub(super) fn run(args: ConfigArgs) -> anyhow::Result<Exit> {
    match args.command {
        ConfigCommand::Validate { what } => match what.resolved() {
            (Kind::Stage, path) => {
                let config = validate(path.as_deref(), checks::STAGE)?;
                for (key, value) in [
                    ("output.url", &config.output.url),
                    ("model.path", &config.model.path),
                ] {
                    if value.is_empty() {
                        eprintln!("note: `{key}` is empty; `tagstream run` needs it");
                    }
                }
            }
            (Kind::Retrain, path) => drop(validate(path.as_deref(), checks::RETRAINING)?),
            (Kind::Serve, path) => drop(validate(path.as_deref(), checks::PAGES)?),
        },
        ConfigCommand::Print {
            what,
            reference,
            schema,
        } => match what.resolved() {
            (Kind::Stage, path) => print::<StageConfig>(path.as_deref(), reference, schema)?,
            (Kind::Retrain, path) => print::<RetrainConfig>(path.as_deref(), reference, schema)?,
            (Kind::Serve, path) => print::<ServeConfig>(path.as_deref(), reference, schema)?,
        },
    }
    Ok(Exit::Success)
}

fn validate<T: Configuration>(path: Option<&Path>, checks: &[Check<T>]) -> anyhow::Result<T> {
    let loaded = config::read::<T>(path, &ALL).map_err(refused)?;
    let mut flaws = loaded.config.flaws();
    if flaws.is_empty() {
        // These take values that are right as they stand.
        let more: Vec<Flaw> = checks
            .iter()
            .flat_map(|check| check(&loaded.config))
            .collect();
        flaws.extend(more);
    }
    loaded.refuse(flaws).map_err(refused)?;
    let name = path.map_or("the defaults".into(), |path| path.display().to_string());
    eprintln!("{name}: valid as {}", T::SHAPE.file);
    Ok(loaded.config)
}

fn print<T: Configuration>(
    path: Option<&Path>,
    as_reference: bool,
    as_schema: bool,
) -> anyhow::Result<()> {
    let text = if as_reference {
        reference::<T>()
    } else if as_schema {
        schema::<T>()
    } else {
        let loaded = config::read::<T>(path, &ALL).map_err(refused)?;
        let mut table = toml::Table::try_from(&loaded.config).context(AS_TOML)?;
        redact_addresses(&mut table);
        toml::to_string(&table).context(AS_TOML)?
    };
    print!("{text}");
    Ok(())
}

const AS_TOML: &str = "writing the configuration as TOML";

/// The keys whose values are addresses, which can hold a password where none belongs.
const ADDRESSES: [(&str, &str); 6] = [
    ("kafka", "brokers"),
    ("labels", "url"),
    ("model", "path"),
    ("output", "url"),
    ("registry", "url"),
    ("tables", "url"),
];

fn redact_addresses(config: &mut toml::Table) {
    for (section, key) in ADDRESSES {
        let section = config.get_mut(section).and_then(toml::Value::as_table_mut);
        if let Some(toml::Value::String(address)) = section.and_then(|keys| keys.get_mut(key)) {
            *address = shown(address);
        }
    }
    config.iter_mut().for_each(|(_, value)| redact_users(value));
}

/// Whatever its key: an address with a user may have a password.
fn redact_users(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) if names_a_user(text) => *text = shown(text),
        toml::Value::Array(values) => values.iter_mut().for_each(redact_users),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| redact_users(value)),
        _ => {}
    }
}

/// Whether the text is an address with an `@` before its path.
fn names_a_user(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest);
    let authority = authority.and_then(|rest| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| authority.contains('@'))
}

/// An address without what may be a secret; the version behind a registry's stays.
fn shown(address: &str) -> String {
    let url = Location::parse(address).url;
    let version = address.strip_prefix(&url).unwrap_or_default();
    format!("{}{version}", redact_place(&url))
}

#[cfg(test)]
mod tests;

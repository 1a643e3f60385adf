//! Reading a configuration: defaults, a TOML file over them, environment variables over both.

use super::{ConfigError, Flaw, Key, Mistake, Origin, Origins, environment, file};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::path::Path;

/// The keys of a configuration, and what its file is called.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The usual name of its file: `stage.toml`.
    pub file: &'static str,
    /// What it is the configuration of, for people.
    pub of: &'static str,
    /// What the reference file says first.
    pub head: &'static str,
    /// Its sections.
    pub keys: &'static [Key],
}

/// A configuration that can be read.
pub trait Configuration: Default + Serialize + DeserializeOwned {
    /// Its keys and its file.
    const SHAPE: Shape;

    /// What cannot be although every type is right. Asks nobody: no network, no files.
    fn flaws(&self) -> Vec<Flaw>;

    /// The first of the flaws as an error.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    fn validate(&self) -> Result<(), ConfigError> {
        match self.flaws().into_iter().next() {
            Some(flaw) => Err(flaw.into()),
            None => Ok(()),
        }
    }
}

/// A configuration and where its values stand.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// Where its values stand.
    pub origins: Origins,
}

impl<T> Loaded<T> {
    /// Refuses what `flaws` names, each with its place.
    ///
    /// # Errors
    /// [`ConfigError::Mistakes`] if there is any flaw.
    pub fn refuse(&self, flaws: Vec<Flaw>) -> Result<(), ConfigError> {
        if flaws.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Mistakes(self.origins.locate(flaws)))
    }
}

/// Reads `path` (defaults alone without one), then the environment, and checks the values. `others`
/// are the configurations that share the environment: variables that name keys of theirs are left
/// alone, and a key of theirs in this file is called what it is. It does no harm if `T` is among
/// them.
///
/// # Errors
/// [`ConfigError`] names file, line and key, or the variable, of everything that is wrong.
pub fn load<T: Configuration>(
    path: Option<&Path>,
    others: &[Shape],
) -> Result<Loaded<T>, ConfigError> {
    let loaded = read::<T>(path, others)?;
    loaded.refuse(loaded.config.flaws())?;
    Ok(loaded)
}

/// As [`load`], without a check of the values.
///
/// # Errors
/// As [`load`].
pub fn read<T: Configuration>(
    path: Option<&Path>,
    others: &[Shape],
) -> Result<Loaded<T>, ConfigError> {
    read_with(path, others, std::env::vars_os())
}

/// As [`read`], with these variables for the environment's.
///
/// # Errors
/// As [`load`].
pub fn read_with<T: Configuration>(
    path: Option<&Path>,
    others: &[Shape],
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded<T>, ConfigError> {
    let own = T::SHAPE;
    let others: Vec<Shape> = others
        .iter()
        .filter(|other| other.file != own.file)
        .copied()
        .collect();
    let name = path.map(|path| path.display().to_string());
    let mut said = file::Said::default();
    if let (Some(path), Some(name)) = (path, &name) {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: name.clone(),
            source,
        })?;
        said = file::read(name, &text, &own, &others);
    }
    environment::overlay(&mut said, variables, &own, &others);
    if !said.mistakes.is_empty() {
        return Err(ConfigError::Mistakes(said.mistakes));
    }
    let config = said.values.try_into().map_err(|error: toml::de::Error| {
        // Types were checked above; what a type refuses beyond them is told in its own words.
        ConfigError::Mistakes(vec![Mistake {
            origin: Origin::Unset(name.clone()),
            key: String::new(),
            reason: error.message().to_owned(),
        }])
    })?;
    let origins = Origins {
        file: name,
        keys: said.origins,
    };
    Ok(Loaded { config, origins })
}

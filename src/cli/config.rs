//! `tagstream config`: validate or print the configuration.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use tagstream_core::config::reference;
use tagstream_core::error::{Exit, usage};

/// Arguments of `tagstream config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a file (and TAGSTREAM_* variables) and say what is wrong; exit code 2 if something is.
    Validate {
        /// The file; without it defaults and variables alone.
        #[arg(long, env = "TAGSTREAM_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Print what results from the file and the variables, as TOML; secrets are not shown.
    Print {
        /// The file; without it defaults and variables alone.
        #[arg(long, env = "TAGSTREAM_CONFIG")]
        config: Option<PathBuf>,
        /// Print every key, commented, with its default and its description.
        #[arg(long, conflicts_with = "config")]
        reference: bool,
    },
}

/// Runs the command.
pub(super) fn run(args: ConfigArgs) -> anyhow::Result<Exit> {
    let load = |path: &Option<PathBuf>| {
        tagstream::load_stage(path.as_deref()).map_err(|e| usage(e.to_string()))
    };
    match args.command {
        ConfigCommand::Validate { config } => {
            load(&config)?;
            let name = config.map_or("the defaults".into(), |p| p.display().to_string());
            eprintln!("{name}: valid");
        }
        ConfigCommand::Print {
            reference: true, ..
        } => print!("{}", reference()),
        ConfigCommand::Print { config, .. } => print!("{}", toml::to_string(&load(&config)?)?),
    }
    Ok(Exit::Success)
}

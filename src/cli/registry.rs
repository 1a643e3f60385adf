//! `tagstream registry`: versions of the model: list, show, add, promote, roll back, prune.

mod print;
mod words;

use super::guess::GuessArgs;
use anyhow::Context;
use clap::{Args, Subcommand};
use print::{Listing, print, print_listing, print_pointer, print_pruning, print_version};
use std::path::PathBuf;
use tagstream_core::config::{ObjectStoreConfig, StageConfig};
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::{
    Action, Decision, Pointer, Registration, Registry, RegistryError, VersionRecord,
};
use words::WordsChange;

/// Arguments of `tagstream registry`.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// Where the registry is: a folder, file:///folder, s3://bucket/prefix, gs://... or az://...
    #[arg(long, global = true, env = "TAGSTREAM_REGISTRY", value_name = "URL")]
    pub registry: Option<String>,
    /// Configuration file whose `[object_store]` section holds the store's options; without it the
    /// usual environment variables count.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: RegistryCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum RegistryCommand {
    /// Versions and decisions, oldest first.
    List,
    /// One version: files, figures, decisions about it.
    Show {
        /// Version number; the one that serves if missing.
        version: Option<u64>,
        /// Write its retraining report to this file.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Store a bundle as a new version (and make the registry if there is none).
    Add {
        /// The bundle directory.
        bundle: PathBuf,
        /// Make it serve at once.
        #[arg(long)]
        promote: bool,
        #[command(flatten)]
        reason: Reason,
    },
    /// Add categories to the version that serves, by their words alone: a new version, no
    /// training.
    AddCategory {
        /// The category's name.
        #[arg(required_unless_present = "categories")]
        name: Option<String>,
        /// Words that stand for it in prompts; the name, underscores as spaces, if missing.
        #[arg(long, value_name = "WORDS")]
        words: Option<String>,
        /// Add all categories of this file (docs/categories.md).
        #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "words"])]
        categories: Option<PathBuf>,
        #[command(flatten)]
        guess: GuessArgs,
        /// Make the new version serve at once.
        #[arg(long)]
        promote: bool,
        #[command(flatten)]
        reason: Reason,
    },
    /// Give categories of the version that serves the words, parents and groups that a file says: a
    /// new version, no training. What was learnt stays; categories that the model lacks are added.
    SetWords {
        /// The file (docs/categories.md). Categories that it does not name stay as they are.
        #[arg(long, value_name = "FILE")]
        categories: PathBuf,
        #[command(flatten)]
        guess: GuessArgs,
        /// Make the new version serve at once.
        #[arg(long)]
        promote: bool,
        #[command(flatten)]
        reason: Reason,
    },
    /// Make a version serve.
    Promote {
        /// Version number.
        version: u64,
        /// Do so only if this version still serves.
        #[arg(long, value_name = "VERSION")]
        expect: Option<u64>,
        #[command(flatten)]
        reason: Reason,
    },
    /// Remove versions that nobody needs. What serves, served, is an ancestor of a version that
    /// stays, or keeps what the next retraining reads, is never taken.
    Prune {
        /// How many of the newest versions stay in any case.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        keep: u64,
        /// Another version that stays, for example one that a stage names (`@7`).
        #[arg(long, value_name = "VERSION")]
        spare: Vec<u64>,
        /// Change nothing; say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Who prunes.
        #[arg(long, env = "USER", default_value = "unknown")]
        who: String,
    },
    /// Make the version serve that served before.
    Rollback {
        /// Another version than that.
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
        #[command(flatten)]
        reason: Reason,
    },
}

/// The reason that stands in the history when none was given.
const BY_HAND: &str = "by hand";

/// Who decides, and why: both go into the history.
#[derive(Debug, Args)]
pub(super) struct Reason {
    /// Who decides.
    #[arg(long, env = "USER", default_value = "unknown")]
    pub who: String,
    /// Why.
    #[arg(long, default_value = BY_HAND)]
    pub why: String,
}

/// Runs the command.
pub(super) fn run(args: RegistryArgs) -> anyhow::Result<Exit> {
    let url = args.registry.as_deref().ok_or_else(|| {
        usage("name the registry: --registry URL, or the environment variable TAGSTREAM_REGISTRY")
    })?;
    let options = match &args.config {
        Some(path) => {
            super::config::load::<StageConfig>(Some(path))?
                .config
                .object_store
        }
        None => ObjectStoreConfig::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let done = runtime.block_on(execute(url, &options, args.command, args.json));
    done.map(|()| Exit::Success).map_err(with_exit)
}

/// Gives a registry error the exit code that it deserves.
fn with_exit(error: anyhow::Error) -> anyhow::Error {
    let Some(cause) = error.downcast_ref::<RegistryError>() else {
        return error;
    };
    let exit = if cause.is_temporary() {
        Exit::Temporary
    } else {
        match cause {
            RegistryError::Open(_)
            | RegistryError::NotARegistry { .. }
            | RegistryError::NoSuchVersion { .. }
            | RegistryError::NothingPromoted { .. }
            | RegistryError::NothingToRollBackTo
            | RegistryError::BadBundle { .. } => Exit::Usage,
            _ => return error,
        }
    };
    let message = super::said_once(&error);
    WithExit { exit, message }.into()
}

async fn execute(
    url: &str,
    options: &ObjectStoreConfig,
    command: RegistryCommand,
    json: bool,
) -> anyhow::Result<()> {
    if let RegistryCommand::Add { .. } = command {
        return add(url, options, command, json).await;
    }
    let registry = Registry::open(url, options).await?;
    match command {
        RegistryCommand::List => {
            let (pointer, versions, history) =
                futures::try_join!(registry.pointer(), registry.versions(), registry.history())?;
            let listing = Listing {
                pointer,
                versions,
                history,
            };
            print(&listing, json, print_listing)
        }
        RegistryCommand::Show { version, report } => {
            let listing = about(&registry, version, report).await?;
            print(&listing, json, print_version)
        }
        RegistryCommand::Promote {
            version,
            expect,
            reason,
        } => {
            let changing = registry.changing(&reason.who).await?;
            let moved = promote_over(&registry, version, expect, &reason).await;
            changing.done().await;
            print(&moved?, json, print_pointer)
        }
        RegistryCommand::Rollback { to, reason } => {
            let changing = registry.changing(&reason.who).await?;
            let moved = registry.roll_back(to, &reason.who, &reason.why).await;
            changing.done().await;
            print(&moved?, json, print_pointer)
        }
        RegistryCommand::Prune {
            keep,
            spare,
            dry_run,
            who,
        } => {
            let keep = usize::try_from(keep).unwrap_or(usize::MAX);
            let pruning = match dry_run {
                true => registry.would_prune(keep, &spare).await?,
                false => registry.prune(keep, &spare, &who).await?,
            };
            print(&pruning, json, |pruning| print_pruning(pruning, dry_run))
        }
        RegistryCommand::AddCategory {
            name,
            words,
            categories,
            guess,
            promote,
            reason,
        } => {
            let change = match (&categories, &name) {
                (Some(file), _) => WordsChange::Add(file),
                (None, name) => WordsChange::AddOne {
                    name: name.as_deref().unwrap_or_default(),
                    words: words.as_deref(),
                },
            };
            let version = change.register(&registry, &guess, promote, &reason).await?;
            print(&version, json, |v| change.describe(v, promote))
        }
        RegistryCommand::SetWords {
            categories,
            guess,
            promote,
            reason,
        } => {
            let change = WordsChange::Set(&categories);
            let version = change.register(&registry, &guess, promote, &reason).await?;
            print(&version, json, |v| change.describe(v, promote))
        }
        RegistryCommand::Add { .. } => unreachable!("handled above"),
    }
}

/// A version (the one that serves without a number) with the decisions about it; its report goes
/// to `report`, if that is named.
async fn about(
    registry: &Registry,
    version: Option<u64>,
    report: Option<PathBuf>,
) -> anyhow::Result<Listing> {
    let version = match version {
        Some(number) => registry.version(number).await?,
        None => registry.current().await?,
    };
    if let Some(to) = report {
        registry.attachment(&version, "report.html", &to).await?;
    }
    let history = registry.history().await?;
    let about = history
        .into_iter()
        .filter(|e| e.version == version.version)
        .collect();
    Ok(Listing {
        pointer: registry.pointer().await?,
        versions: vec![version],
        history: about,
    })
}

/// Makes a version serve, unless another one than the expected serves now or another decision
/// comes in between.
async fn promote_over(
    registry: &Registry,
    version: u64,
    expect: Option<u64>,
    reason: &Reason,
) -> anyhow::Result<Pointer> {
    let pointer = registry.pointer().await?;
    let serving = pointer.as_ref().and_then(|p| p.version);
    if expect.is_some() && expect != serving {
        let serving = serving.map_or("none".into(), |v| v.to_string());
        let message =
            format!("version {serving} serves, not the expected one: nothing was changed");
        let exit = Exit::Temporary;
        return Err(WithExit { exit, message }.into());
    }
    let generation = Some(pointer.map_or(0, |p| p.generation));
    Ok(promote(registry, version, generation, reason).await?)
}

/// Registers a bundle by hand and, if asked to, promotes it over the pointer's generation.
async fn register(
    registry: &Registry,
    bundle: &Bundle,
    over: Option<Option<u64>>,
    reason: &Reason,
) -> anyhow::Result<VersionRecord> {
    let changing = registry.changing(&reason.who).await?;
    let registered = async {
        let version = registry
            .register(&Registration {
                bundle: bundle.root(),
                attachments: &[],
                who: &reason.who,
                why: &reason.why,
                run: None,
            })
            .await?;
        if let Some(generation) = over {
            promote(registry, version.version, generation, reason).await?;
        }
        anyhow::Ok(version)
    };
    let registered = registered.await;
    changing.done().await;
    registered
}

async fn add(
    url: &str,
    options: &ObjectStoreConfig,
    command: RegistryCommand,
    json: bool,
) -> anyhow::Result<()> {
    let RegistryCommand::Add {
        bundle,
        promote: wanted,
        reason,
    } = command
    else {
        unreachable!("the caller looked");
    };
    let bundle = Bundle::open(&bundle).map_err(|e| usage(e.to_string()))?;
    let registry = Registry::open_or_create(url, options).await?;
    let generation = registry.pointer().await?.map(|p| p.generation);
    let version = register(&registry, &bundle, wanted.then_some(generation), &reason).await?;
    print(&version, json, |v| {
        println!("version {} is {}", v.version, v.id)
    })
}

async fn promote(
    registry: &Registry,
    version: u64,
    generation: Option<u64>,
    reason: &Reason,
) -> Result<Pointer, RegistryError> {
    registry
        .decide(Decision {
            generation,
            ..Decision::by_hand(Action::Promoted, version, &reason.who, &reason.why)
        })
        .await
}

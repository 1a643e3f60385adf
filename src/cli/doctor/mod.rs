//! `tagstream doctor`: check libraries, providers, broker, object store and model.

mod checks;

use super::installed::demo_clip;
use checks::{Verdict, examine};
use clap::Args;
use std::path::PathBuf;
use tagstream_core::config::StageConfig;
use tagstream_core::error::Exit;

/// Arguments of `tagstream doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 0 if nothing that the configuration needs is missing, else 1.")]
pub(super) struct DoctorArgs {
    /// Configuration file to check against.
    #[arg(long, env = "TAGSTREAM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Model to check; overrides `model.path`.
    #[arg(long)]
    pub model: Option<String>,
    /// The demo model, whose sanity scenes prove decoding and inference.
    #[arg(long, default_value_os_t = demo_clip())]
    pub demo_clip: PathBuf,
    /// Print one JSON array of findings.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: DoctorArgs) -> anyhow::Result<Exit> {
    let mut config = crate::cli::config::load::<StageConfig>(args.config.as_deref())?.config;
    if let Some(model) = args.model {
        config.model.path = model;
    }
    let tokio = tokio::runtime::Runtime::new()?;
    let findings = tokio.block_on(examine(&config, &args.demo_clip));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok     ",
                Verdict::Unused => "-      ",
                Verdict::Bad => "MISSING",
            };
            println!("{mark}  {:17}  {}", finding.subject, finding.detail);
        }
    }
    let bad = findings.iter().any(|f| f.verdict == Verdict::Bad);
    Ok(if bad { Exit::Failure } else { Exit::Success })
}

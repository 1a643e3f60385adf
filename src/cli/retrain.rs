//! `tagstream retrain`: retrain prompts and prototypes from the labels so far, judge, register,
//! promote.

use super::news::{Teller, host};
use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tagstream::retrain::config::RetrainConfig;
use tagstream::retrain::job::{Job, JobError, JobOptions, JobProgress, Outcome};
use tagstream::retrain::tracking::RunLog;
use tagstream_core::config::Configuration;
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_model::registry::Verdict;

/// Arguments of `tagstream retrain`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 promoted, 99 nothing to do or held, 3 rejected, 2 usage or \
                  configuration (do not retry), 75 temporary (another run holds the lease, a store \
                  failed: retry), 1 anything else.\n\
                  With --every the process ends only on an error that repeating cannot cure, or on \
                  SIGTERM: with 0 between two runs, with 75 while one works."
)]
pub(super) struct RetrainArgs {
    /// Configuration file; every key stands with its default in configs/retrain.toml.
    #[arg(long, env = "TAGSTREAM_RETRAIN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Run once and exit (the default).
    #[arg(long, conflicts_with = "every")]
    pub once: bool,
    /// Repeat at this interval: a number and s, m, h or d, for example 6h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub every: Option<Duration>,
    /// Training ends after the epoch in which this time has passed, minutes; in place of
    /// train.max_minutes.
    #[arg(long, value_name = "MINUTES")]
    pub max_minutes: Option<f64>,
    /// Compute and report, write nothing else.
    #[arg(long)]
    pub dry_run: bool,
    /// Refresh prototypes and memory without gradients.
    #[arg(long)]
    pub prototypes_only: bool,
    /// Who runs the job; goes into the registry's history.
    #[arg(long, env = "TAGSTREAM_WHO", value_name = "NAME")]
    pub who: Option<String>,
    /// Print the outcome as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `90s`, `15m`, `6h`, `1d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration: give a number and s, m, h or d, for example 6h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let seconds = match &text[split..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let whole = number.checked_mul(seconds).filter(|s| *s > 0);
    whole.map(Duration::from_secs).ok_or_else(wrong)
}

/// Runs the command.
pub(super) fn run(args: RetrainArgs) -> anyhow::Result<Exit> {
    let mut config = super::config::load::<RetrainConfig>(args.config.as_deref())?.config;
    if let Some(minutes) = args.max_minutes {
        config.train.max_minutes = minutes;
        config.validate().map_err(|e| usage(e.to_string()))?;
    }
    let options = JobOptions {
        dry_run: args.dry_run,
        prototypes_only: args.prototypes_only,
        who: args
            .who
            .unwrap_or_else(|| format!("retrain {}/{}", host(), std::process::id())),
    };
    let teller = Teller::new(&config.notify, "retrain")?;
    let log = RunLog::new(&config.mlflow).map_err(|e| usage(format!("`mlflow`: {e}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let once = || {
        let began = Utc::now();
        let outcome = once(&config, &options, &runtime)?;
        let told = async {
            teller.judged(&config.registry.url, &outcome).await;
            record(log.as_ref(), &outcome, began).await;
        };
        runtime.block_on(told);
        Ok(outcome)
    };
    let Some(interval) = args.every else {
        return finish(once(), args.json);
    };
    let stop = Stop::listen(&runtime)?;
    loop {
        let began = Instant::now();
        stop.working.store(true, Ordering::SeqCst);
        match once() {
            Err(error) if !error.is_temporary() => return finish(Err(error), args.json),
            Err(error) => eprintln!("retrain: {error}; next try at the next interval"),
            done => {
                finish(done, args.json)?;
            }
        }
        stop.working.store(false, Ordering::SeqCst);
        // A run that took longer than the interval is followed by the next at once.
        let wait = interval.saturating_sub(began.elapsed());
        eprintln!("retrain: next run in {} s", wait.as_secs());
        runtime.block_on(async { tokio::time::sleep(wait).await });
    }
}

/// Ends the process on SIGTERM or Ctrl-C: between two runs with success, while one works with 75,
/// because the next process goes on where it was.
struct Stop {
    working: Arc<AtomicBool>,
}

impl Stop {
    fn listen(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let working = Arc::new(AtomicBool::new(false));
        let (mut term, mut interrupt) = {
            let _entered = runtime.enter();
            let listening = |kind| signal(kind).context("listening for signals");
            (
                listening(SignalKind::terminate())?,
                listening(SignalKind::interrupt())?,
            )
        };
        let seen = Arc::clone(&working);
        runtime.spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            if seen.load(Ordering::SeqCst) {
                eprintln!("retrain: stopped in the middle of a run; the next one goes on there");
                Exit::Temporary.end_process();
            }
            Exit::Success.end_process();
        });
        Ok(Stop { working })
    }
}

/// Records a run that came to a decision, where a tracking server is configured.
async fn record(log: Option<&RunLog>, outcome: &Outcome, began: DateTime<Utc>) {
    let (
        Some(log),
        Outcome::Judged {
            version, record, ..
        },
    ) = (log, outcome)
    else {
        return;
    };
    // A dry run writes nothing.
    if version.is_none() {
        return;
    }
    match log.keep(record, *version, (began, Utc::now())).await {
        Ok(run) if run.known => eprintln!("retrain: {} knows this run: {}", run.place, run.id),
        Ok(run) => eprintln!("retrain: recorded at {} as run {}", run.place, run.id),
        Err(error) => eprintln!("retrain: the run was not recorded: {error}"),
    }
}

fn once(
    config: &RetrainConfig,
    options: &JobOptions,
    runtime: &tokio::runtime::Runtime,
) -> Result<Outcome, JobError> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template("{prefix:18} {bar:30} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let terminal = !bar.is_hidden();
    let on_progress = |on_progress: JobProgress| match on_progress {
        JobProgress::Step(name) => {
            bar.set_prefix(name);
            bar.set_message("");
            bar.set_length(0);
            bar.set_position(0);
            if !terminal {
                eprintln!("retrain: {name}");
            }
        }
        JobProgress::Features(done, all) => {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
        JobProgress::Training(done, all, loss) => {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("loss {loss:.4}"));
        }
    };
    let outcome = Job::new(config, options, runtime, &on_progress).run();
    bar.finish_and_clear();
    outcome
}

fn finish(outcome: Result<Outcome, JobError>, json: bool) -> anyhow::Result<Exit> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let exit = if error.is_temporary() {
                Exit::Temporary
            } else if error.is_usage() {
                Exit::Usage
            } else {
                return Err(error.into());
            };
            let message = error.to_string();
            return Err(WithExit { exit, message }.into());
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    }
    Ok(match &outcome {
        Outcome::Nothing { reason } => {
            eprintln!("retrain: nothing to do: {reason}");
            Exit::NothingToDo
        }
        Outcome::Judged {
            verdict,
            version,
            id,
            why,
            failed_gates,
            report,
            record: _,
        } => {
            let version = version.map_or("not registered (dry run)".into(), |v| {
                format!("version {v}")
            });
            eprintln!("retrain: {verdict}: {id}, {version}");
            eprintln!("retrain: {why}");
            for gate in failed_gates {
                eprintln!(
                    "retrain: gate `{}` demands {}: {}, asked for: {}",
                    gate.name, gate.otherwise, gate.measured, gate.asked
                );
            }
            if let Some(report) = report {
                eprintln!("retrain: report in {}", report.display());
            }
            match verdict {
                Verdict::Promote => Exit::Success,
                Verdict::Hold => Exit::NothingToDo,
                Verdict::Reject => Exit::Rejected,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_a_unit() {
        assert_eq!(duration("6h"), Ok(Duration::from_secs(21_600)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for wrong in [
            "",
            "6",
            "h",
            "0h",
            "6 h",
            "-1h",
            "1.5h",
            "99999999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

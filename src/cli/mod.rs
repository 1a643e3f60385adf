//! The command line: one file per command. Human output goes to stderr, machine output (`--json`)
//! to stdout.

#[cfg(feature = "demo")]
mod bench;
#[cfg(feature = "demo")]
mod broker;
mod completions;
mod config;
mod dataset;
mod dead_letters;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod encode;
mod eval;
mod guess;
mod init;
mod installed;
mod kafka;
mod labels;
mod listing;
mod news;
mod pictures;
mod produce;
mod registry;
mod retrain;
mod run;
#[cfg(feature = "demo")]
mod scenes;
mod search_index;
mod serve;
mod source;
mod table;
mod tag;
mod train;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use tagstream_core::build;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::error::{Exit, WithExit};
use tagstream_core::redact::redact_place;
use tagstream_model::OpenedModel;

/// Tags image streams: Kafka in, text-region matching on a frozen CLIP, exactly-once Parquet out.
#[derive(Debug, Parser)]
#[command(
    version = build::name(),
    after_help = "Exit codes: 0 success (retrain: promoted), 1 failure, 2 usage or configuration,\n\
                  3 candidate rejected, 75 temporary failure, 99 nothing to do or candidate held."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The stage: image references in, Parquet and tags out.
    Run(run::RunArgs),
    /// Everything, with an embedded broker and the demo model.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Retrain prompts and prototypes from the labels so far, judge, register, promote.
    Retrain(retrain::RetrainArgs),
    /// Tag images and print or draw what was found.
    Tag(tag::TagArgs),
    /// Measure a model against labels.
    Eval(eval::EvalArgs),
    /// Train a head on partially labelled images.
    Train(train::TrainArgs),
    /// Make a bundle from CLIP weights and a list of categories.
    Init(init::InitArgs),
    /// Print embeddings of images and texts.
    Encode(encode::EncodeArgs),
    /// Write image references to a topic.
    Produce(produce::ProduceArgs),
    /// What the mapping makes of the topic's own messages.
    Source(source::SourceArgs),
    /// What came to nothing: list it, send it again.
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Partial labels from and to files and the topic.
    Labels(labels::LabelsArgs),
    /// Versions of the model: list, show, promote, roll back.
    Registry(registry::RegistryArgs),
    /// Pages on which people see what the stages do and decide about models.
    Serve(serve::ServeArgs),
    /// Write, or bring up to date, the index that searches of more than a million rows go through.
    SearchIndex(search_index::SearchIndexArgs),
    /// What is done to the files of a table, beside writing them: expiry.
    Table(table::TableArgs),
    /// Draw synthetic labelled scenes.
    #[cfg(feature = "demo")]
    Scenes(scenes::ScenesArgs),
    /// A broker in memory for trying things out, until standard input ends or a signal comes.
    #[cfg(feature = "demo")]
    Broker(broker::BrokerArgs),
    /// Measure the stage beside bare ONNX Runtime.
    #[cfg(feature = "demo")]
    Bench(bench::BenchArgs),
    /// Check libraries, providers, broker, object store and model.
    Doctor(doctor::DoctorArgs),
    /// Validate or print the configuration.
    Config(config::ConfigArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Write manual pages.
    Man(completions::ManArgs),
}

/// Opens a model argument from a command that is not asynchronous itself.
fn open_model(spec: &str, stores: &ObjectStoreConfig) -> anyhow::Result<OpenedModel> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime
        .block_on(tagstream_model::open(spec, stores))
        .with_context(|| format!("opening the model `{}`", redact_place(spec)))
}

/// `tagstream labels stats | head`: whoever reads has read enough, and `println!` panics. That is
/// no failure.
fn end_quietly_when_nobody_reads() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            Exit::Success.end_process();
        }
        otherwise(panic);
    }));
}

/// Parses the arguments, runs the command, prints the error if there is one.
pub(crate) fn main() -> Exit {
    end_quietly_when_nobody_reads();
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args),
        Command::Retrain(args) => retrain::run(args),
        Command::Tag(args) => tag::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Train(args) => train::run(args),
        Command::Init(args) => init::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Source(args) => source::run(args),
        Command::DeadLetters(args) => dead_letters::run(args),
        Command::Labels(args) => labels::run(args),
        Command::Registry(args) => registry::run(args),
        Command::Serve(args) => serve::run(args),
        Command::SearchIndex(args) => search_index::run(args),
        Command::Table(args) => table::run(args),
        #[cfg(feature = "demo")]
        Command::Scenes(args) => scenes::run(args),
        #[cfg(feature = "demo")]
        Command::Broker(args) => broker::run(args),
        #[cfg(feature = "demo")]
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::Man(args) => completions::write_pages(args, Cli::command()),
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {}", said_once(&error));
            exit_of(&error)
        }
    }
}

/// An error with its causes, without those that the text before them tells already: libraries often
/// put a cause into their own message and name it as the cause, too.
fn said_once(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// The exit code that an error asks for.
fn exit_of(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<WithExit>())
        .map_or(Exit::Failure, |with| with.exit)
}

#[cfg(test)]
mod tests {
    use super::said_once;
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_the_message_tells_is_not_said_again() {
        let refused = anyhow!("connection refused");
        let asked = refused.context("GET http://host: connection refused");
        let whole = asked.context("no list of files");
        let text = "no list of files: GET http://host: connection refused";
        assert_eq!(said_once(&whole), text);
    }
}

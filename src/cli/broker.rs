//! `tagstream broker`: the embedded broker in a process of its own, to try `produce` and `run`
//! without a Kafka.

use anyhow::Context;
use clap::Args;
use std::io::Read;
use std::path::PathBuf;
use tagstream::demo::broker::EmbeddedBroker;
use tagstream_core::error::{Exit, usage};
use tagstream_core::storage::atomic;

/// Arguments of `tagstream broker`.
#[derive(Debug, Args)]
pub(super) struct BrokerArgs {
    /// A topic to create. May be repeated.
    #[arg(long = "topic", value_name = "NAME:PARTITIONS", required = true)]
    pub topics: Vec<String>,
    /// Write `host:port` into this file once it serves; it is printed in any case.
    #[arg(long)]
    pub address_file: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: BrokerArgs) -> anyhow::Result<Exit> {
    let broker = EmbeddedBroker::start()?;
    for topic in &args.topics {
        let (name, partitions) = topic
            .rsplit_once(':')
            .and_then(|(name, n)| Some((name, n.parse().ok().filter(|n| *n > 0)?)))
            .ok_or_else(|| usage(format!("--topic {topic}: expected NAME:PARTITIONS")))?;
        broker
            .create_topic(name, partitions)
            .with_context(|| format!("creating the topic {name}"))?;
    }
    println!("{}", broker.bootstrap_servers());
    if let Some(path) = &args.address_file {
        // Whole or not at all: somebody waits for it.
        atomic::write_file(path, broker.bootstrap_servers())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    eprintln!(
        "An embedded broker: it keeps at most 5 MiB of a partition, and nothing once it ends. \
         It ends when its standard input does."
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(Exit::Success)
}

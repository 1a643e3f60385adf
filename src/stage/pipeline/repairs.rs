//! What an operator ordered for partitions that could not go on by themselves, carried out before
//! anything is read.

use super::{LineError, PipelineError};
use crate::stage::sink::begun::FirstOffset;
use crate::stage::sink::broken::BrokenChain;
use crate::stage::sink::chain::{Seal, WriterId};
use crate::stage::sink::files::FileSink;
use crate::stage::sink::log_facts::LogFacts;
use crate::stage::sink::repair::{Repair, SkipTo};
use crate::stage::sink::seal::Sealed;
use crate::stage::sink::table::TableRow;
use crate::stage::sink::walk::ResumeError;
use crate::stage::source;
use crate::stage::source::{Broker, Logs};
use std::sync::Arc;
use tagstream_core::events::Offset;
use tagstream_core::process::blocking;

/// Checks that the topic is there, and ends the chains that are to be ended.
pub(super) async fn carry_out<R: TableRow>(
    repairs: &[Repair],
    broker: &Arc<Broker>,
    sink: &FileSink<R>,
    (writer, start): (&WriterId, &FirstOffset),
    layout: &R::Layout,
) -> Result<(), PipelineError> {
    let (asked, of) = (Arc::clone(broker), repairs.to_vec());
    // librdkafka blocks: not on the runtime's threads.
    let facts = blocking::run(move || {
        asked.reach()?;
        let partitions = asked.partitions()?;
        let ask = |repair: Repair| {
            if !partitions.contains(&repair.partition) {
                return Err(PipelineError::NoPartition(repair.partition));
            }
            let log = asked.facts(&repair.partition)?;
            Ok((repair, log))
        };
        of.into_iter().map(ask).collect::<Result<Vec<_>, _>>()
    });
    for (repair, log) in facts.await.map_err(LineError::Panicked)?? {
        let Some((to, reason)) = repair.ends_chain() else {
            continue;
        };
        let (partition, end) = (&repair.partition, repair.end);
        let origin = match to {
            SkipTo::Earliest => log.low,
            SkipTo::Latest => log.high,
            SkipTo::At(offset) => offset,
        };
        let seal = Seal {
            origin,
            reason,
            identity: log.identity.clone(),
            group_offset: log.committed.as_ref().map(|c| c.offset),
            truncated_at: truncated_at(&repair, broker, sink, (writer, start), &log).await?,
        };
        match sink
            .seal(partition, writer, &log, end, seal, layout)
            .await?
        {
            Sealed::Now => {
                tracing::warn!(%partition, %end, %origin, "chain ended, the next epoch begins")
            }
            Sealed::Before => {
                tracing::info!(%partition, %end, "this chain was ended before; nothing was changed")
            }
        }
    }
    Ok(())
}

/// Where the log was cut since the chain that is to be ended was read.
async fn truncated_at<R: TableRow>(
    repair: &Repair,
    broker: &Arc<Broker>,
    sink: &FileSink<R>,
    (writer, start): (&WriterId, &FirstOffset),
    log: &LogFacts,
) -> Result<Option<Offset>, PipelineError> {
    let partition = repair.partition.clone();
    let resumed = sink.resume(&partition, writer, log, start).await;
    let resumed = match resumed {
        // A part of it is gone: there is nothing to compare.
        Err(ResumeError::Lost { .. }) => return Ok(None),
        resumed => resumed.map_err(LineError::from)?,
    };
    if resumed.chain.end != repair.end {
        return Ok(None);
    }
    let (broker, log) = (Arc::clone(broker), log.clone());
    let compare = move || source::compared(&*broker, &partition, log, resumed);
    let compared = blocking::run(compare).await.map_err(LineError::Panicked)?;
    Ok(match compared?.1.broken {
        Some(BrokenChain::Truncated { at, .. }) => Some(at),
        _ => None,
    })
}

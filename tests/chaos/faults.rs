//! The faults of a round, drawn from its seed.

use crate::image_host::HostFault;
use crate::proxy::{Plan, S3Fault};
use anyhow::{Result, bail};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::fmt;

/// Something that happens to the world while messages flow.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// SIGKILL one stage process; another takes its place.
    Kill,
    /// SIGTERM one stage process; another takes its place.
    Terminate,
    /// SIGSTOP one stage process for longer than its session lasts, then SIGCONT: a zombie.
    Zombie,
    /// One more member joins, and stops itself when it is about to put its second file: a zombie
    /// with a put in its hand.
    FrozenPut,
    /// One more member joins, and stays until the round ends.
    Join,
    /// One member leaves in good order and is not replaced before the round ends.
    Leave,
    /// SIGKILL one broker and start it again; with three brokers its leaders move.
    BrokerRestart,
    /// SIGSTOP one broker for longer than sessions last, then SIGCONT: connections stay, answers do
    /// not come.
    BrokerFrozen,
    /// The images topic gets one more partition, and messages in it at once.
    PartitionAdded,
    /// A producer's transaction that is committed, and one that is aborted.
    Transactions,
    /// With three brokers: the leaders of the images topic move to other brokers, none of which
    /// dies.
    LeaderMove,
    /// The S3 server misbehaves.
    S3(Plan),
    /// Images come from a web server that is slow or down.
    ImageHost(HostFault),
    /// SIGKILL the S3 server and start it again.
    S3Restart,
    /// The images topic is deleted and created again under the running stages. They must stop; an
    /// operator starts new epochs.
    TopicRecreated,
    /// Messages are deleted before they were read. The stages must refuse to go on; an operator
    /// records the gap.
    RetentionOvertakes,
    /// The group's offsets are moved by hand, back or ahead, while no stage runs. The stages must
    /// refuse to go on; an operator puts them back, or skips.
    OffsetMoved,
}

impl Fault {
    /// One to three faults, with `only` of the kind whose name begins so.
    pub fn draw(dice: &mut StdRng, brokers: usize, only: Option<&str>) -> Result<Vec<Fault>> {
        let count = *[1, 1, 2, 2, 3].choose(dice).expect("not empty");
        let wanted = |fault: &Fault| only.is_none_or(|only| fault.to_string().starts_with(only));
        let mut faults = Vec::new();
        for _ in 0..10_000 {
            faults.extend(Some(Fault::one(dice, brokers)).filter(wanted));
            if faults.len() == count {
                return Ok(faults);
            }
        }
        bail!("no kind of fault is called {only:?} with {brokers} brokers")
    }

    fn one(dice: &mut StdRng, brokers: usize) -> Fault {
        match dice.random_range(0..100) {
            0..16 => Fault::Kill,
            16..22 => Fault::Terminate,
            22..33 => Fault::Zombie,
            33..44 => Fault::FrozenPut,
            44..50 => Fault::Join,
            50..56 => Fault::Leave,
            56..61 => Fault::BrokerRestart,
            61..66 if brokers > 1 => Fault::LeaderMove,
            61..66 => Fault::BrokerRestart,
            66..70 => Fault::BrokerFrozen,
            70..73 => Fault::PartitionAdded,
            73..78 => Fault::Transactions,
            78..82 => Fault::ImageHost(*HostFault::ALL.choose(dice).expect("not empty")),
            82..93 => Fault::S3(Plan {
                fault: *S3Fault::ALL.choose(dice).expect("not empty"),
                share: *[0.2, 0.5, 0.9].choose(dice).expect("not empty"),
            }),
            93..96 => Fault::S3Restart,
            96..97 => Fault::TopicRecreated,
            97..98 => Fault::RetentionOvertakes,
            _ => Fault::OffsetMoved,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::ImageHost(fault) => write!(f, "images-{fault:?}"),
            Fault::S3(plan) => write!(f, "s3-{:?}@{}", plan.fault, plan.share),
            other => write!(f, "{other:?}"),
        }
    }
}

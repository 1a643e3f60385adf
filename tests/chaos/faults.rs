//! The faults of a round, drawn from its seed.

use crate::proxy::{Plan, S3Fault};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
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
    /// One more member joins, and stays until the round ends.
    Join,
    /// One member leaves in good order and is not replaced before the round ends.
    Leave,
    /// SIGKILL one broker and start it again; with three brokers its leaders move.
    BrokerRestart,
    /// The S3 server misbehaves.
    S3(Plan),
    /// SIGKILL the S3 server and start it again.
    S3Restart,
}

impl Fault {
    /// One to three faults.
    pub fn draw(dice: &mut StdRng) -> Vec<Fault> {
        let count = *[1, 1, 2, 2, 3].choose(dice).expect("not empty");
        (0..count).map(|_| Fault::one(dice)).collect()
    }

    fn one(dice: &mut StdRng) -> Fault {
        match dice.random_range(0..100) {
            0..25 => Fault::Kill,
            25..33 => Fault::Terminate,
            33..53 => Fault::Zombie,
            53..61 => Fault::Join,
            61..69 => Fault::Leave,
            69..76 => Fault::BrokerRestart,
            76..97 => Fault::S3(Plan {
                fault: *S3Fault::ALL.choose(dice).expect("not empty"),
                share: *[0.2, 0.5, 0.9].choose(dice).expect("not empty"),
            }),
            _ => Fault::S3Restart,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::S3(plan) => write!(f, "s3-{:?}@{}", plan.fault, plan.share),
            other => write!(f, "{other:?}"),
        }
    }
}

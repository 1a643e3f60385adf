//! What object stores are opened for, and how long and how often each may be asked.

use std::time::Duration;

/// How long requests may take, and how often they are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One try, from the first byte sent to the last received.
    pub request: Duration,
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Tries after the first.
    pub retries: usize,
    /// No try begins later than this after the first.
    pub within: Duration,
    /// The pause before the second try; it doubles, with some randomness.
    pub first_pause: Duration,
    /// Pauses between tries double up to this.
    pub longest_pause: Duration,
}

impl Limits {
    pub(super) const fn of(request: u64, retries: usize, within: u64) -> Limits {
        Limits {
            request: Duration::from_secs(request),
            connect: Duration::from_secs(5),
            retries,
            within: Duration::from_secs(within),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(15),
        }
    }
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Tables: whole files in one put.
    Tables,
    /// Models and the lease beside them.
    Registry,
    /// The images of one bucket, within the deadline of a fetch.
    Images(Limits),
    /// Asking the cloud who this machine is, for what is no store.
    Credentials,
}

impl Purpose {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Tables => "tables",
            Purpose::Registry => "registry",
            Purpose::Images(_) => "images",
            Purpose::Credentials => "credentials",
        }
    }

    /// How long and how often it may try.
    pub fn limits(self) -> Limits {
        match self {
            Purpose::Tables => Limits::of(300, 10, 180),
            Purpose::Registry => Limits::of(30, 5, 30),
            Purpose::Images(limits) => limits,
            Purpose::Credentials => Limits::of(3, 1, 5),
        }
    }
}

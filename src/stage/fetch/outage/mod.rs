//! Places that are down: hosts, buckets, mounted folders. A breaker each.
//!
//! Closed, whoever wants to may ask the place. A failure that is the far side's opens it: whoever
//! wants something of the place waits, but for one at a time, at pauses that grow, which tries. The
//! first answer closes it. What is waited for longer than `fetch.outage_wait_ms`, counted from when
//! it opened, is given up until it answers.
//!
//! One image that its host fails to give while it gives others is no outage. So that this can be
//! told when nobody else asks, an address that was answered is remembered, and asked for again.

use super::shortage::Shortages;
use crate::stage::row_maker::Leave;
use rand::RngExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Places that are remembered; messages name them, so there must be a bound.
const MOST_PLACES: usize = 1_024;
/// How long to wait before a place is tried again.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    /// The first; it doubles.
    first: Duration,
    /// The longest of our own.
    longest: Duration,
    /// The longest that a server may ask for.
    longest_asked: Duration,
}

const PAUSES: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(15),
    longest_asked: Duration::from_secs(60),
};

/// The part of the time that a host is waited for which nobody has listed and which has never
/// answered.
const UNKNOWN_PART: u32 = 10;
/// One place is spoken of in the log this often at most.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Longest address that is remembered.
const LONGEST_ADDRESS: usize = 2_048;
/// Addresses remembered of a place: one may be the image that fails now.
const ADDRESSES: usize = 2;

/// All places, and what this process lacks.
#[derive(Debug)]
pub struct Outages {
    /// `fetch.outage_wait_ms`.
    pub(super) wait: Duration,
    /// What this process lacks.
    pub(super) shortages: Arc<Shortages>,
    pauses: Pauses,
    places: Mutex<HashMap<String, Arc<Place>>>,
}

/// A place that is down, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOutage {
    /// The host, bucket or folder.
    pub place: String,
    /// For how long it has been down.
    pub lasted: Duration,
    /// Messages that wait for it.
    pub waiting: usize,
    /// Whether it is waited for no longer.
    pub given_up: bool,
    /// What happened at the last attempt.
    pub reason: String,
}

/// A host, bucket or folder that images are fetched from.
#[derive(Debug)]
pub(super) struct Place {
    pub name: String,
    pauses: Pauses,
    /// How long it is waited for.
    wait: Duration,
    /// Whether the configuration names it, or kinds of places that it is one of.
    listed: bool,
    /// Whether it has ever answered.
    known: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
    /// One check at a time, and when the last one began and what it found.
    pub check: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

#[derive(Debug, Default)]
struct State {
    last_answer: Option<Instant>,
    last_used: Option<Instant>,
    answered: Vec<String>,
    open: Option<Open>,
    waiting: usize,
    last_said: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    tries: u32,
    next_try: Instant,
    trying: bool,
    said: bool,
    said_given_up: bool,
    reason: String,
}

/// Leave to ask a place; whoever tries an open one must say how it went, or another tries.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    place: &'a Place,
    pub is_trial: bool,
}

/// Why a place may not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoPass {
    /// It is waited for no longer.
    GivenUp { lasted: Duration, reason: String },
    /// Whoever waited was asked to leave.
    Left,
}

impl Outages {
    pub(super) fn new(wait: Duration) -> Self {
        Self::with_pauses(wait, PAUSES)
    }

    fn with_pauses(wait: Duration, pauses: Pauses) -> Self {
        Outages {
            wait,
            pauses,
            shortages: Arc::default(),
            places: Mutex::default(),
        }
    }

    /// The place of that name; `listed`: the configuration knows it.
    pub(super) fn place(&self, name: &str, listed: bool) -> Arc<Place> {
        let now = Instant::now();
        let mut places = lock(&self.places);
        if let Some(place) = places.get(name) {
            lock(&place.state).last_used = Some(now);
            return Arc::clone(place);
        }
        if places.len() >= MOST_PLACES {
            let idle = |place: &&Arc<Place>| {
                let state = lock(&place.state);
                state.open.is_none() && state.waiting == 0
            };
            let used = |place: &&Arc<Place>| lock(&place.state).last_used;
            let oldest = places.values().filter(idle).min_by_key(used);
            if let Some(name) = oldest.map(|p| p.name.clone()) {
                places.remove(&name);
            }
        }
        let place = Arc::new(Place {
            name: name.to_owned(),
            pauses: self.pauses,
            wait: self.wait,
            listed,
            known: AtomicBool::new(false),
            state: Mutex::new(State {
                last_used: Some(now),
                ..State::default()
            }),
            changed: Notify::new(),
            check: tokio::sync::Mutex::default(),
        });
        places.insert(name.to_owned(), Arc::clone(&place));
        place
    }

    /// Places that are down now, by name.
    pub fn open(&self) -> Vec<OpenOutage> {
        let mut all: Vec<OpenOutage> = lock(&self.places)
            .values()
            .filter_map(|place| {
                let state = lock(&place.state);
                let open = state.open.as_ref()?;
                Some(OpenOutage {
                    place: place.name.clone(),
                    lasted: open.since.elapsed(),
                    waiting: state.waiting,
                    given_up: open.since.elapsed() >= place.wait(),
                    reason: open.reason.clone(),
                })
            })
            .collect();
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }

    /// What this process lacks now, for people; `None`: nothing.
    pub fn shortage(&self) -> Option<String> {
        self.shortages.told()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a fetch knows of its own troubles with a place.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tried {
    /// When it failed first.
    pub since: Option<Instant>,
    /// Whether it was the last that tried: others go first.
    pub tried_last: bool,
}

/// How long another has to try before the one that tried last does so again.
const COURTESY: Duration = Duration::from_millis(50);

impl Place {
    /// Whether it has ever answered.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// How long it is waited for. Where any host may be named, one that has never answered is more
    /// often a dead address than an outage.
    pub(super) fn wait(&self) -> Duration {
        match self.listed || self.is_known() {
            true => self.wait,
            false => self.wait / UNKNOWN_PART,
        }
    }

    /// Whether nothing good is known of it now.
    pub(super) fn is_doubtful(&self) -> bool {
        !self.is_known() || lock(&self.state).open.is_some()
    }

    /// Whether it has answered anybody since `then`.
    pub(super) fn answered_since(&self, then: Instant) -> bool {
        lock(&self.state).last_answer.is_some_and(|at| at >= then)
    }

    /// Whether it was found down since `then`.
    pub(super) fn failed_since(&self, then: Instant) -> bool {
        let state = lock(&self.state);
        state.open.as_ref().is_some_and(|open| open.since >= then)
    }

    /// An address, other than `uri`, that was answered.
    pub(super) fn answered_address(&self, uri: &str) -> Option<String> {
        let state = lock(&self.state);
        state.answered.iter().find(|a| *a != uri).cloned()
    }

    /// Waits until the place may be asked.
    pub(super) async fn pass(&self, trouble: Tried, leave: &Leave) -> Result<Pass<'_>, NoPass> {
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match self.look(trouble) {
                Look::Ask(is_trial) => {
                    return Ok(Pass {
                        place: self,
                        is_trial,
                    });
                }
                Look::GivenUp(refusal) => return Err(refusal),
                Look::Wait(until) => until,
            };
            waiting.get_or_insert_with(|| Waiting::begin(self));
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => {}
                () = leave.asked() => return Err(NoPass::Left),
            }
        }
    }

    fn look(&self, trouble: Tried) -> Look {
        let wait = self.wait();
        let now = Instant::now();
        let mut state = lock(&self.state);
        let several = state.waiting > 1;
        let Some(open) = &mut state.open else {
            return Look::Ask(false);
        };
        let courtesy = if trouble.tried_last && several {
            COURTESY
        } else {
            Duration::ZERO
        };
        let next_try = open.next_try + courtesy;
        if !open.trying && now >= next_try {
            open.trying = true;
            return Look::Ask(true);
        }
        let since = trouble.since.map_or(open.since, |s| s.min(open.since));
        let end = since + wait;
        if now >= end {
            if now >= open.since + wait && !std::mem::replace(&mut open.said_given_up, true) {
                tracing::warn!(
                    place = self.name,
                    reason = open.reason,
                    "down for longer than it is waited for (fetch.outage_wait_ms): until it \
                     answers its messages become dead letters of kind `outage`, which \
                     `tagstream dead-letters replay --kind outage` sends again"
                );
            }
            return Look::GivenUp(NoPass::GivenUp {
                lasted: now - since,
                reason: open.reason.clone(),
            });
        }
        Look::Wait(if open.trying { end } else { next_try.min(end) })
    }

    /// Takes note of an answer; `address` is one that may be asked for again.
    pub(super) fn answered(&self, address: Option<&str>) {
        let now = Instant::now();
        self.known.store(true, Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.last_answer = Some(now);
        if let Some(address) = address.filter(|a| a.len() <= LONGEST_ADDRESS)
            && !state.answered.iter().any(|a| a == address)
        {
            if state.answered.len() >= ADDRESSES {
                state.answered.remove(0);
            }
            state.answered.push(address.to_owned());
        }
        let Some(open) = state.open.take() else {
            return;
        };
        metrics::gauge!("tagstream_outages").decrement(1.0);
        if open.said {
            let seconds = (now - open.since).as_secs();
            tracing::warn!(
                place = self.name,
                seconds,
                "answers again; its messages go on"
            );
        }
        self.changed.notify_waiters();
    }

    /// Takes note of a failure that is the place's. `after`: how long it asked to be left alone.
    pub(super) fn failed(&self, is_trial: bool, after: Option<Duration>, reason: &str) {
        let now = Instant::now();
        let asked = after.unwrap_or_default().min(self.pauses.longest_asked);
        let mut state = lock(&self.state);
        if let Some(open) = &mut state.open {
            open.reason = reason.to_owned();
            if is_trial {
                open.tries += 1;
                open.trying = false;
                open.next_try = now + self.pauses.after(open.tries).max(asked);
            } else {
                open.next_try = open.next_try.max(now + asked);
            }
        } else {
            let said = state.last_said.is_none_or(|at| now - at >= SAY_EVERY);
            if said {
                state.last_said = Some(now);
                tracing::warn!(
                    place = self.name,
                    reason,
                    "down, or refuses: its messages wait for it, others go on"
                );
            }
            state.open = Some(Open {
                since: now,
                tries: 0,
                next_try: now + self.pauses.after(0).max(asked),
                trying: false,
                said,
                said_given_up: false,
                reason: reason.to_owned(),
            });
            metrics::gauge!("tagstream_outages").increment(1.0);
            metrics::counter!("tagstream_outages_total").increment(1);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

/// What looking at a place comes to.
enum Look {
    Ask(bool),
    Wait(Instant),
    GivenUp(NoPass),
}

impl Pauses {
    /// The pause after so many tries: doubling, with jitter.
    fn after(self, tries: u32) -> Duration {
        let longest = self.first.saturating_mul(1 << tries.min(8));
        let longest = longest.min(self.longest);
        longest.mul_f64(rand::rng().random_range(0.75..=1.0))
    }
}

/// A message that waits for a place.
struct Waiting<'a>(&'a Place);

impl<'a> Waiting<'a> {
    fn begin(place: &'a Place) -> Self {
        lock(&place.state).waiting += 1;
        metrics::gauge!("tagstream_messages_waiting", "fault" => "far_side").increment(1.0);
        Waiting(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).waiting -= 1;
        metrics::gauge!("tagstream_messages_waiting", "fault" => "far_side").decrement(1.0);
    }
}

impl Pass<'_> {
    /// The trial is over, one way or the other.
    pub(super) fn done(mut self) {
        self.is_trial = false;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.is_trial {
            return;
        }
        if let Some(open) = &mut lock(&self.place.state).open {
            open.trying = false;
        }
        self.place.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;

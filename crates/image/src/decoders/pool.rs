//! Helpers that wait, one for each caller; how long the pool has been stuck.

use super::Space;
use super::counts::Counts;
use super::process::{Helper, Loss};
use super::settings::DecoderSettings;
use super::starter::Starter;
use crate::decode::{DecodeError, ImageInfo};
use crate::wire::Task;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a picture is tried whose helper was stopped or killed by somebody else.
const TRIES: usize = 2;
/// A helper that ran for less than this part of its time was as good as stopped.
const STOPPED: u32 = 50;

/// The helpers of one program.
#[derive(Debug)]
pub(super) struct Pool {
    settings: DecoderSettings,
    most: usize,
    state: Mutex<State>,
    /// A helper, or room for one, has become free.
    freed: Condvar,
    starter: Mutex<Option<Starter>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Helper>,
    /// Callers that have a helper, or are waiting for one to start.
    busy: usize,
    /// Pictures being decoded, by when their time is up.
    running: BTreeMap<u64, Instant>,
    next: u64,
    /// Process ids of helpers that are busy.
    asked: Vec<u32>,
    /// Since when no helper could be started.
    missing_since: Option<Instant>,
    /// Helpers that were killed and have not died.
    undead: Vec<(Instant, Helper)>,
    deaths: u64,
}

/// A picture being decoded.
pub(super) struct Running<'a> {
    pool: &'a Pool,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.pool.state().running.remove(&self.number);
    }
}

/// A right to one helper.
struct Place<'a>(&'a Pool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
        self.0.freed.notify_one();
    }
}

impl Pool {
    pub(super) fn new(settings: DecoderSettings) -> Self {
        Pool {
            most: settings.most_helpers().max(1),
            settings,
            state: Mutex::default(),
            freed: Condvar::new(),
            starter: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn settings(&self) -> &DecoderSettings {
        &self.settings
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a picture is being decoded, from now until this is dropped.
    pub(super) fn running(&self) -> Running<'_> {
        let until = Instant::now() + self.settings.timeout;
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.running.insert(number, until);
        Running { pool: self, number }
    }

    /// A place, at once or when one becomes free.
    fn place(&self) -> Place<'_> {
        let mut state = self.state();
        while state.busy >= self.most {
            let waited = self.freed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.busy += 1;
        Place(self)
    }

    /// A helper that waits, or a new one.
    fn helper(&self, _place: &Place<'_>) -> Result<Helper, DecodeError> {
        if let Some(helper) = self.state().idle.pop() {
            return Ok(helper);
        }
        let mut starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match &*starter {
            Some(starter) => starter.start(),
            None => Starter::new(&self.settings).and_then(|new| starter.insert(new).start()),
        };
        drop(starter);
        let mut state = self.state();
        match started {
            Ok(helper) => {
                state.missing_since = None;
                Ok(helper)
            }
            Err(reason) => {
                state.missing_since.get_or_insert_with(Instant::now);
                Err(DecodeError::Unavailable { reason })
            }
        }
    }

    pub(super) fn prove(&self) -> Result<(), DecodeError> {
        let place = self.place();
        let helper = self.helper(&place)?;
        self.state().idle.push(helper);
        Ok(())
    }

    pub(super) fn ask(
        &self,
        bytes: &[u8],
        task: &Task,
        space: &mut Space<'_>,
    ) -> Result<ImageInfo, DecodeError> {
        let place = self.place();
        let mut last = DecodeError::Died {
            cause: "exit code 0, without an answer".into(),
        };
        let timeout = self.settings.timeout;
        let too_long = DecodeError::TooMuchTime {
            timeout_ms: timeout.as_millis() as u64,
        };
        let (mut retired, mut killed) = (0, 0);
        // Not more have retired than there were.
        while killed < TRIES && retired <= self.most {
            let loss = match self.ask_one(&place, bytes, task, space)? {
                Ok(answer) => {
                    if answer.as_ref().is_ok_and(|info| info.damaged_percent > 0) {
                        self.counts.damaged();
                    }
                    return answer;
                }
                Err(Loss::Retired) => {
                    retired += 1;
                    continue;
                }
                Err(loss) => loss,
            };
            killed += 1;
            self.state().deaths += 1;
            match loss {
                Loss::Time => return Err(too_long),
                Loss::Memory => {
                    let max_alloc_bytes = self.settings.limits.max_alloc_bytes;
                    return Err(DecodeError::TooMuchMemory { max_alloc_bytes });
                }
                Loss::Died(cause) => return Err(DecodeError::Died { cause }),
                Loss::Killed(cause) => last = DecodeError::Died { cause },
                Loss::Starved(ran) if ran * STOPPED < timeout => {
                    let reason = format!("its helper ran for {ran:?} in {timeout:?}");
                    last = DecodeError::Unavailable { reason };
                }
                Loss::Starved(_) => last = too_long.clone(),
                Loss::Retired => (),
            }
        }
        Err(last)
    }

    /// Asks one helper, which waits for others after it has answered.
    fn ask_one(
        &self,
        place: &Place<'_>,
        bytes: &[u8],
        task: &Task,
        space: &mut Space<'_>,
    ) -> Result<Result<Result<ImageInfo, DecodeError>, Loss>, DecodeError> {
        let mut helper = self.helper(place)?;
        let id = helper.id();
        self.state().asked.push(id);
        let running = self.running();
        let answer = helper.ask(bytes, task, &self.settings, space);
        let gone = answer.is_ok() || helper.kill();
        drop(running);
        let mut state = self.state();
        state.asked.retain(|&asked| asked != id);
        match (&answer, gone) {
            (Ok(_), _) => state.idle.push(helper),
            (Err(_), false) => state.undead.push((Instant::now(), helper)),
            (Err(_), true) => drop(helper),
        }
        Ok(answer)
    }

    pub(super) fn stuck_for(&self) -> Duration {
        let now = Instant::now();
        let mut state = self.state();
        state.undead.retain_mut(|(_, helper)| !helper.is_gone());
        let overdue = state.running.values().min();
        let undead = state.undead.first().map(|(since, _)| since);
        let since = [overdue, undead, state.missing_since.as_ref()];
        let ages = since.into_iter().flatten();
        let ages = ages.map(|since| now.saturating_duration_since(*since));
        ages.max().unwrap_or_default()
    }

    pub(super) fn processes(&self) -> Vec<u32> {
        let state = self.state();
        let idle = state.idle.iter().map(Helper::id);
        idle.chain(state.asked.iter().copied()).collect()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn deaths(&self) -> u64 {
        self.state().deaths
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for mut helper in std::mem::take(&mut self.state().idle) {
            helper.kill();
        }
    }
}

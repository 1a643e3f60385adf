//! What this process lacks, as far as fetches have met it: said once, shown until it is over.

use super::fault::Resource;
use crate::stage::row_maker::Leave;
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// First pause before what failed by our fault is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// One resource is spoken of in the log this often at most.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Everything that is lacking.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    lacking: Mutex<BTreeMap<Resource, Lack>>,
}

#[derive(Debug)]
struct Lack {
    /// Messages that have met it and are not past it.
    waiting: usize,
    since: Instant,
    last_said: Instant,
    /// Whether its beginning was said.
    said: bool,
    reason: String,
}

impl Shortages {
    /// A message meets a shortage.
    pub(super) fn meet(self: &Arc<Self>, resource: Resource, reason: &str) -> Shortage {
        let now = Instant::now();
        let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !lacking.contains_key(&resource);
        let lack = lacking.entry(resource).or_insert_with(|| Lack {
            waiting: 0,
            since: now,
            last_said: now,
            said: false,
            reason: String::new(),
        });
        if lack.waiting == 0 {
            lack.since = now;
            lack.said = is_new || now - lack.last_said >= SAY_EVERY;
            if lack.said {
                lack.last_said = now;
                tracing::warn!(
                    %resource, reason,
                    "this process cannot fetch, by no fault of the messages: they wait; {}",
                    resource.remedy()
                );
            }
        }
        lack.waiting += 1;
        lack.reason = reason.to_owned();
        metrics::counter!("tagstream_own_faults_total", "resource" => resource.as_str())
            .increment(1);
        metrics::gauge!("tagstream_messages_waiting", "fault" => "own").increment(1.0);
        Shortage {
            all: Arc::clone(self),
            resource,
            tries: 0,
            since: now,
        }
    }

    /// What is lacking now, for people.
    pub(super) fn told(&self) -> Option<String> {
        let lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        let told: Vec<String> = lacking
            .iter()
            .filter(|(_, lack)| lack.waiting > 0)
            .map(|(resource, lack)| {
                let seconds = lack.since.elapsed().as_secs();
                format!(
                    "{resource} for {seconds} s ({} messages wait): {}; {}",
                    lack.waiting,
                    lack.reason,
                    resource.remedy()
                )
            })
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// A message's shortage; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Shortage {
    all: Arc<Shortages>,
    pub resource: Resource,
    tries: u32,
    /// When this message met it.
    pub since: Instant,
}

impl Shortage {
    /// Waits before the next attempt; `false` if asked to leave meanwhile.
    pub(super) async fn pause(&mut self, leave: &Leave) -> bool {
        let longest = FIRST_PAUSE
            .saturating_mul(1 << self.tries.min(8))
            .min(LONGEST_PAUSE);
        self.tries += 1;
        let pause = longest.mul_f64(rand::rng().random_range(0.5..=1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = leave.asked() => false,
        }
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        metrics::gauge!("tagstream_messages_waiting", "fault" => "own").decrement(1.0);
        let all = &self.all;
        let mut lacking = all.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lack) = lacking.get_mut(&self.resource) else {
            return;
        };
        lack.waiting -= 1;
        if lack.waiting == 0 && lack.said {
            let seconds = lack.since.elapsed().as_secs();
            let resource = self.resource;
            tracing::warn!(%resource, seconds, "no message waits for it any more");
        }
    }
}

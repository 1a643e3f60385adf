//! Dead letters in the log: the first of each kind at once, and how many there were since, once a
//! minute and at the end. Each one by itself is told at `debug`: a topic may hold nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tagstream_core::events::DeadLetterKind;

/// How often a kind is told of.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(60);

/// What the log was told, and what not yet.
#[derive(Debug, Default)]
pub(super) struct DeadLetterNews(BTreeMap<DeadLetterKind, Told>);

#[derive(Debug)]
struct Told {
    last: Instant,
    since: u64,
}

impl DeadLetterNews {
    /// Counts one more. Returns how many to tell of, this one included, if it is time to.
    pub(super) fn count(&mut self, kind: DeadLetterKind, now: Instant) -> Option<u64> {
        let Some(told) = self.0.get_mut(&kind) else {
            let told = Told {
                last: now,
                since: 0,
            };
            self.0.insert(kind, told);
            return Some(1);
        };
        told.since += 1;
        (now.saturating_duration_since(told.last) >= TELL_EVERY).then(|| {
            told.last = now;
            std::mem::take(&mut told.since)
        })
    }

    /// Those that nobody was told of, of kinds that were not told of since `before`.
    pub(super) fn rest(&mut self, before: Instant) -> Vec<(DeadLetterKind, u64)> {
        let late = self.0.iter_mut();
        let late = late.filter(|(_, told)| told.since > 0 && told.last <= before);
        late.map(|(kind, told)| (*kind, std::mem::take(&mut told.since)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_told_at_once_and_none_is_left_out() {
        let (mut news, start) = (DeadLetterNews::default(), Instant::now());
        let (bad, gone) = (DeadLetterKind::BadMessage, DeadLetterKind::NotFound);
        assert_eq!(news.count(bad, start), Some(1));
        for _ in 0..2_999 {
            assert_eq!(news.count(bad, start + TELL_EVERY / 2), None);
        }
        assert_eq!(news.count(gone, start + TELL_EVERY / 2), Some(1));
        assert_eq!(news.count(bad, start + TELL_EVERY), Some(3_000));
        assert_eq!(news.count(bad, start + TELL_EVERY), None);
        assert_eq!(news.rest(start), []);
        assert_eq!(news.rest(start + TELL_EVERY), [(bad, 1)]);
        assert_eq!(news.rest(start + 2 * TELL_EVERY), []);
    }
}

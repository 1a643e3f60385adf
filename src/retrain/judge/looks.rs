//! Alpha over repeated looks, and how many labels a decision would take.
//!
//! Whoever looks often enough sees luck: at 5 % a look, a candidate one point worse passes at least
//! once in 28 looks with probability .76. So the chance to be wrong is spent over all looks at one
//! champion: the k-th look gets `alpha / (k (k + 1))`, which sums to alpha over any number of them.
//! Looks are counted in the registry's history, where every verdict stands.

use super::interval::Interval;
use tagstream_model::registry::HistoryEntry;

/// The chances of wrong bounds at a look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Alpha {
    /// Of the lower bound: what is spent at this look.
    pub(super) promote: f64,
    /// Of the upper bound: a rejected candidate only costs another run.
    pub(super) reject: f64,
}

impl Alpha {
    /// At the `look`-th look (from 1) with this confidence over all.
    pub(super) fn at(look: usize, confidence: f64) -> Self {
        let (all, look) = (1.0 - confidence, look.max(1) as f64);
        Alpha {
            promote: all / (look * (look + 1.0)),
            reject: all,
        }
    }
}

/// Which look at the version `champion` the next one is, from 1: one more than the verdicts that
/// were reached while it served.
pub fn next_look(history: &[HistoryEntry], champion: u64) -> usize {
    let at = |entry: &&HistoryEntry| entry.verdict.is_some() && entry.from == Some(champion);
    1 + history.iter().filter(at).count()
}

/// How many times the labels a decision takes whose lower bound must exceed `above`, if the
/// estimate is right: bounds narrow with the square root. None if no number of labels will do.
pub(super) fn labels_needed(difference: &Interval, above: f64) -> Option<f64> {
    let room = difference.estimate - above;
    let times = (difference.below() / room).powi(2);
    (room > 0.0 && times.is_finite() && times > 1.0).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;
    use tagstream_model::registry::{Action, Verdict};

    fn entry(from: Option<u64>, action: Action, verdict: Option<Verdict>) -> HistoryEntry {
        HistoryEntry {
            sequence: 1,
            time: Utc::now(),
            who: String::new(),
            why: String::new(),
            action,
            version: 9,
            id: String::new(),
            from,
            verdict,
            run: None,
            nonce: String::new(),
        }
    }

    #[test]
    fn all_looks_together_spend_alpha() {
        let spent: f64 = (1..100_000).map(|k| Alpha::at(k, 0.95).promote).sum();
        assert!(spent < 0.05 && spent > 0.0499, "{spent}");
        assert!((Alpha::at(1, 0.95).promote - 0.025).abs() < 1e-12);
    }

    #[test]
    fn looks_at_one_champion_are_counted_through_rollbacks() {
        let history = [
            entry(None, Action::Promoted, None),
            entry(Some(1), Action::Held, Some(Verdict::Hold)),
            entry(Some(1), Action::Promoted, Some(Verdict::Promote)),
            entry(Some(3), Action::Rejected, Some(Verdict::Reject)),
            entry(Some(3), Action::RolledBack, None),
            entry(Some(1), Action::Held, Some(Verdict::Hold)),
        ];
        assert_eq!(next_look(&[], 1), 1);
        assert_eq!(next_look(&history, 1), 4);
        assert_eq!(next_look(&history, 3), 2);
        assert_eq!(next_look(&history, 7), 1);
    }

    #[test]
    fn the_labels_that_a_decision_takes() {
        let of = |estimate, lower| Interval {
            estimate,
            lower,
            upper: f64::NAN,
        };
        // Twice as wide as may be: four times the labels.
        let needed = labels_needed(&of(0.01, -0.03), -0.01).unwrap();
        assert!((needed - 4.0).abs() < 1e-9);
        assert_eq!(labels_needed(&of(-0.02, -0.03), -0.01), None);
        assert_eq!(labels_needed(&of(0.05, 0.02), -0.01), None);
        assert_eq!(labels_needed(&of(f64::NAN, f64::NAN), -0.01), None);
    }
}

//! How often somebody may ask.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most names that are remembered; whoever asks under ever new ones must not fill the memory.
const MOST_NAMES: usize = 10_000;

/// A bucket for each name, which holds a minute's worth and is refilled evenly.
#[derive(Debug)]
pub(super) struct Limits {
    a_minute: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limits {
    pub(super) fn a_minute(most: u32) -> Self {
        Limits {
            a_minute: f64::from(most),
            buckets: Mutex::default(),
        }
    }

    /// Takes one of `name`'s; if there is none, after what time there is one.
    pub(super) fn take(&self, name: &str) -> Result<(), Duration> {
        self.take_at(name, Instant::now())
    }

    fn take_at(&self, name: &str, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(|e| e.into_inner());
        if buckets.len() >= MOST_NAMES && !buckets.contains_key(name) {
            // A full bucket says no more than none. If all are in use, the limit is everybody's.
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.a_minute);
            if buckets.len() >= MOST_NAMES {
                return Err(Duration::from_secs(60));
            }
        }
        let fresh = Bucket {
            left: self.a_minute,
            at: now,
        };
        let bucket = buckets.entry(name.to_owned()).or_insert(fresh);
        bucket.left = self.filled(bucket, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            let missing = (1.0 - bucket.left) * 60.0 / self.a_minute;
            return Err(Duration::from_secs_f64(missing));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.a_minute / 60.0).min(self.a_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_fills_and_is_one_names_own() {
        let limits = Limits::a_minute(3);
        let start = Instant::now();
        for _ in 0..3 {
            limits.take_at("a", start).unwrap();
        }
        let wait = limits.take_at("a", start).unwrap_err();
        assert!(wait > Duration::from_secs(19) && wait <= Duration::from_secs(20));
        limits.take_at("b", start).unwrap();
        limits
            .take_at("a", start + Duration::from_secs(21))
            .unwrap();
        assert!(
            limits
                .take_at("a", start + Duration::from_secs(21))
                .is_err()
        );
        let later = start + Duration::from_secs(3_600);
        assert_eq!(
            (0..9)
                .filter(|_| limits.take_at("a", later).is_ok())
                .count(),
            3
        );
    }

    #[test]
    fn ever_new_names_take_no_more_memory_and_no_more_requests() {
        let limits = Limits::a_minute(2);
        let start = Instant::now();
        let granted = (0..3 * MOST_NAMES).filter(|i| limits.take_at(&i.to_string(), start).is_ok());
        assert_eq!(granted.count(), MOST_NAMES);
        assert!(limits.buckets.lock().unwrap().len() <= MOST_NAMES);
        limits
            .take_at("new", start + Duration::from_secs(61))
            .unwrap();
    }
}

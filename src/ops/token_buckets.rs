//! Token buckets: how often each of many may do something.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most keys that are remembered; whoever asks under ever new ones must not fill the memory.
const MOST_KEYS: usize = 10_000;

/// A bucket for each key, which is refilled evenly. A key that is new has a full one.
#[derive(Debug)]
pub struct TokenBuckets<K> {
    capacity: f64,
    a_second: f64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Hash + Eq> TokenBuckets<K> {
    /// Buckets of `most` tokens that are full again after a minute.
    pub fn a_minute(most: u32) -> Self {
        Self::new(f64::from(most), f64::from(most) / 60.0)
    }

    /// Buckets that get `most` tokens a second, and hold what comes in so many `seconds`.
    pub fn a_second(most: u32, seconds: u32) -> Self {
        Self::new(f64::from(most) * f64::from(seconds), f64::from(most))
    }

    fn new(capacity: f64, a_second: f64) -> Self {
        TokenBuckets {
            capacity,
            a_second,
            buckets: Mutex::default(),
        }
    }

    /// Takes a token of `key`'s.
    ///
    /// # Errors
    /// If there is none: after what time there is one.
    pub fn take<Q>(&self, key: &Q) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.take_at(key, Instant::now())
    }

    fn take_at<Q>(&self, key: &Q, now: Instant) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut buckets = self.buckets.lock().unwrap_or_else(|e| e.into_inner());
        if buckets.len() >= MOST_KEYS && !buckets.contains_key(key) {
            // A full bucket says no more than none. If all are in use, the limit is everybody's.
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.capacity);
            if buckets.len() >= MOST_KEYS {
                return Err(Duration::from_secs_f64(self.capacity / self.a_second));
            }
        }
        let fresh = Bucket {
            left: self.capacity,
            at: now,
        };
        let bucket = buckets.entry(key.to_owned()).or_insert(fresh);
        bucket.left = self.filled(bucket, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            let missing = (1.0 - bucket.left) / self.a_second;
            return Err(Duration::from_secs_f64(missing));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.a_second).min(self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_fills_and_is_one_names_own() {
        let limits = TokenBuckets::<String>::a_minute(3);
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
        let limits = TokenBuckets::<String>::a_minute(2);
        let start = Instant::now();
        let granted =
            (0..3 * MOST_KEYS).filter(|i| limits.take_at(i.to_string().as_str(), start).is_ok());
        assert_eq!(granted.count(), MOST_KEYS);
        assert!(limits.buckets.lock().unwrap().len() <= MOST_KEYS);
        limits
            .take_at("new", start + Duration::from_secs(61))
            .unwrap();
    }
}

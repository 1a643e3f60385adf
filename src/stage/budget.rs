//! The bound on memory: one budget of bytes for the whole process.
//!
//! Whoever holds bytes of a message, an image or a row holds a [`Reservation`] of as many bytes of
//! the [`Budget`]; dropping it gives them back. Nothing waits for the budget while it holds a part
//! that only its own progress could free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in KiB, so that 4 TiB fit a `u32`.
const UNIT: u64 = 1024;

/// A bound on bytes, shared by the whole process. Clones share the bound.
#[derive(Debug, Clone)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    units: u32,
    used: Arc<AtomicU64>,
}

/// Bytes that somebody holds of a [`Budget`], all reservations together. Clones count together.
pub type Tally = Arc<AtomicU64>;

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
    used: Arc<AtomicU64>,
    tally: Option<Tally>,
}

impl Budget {
    /// A budget of `bytes`, rounded up to KiB.
    pub fn new(bytes: u64) -> Self {
        let units = bytes.div_ceil(UNIT).clamp(1, u32::MAX as u64) as u32;
        Budget {
            semaphore: Arc::new(Semaphore::new(units as usize)),
            units,
            used: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The whole budget in bytes.
    pub fn bytes(&self) -> u64 {
        self.units as u64 * UNIT
    }

    /// Bytes reserved now.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` are free. More than the whole budget counts as the whole budget: one
    /// oversized thing may pass, alone.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let permit = Arc::clone(&self.semaphore)
            .acquire_many_owned(self.units_of(bytes))
            .await
            .expect("the semaphore is never closed");
        self.reserved(permit)
    }

    /// As [`Budget::reserve`], but gives up at once.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let permit = Arc::clone(&self.semaphore)
            .try_acquire_many_owned(self.units_of(bytes))
            .ok()?;
        Some(self.reserved(permit))
    }

    /// As [`Budget::try_reserve`], counted in `tally` as long as it is held.
    pub fn try_reserve_for(&self, bytes: u64, tally: &Tally) -> Option<Reservation> {
        let mut reservation = self.try_reserve(bytes)?;
        tally.fetch_add(reservation.bytes(), Ordering::Relaxed);
        reservation.tally = Some(Arc::clone(tally));
        Some(reservation)
    }

    fn units_of(&self, bytes: u64) -> u32 {
        bytes.div_ceil(UNIT).min(self.units as u64) as u32
    }

    fn reserved(&self, permit: OwnedSemaphorePermit) -> Reservation {
        self.used
            .fetch_add(permit.num_permits() as u64 * UNIT, Ordering::Relaxed);
        Reservation {
            permit,
            used: Arc::clone(&self.used),
            tally: None,
        }
    }
}

impl Reservation {
    fn counts_more(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        if let Some(tally) = &self.tally {
            tally.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn counts_less(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(tally) = &self.tally {
            tally.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Takes more, so that at least `bytes` are held. Returns false, changing nothing, if that much
    /// is not free now: who holds a part must not wait for the rest, but give the part back first.
    /// More than the whole budget counts as the whole budget.
    pub fn try_grow(&mut self, budget: &Budget, bytes: u64) -> bool {
        let wanted = budget.units_of(bytes) as usize;
        let Some(missing @ 1..) = wanted.checked_sub(self.permit.num_permits()) else {
            return true;
        };
        match Arc::clone(&budget.semaphore).try_acquire_many_owned(missing as u32) {
            Ok(more) => {
                self.permit.merge(more);
                self.counts_more(missing as u64 * UNIT);
                true
            }
            Err(_) => false,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * UNIT
    }

    /// Gives back all but `bytes`; does nothing if no more than that is held.
    pub fn shrink(&mut self, bytes: u64) {
        let keep = bytes.div_ceil(UNIT) as usize;
        if let Some(excess) = self.permit.num_permits().checked_sub(keep)
            && let Some(part) = self.permit.split(excess)
        {
            self.counts_less(excess as u64 * UNIT);
            drop(part);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.counts_less(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_counted_and_given_back() {
        let budget = Budget::new(10 * UNIT);
        let mut a = budget.try_reserve(6 * UNIT).unwrap();
        assert!(budget.try_reserve(5 * UNIT).is_none());
        a.shrink(2 * UNIT);
        assert_eq!(budget.used_bytes(), 2 * UNIT);
        let b = budget.try_reserve(8 * UNIT).unwrap();
        drop((a, b));
        assert_eq!(budget.used_bytes(), 0);
        assert_eq!(
            budget.try_reserve(u64::MAX).unwrap().bytes(),
            budget.bytes()
        );
    }

    #[test]
    fn a_lease_grows_only_into_what_is_free() {
        let budget = Budget::new(10 * UNIT);
        let mut a = budget.try_reserve(2 * UNIT).unwrap();
        let b = budget.try_reserve(4 * UNIT).unwrap();
        assert!(!a.try_grow(&budget, 7 * UNIT));
        assert_eq!(budget.used_bytes(), 6 * UNIT);
        assert!(a.try_grow(&budget, 6 * UNIT));
        assert!(a.try_grow(&budget, UNIT), "enough is held already");
        assert_eq!((a.bytes(), budget.used_bytes()), (6 * UNIT, 10 * UNIT));
        drop(b);
        assert!(a.try_grow(&budget, u64::MAX));
        drop(a);
        assert_eq!(budget.used_bytes(), 0);
        assert_eq!(
            budget.try_reserve(u64::MAX).unwrap().bytes(),
            budget.bytes()
        );
    }

    #[tokio::test]
    async fn a_waiting_lease_is_served_when_another_is_dropped() {
        let budget = Budget::new(4 * UNIT);
        let first = budget.reserve(4 * UNIT).await;
        let second = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(UNIT).await.bytes() }
        });
        drop(first);
        assert_eq!(second.await.unwrap(), UNIT);
    }
}

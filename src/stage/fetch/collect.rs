//! Bytes as they arrive, within the size cap and the memory budget.

use super::Fetched;
use super::body::{Body, CachedFile};
use super::buffers::Buffer;
use super::error::Failure;
use crate::stage::budget::{Budget, Reservation};
use bytes::Bytes;

/// Collects one body. Never holds more bytes than it has a reservation on, and never waits for the
/// budget.
pub(super) struct Collector<'a> {
    reservation: Reservation,
    budget: &'a Budget,
    max_bytes: u64,
    announced: u64,
    buffer: Vec<u8>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(reservation: Reservation, budget: &'a Budget, max_bytes: u64) -> Self {
        Collector {
            reservation,
            budget,
            max_bytes,
            announced: 0,
            buffer: Vec::new(),
        }
    }

    /// Makes room for a body whose length was announced. The announcement is not trusted:
    /// [`Collector::push`] counts.
    pub(super) fn announce(&mut self, bytes: u64) -> Result<(), Failure> {
        if bytes > self.max_bytes {
            return Err(Failure::TooLarge);
        }
        self.make_room(bytes, bytes)?;
        self.announced = bytes;
        Ok(())
    }

    /// Takes the next part.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), Failure> {
        let bytes = (self.buffer.len() + part.len()) as u64;
        if bytes > self.max_bytes {
            return Err(Failure::TooLarge);
        }
        if self.buffer.is_empty() && bytes <= self.announced {
            self.buffer.reserve_exact(self.announced as usize);
        } else if bytes > self.buffer.capacity() as u64 {
            let grown = (bytes * 2).clamp(64 << 10, self.max_bytes.max(64 << 10));
            // While the buffer moves, the old and the new one exist. Nobody knows how much is
            // coming: if there is no room now, the next attempt starts with all it may need.
            let both = grown + self.buffer.capacity() as u64;
            self.make_room(both, self.max_bytes * 2)?;
            self.buffer
                .reserve_exact(grown as usize - self.buffer.len());
        }
        self.buffer.extend_from_slice(part);
        Ok(())
    }

    fn make_room(&mut self, bytes: u64, if_not: u64) -> Result<(), Failure> {
        if self.reservation.try_grow(self.budget, bytes) {
            Ok(())
        } else {
            Err(Failure::NeedsRoom(if_not))
        }
    }

    /// Takes a body that is complete already.
    pub(super) fn take(mut self, buffer: Vec<u8>) -> Result<Fetched, Failure> {
        let bytes = buffer.len() as u64;
        if bytes > self.max_bytes {
            return Err(Failure::TooLarge);
        }
        self.make_room(bytes, bytes)?;
        self.buffer = buffer;
        Ok(self.finish())
    }

    /// Leaves a file where it is. Whoever loads it may be given a buffer up to twice as large: one
    /// for each at a time, not for each image.
    pub(super) fn leave(mut self, file: CachedFile) -> Fetched {
        self.reservation.shrink(self.announced);
        Fetched {
            body: Body::cached(file),
            reservation: self.reservation,
        }
    }

    /// Takes a file that was read into a buffer of its own.
    pub(super) fn take_buffer(mut self, buffer: Buffer) -> Result<Fetched, Failure> {
        let bytes = buffer.capacity() as u64;
        self.make_room(bytes, bytes)?;
        self.reservation.shrink(bytes);
        Ok(Fetched {
            body: Body::held(Bytes::from_owner(buffer)),
            reservation: self.reservation,
        })
    }

    /// The body is complete.
    pub(super) fn finish(mut self) -> Fetched {
        self.buffer.shrink_to_fit();
        self.reservation.shrink(self.buffer.len() as u64);
        Fetched {
            body: Body::held(Bytes::from(self.buffer)),
            reservation: self.reservation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_leased_and_the_lease_ends_at_the_size() {
        let budget = Budget::new(8 << 20);
        let mut collector = Collector::new(budget.try_reserve(1024).unwrap(), &budget, 1 << 20);
        let part = vec![7; 10_000];
        for _ in 0..50 {
            collector.push(&part).unwrap();
            assert!(collector.buffer.capacity() as u64 <= budget.used_bytes());
        }
        let fetched = collector.finish();
        assert_eq!(fetched.body.load().unwrap().len(), 500_000);
        assert_eq!(budget.used_bytes(), 500_000u64.div_ceil(1024) * 1024);
        drop(fetched.reservation);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn the_cap_holds_whatever_was_announced() {
        let budget = Budget::new(8 << 20);
        let mut collector = Collector::new(budget.try_reserve(1024).unwrap(), &budget, 1000);
        assert_eq!(collector.announce(1001), Err(Failure::TooLarge));
        collector.announce(10).unwrap();
        collector.push(&[0; 999]).unwrap();
        assert_eq!(collector.push(&[0; 2]), Err(Failure::TooLarge));
    }

    #[test]
    fn without_room_it_gives_up_instead_of_waiting() {
        let budget = Budget::new(1 << 20);
        let others = budget.try_reserve(1000 << 10).unwrap();
        let mut collector = Collector::new(budget.try_reserve(1024).unwrap(), &budget, 1 << 20);
        assert_eq!(
            collector.announce(100 << 10),
            Err(Failure::NeedsRoom(100 << 10))
        );
        assert_eq!(
            collector.push(&[0; 50 << 10]),
            Err(Failure::NeedsRoom(2 << 20))
        );
        drop(others);
        collector.push(&[0; 50 << 10]).unwrap();
    }
}

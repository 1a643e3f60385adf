//! Buffers of files, used again.
//!
//! Pages that are given back to the system and asked for again cost as much as reading the file
//! into them.
//!
//! A file's bytes begin on a page of memory. Processors that copy with one instruction
//! (`rep movsb`) are three times slower on some machines where the target lies 16 bytes behind the
//! beginning of a page, which is where an allocator puts a large block.

use std::sync::{Arc, Mutex};

/// Bytes of a page of memory.
const PAGE: usize = 4096;
/// What may lie idle, bytes. While images flow the buffers are in use, all but a few.
const IDLE_BYTES: usize = 8 << 20;

/// Buffers that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The one that was used last comes last.
    idle: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where the first page begins.
    start: usize,
    filled: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    /// A buffer with room for `size` bytes, and not for more than twice as many.
    pub(super) fn take(self: &Arc<Self>, size: usize) -> Buffer {
        let room = size + PAGE;
        let fits = |buffer: &Vec<u8>| (room..=2 * room).contains(&buffer.capacity());
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        let used = idle.iter().rposition(fits).map(|at| idle.remove(at));
        drop(idle);
        // What is left over from an earlier file need not be cleared: only what was read is shown.
        let mut bytes = used.unwrap_or_else(|| vec![0; room]);
        if bytes.len() < room {
            bytes.resize(room, 0);
        }
        Buffer {
            start: bytes.as_ptr().align_offset(PAGE).min(PAGE),
            bytes,
            filled: 0,
            home: Arc::clone(self),
        }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        if bytes.capacity() > IDLE_BYTES {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.push(bytes);
        let mut sum: usize = idle.iter().map(Vec::capacity).sum();
        let mut oldest = 0;
        while sum > IDLE_BYTES {
            sum -= idle[oldest].capacity();
            oldest += 1;
        }
        idle.drain(..oldest);
    }
}

impl Buffer {
    /// Reads at most `size` bytes, for which there must be room.
    pub(super) fn fill(
        &mut self,
        mut source: impl std::io::Read,
        size: usize,
    ) -> std::io::Result<()> {
        let room = &mut self.bytes[self.start..][..size];
        while self.filled < size {
            match source.read(&mut room[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Memory it takes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_shows_only_what_was_read_last() {
        let buffers = Arc::new(Buffers::default());
        let mut long = buffers.take(100_000);
        long.fill(&[7u8; 200_000][..], 100_000).unwrap();
        assert_eq!(long.as_ref(), [7; 100_000]);
        let place = long.as_ref().as_ptr();
        assert!(place.addr().is_multiple_of(PAGE));
        drop(long);
        let mut short = buffers.take(60_000);
        short.fill(&[1u8, 2, 3][..], 60_000).unwrap();
        assert_eq!(short.as_ref(), [1, 2, 3]);
        assert_eq!(short.as_ref().as_ptr(), place);
        // One that is much too large stays for others.
        drop(short);
        assert!(buffers.take(100).capacity() < 60_000);
    }

    #[test]
    fn what_lies_idle_is_bounded_and_the_oldest_goes_first() {
        let buffers = Arc::new(Buffers::default());
        let taken: Vec<_> = (1..=5).map(|n| buffers.take(n << 20)).collect();
        drop(buffers.take(IDLE_BYTES + 1));
        for buffer in taken {
            drop(buffer);
        }
        let idle = buffers.idle.lock().unwrap();
        let sizes: Vec<_> = idle.iter().map(|b| b.capacity() >> 20).collect();
        assert_eq!(sizes, [5]);
    }
}

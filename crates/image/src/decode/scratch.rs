//! Buffers that decoding reuses, one set per thread.

use super::sequential;
use fast_image_resize::Resizer;
use std::cell::RefCell;
use turbojpeg::Decompressor;

/// Buffers that have together grown beyond this are freed after use, so that a few large pictures
/// do not pin their memory.
const KEPT_BYTES: usize = 24 << 20;

/// One thread's buffers.
#[derive(Default)]
pub(super) struct Scratch {
    /// The decoded picture, RGB.
    pub rgb: Vec<u8>,
    /// Samples of the file's own type, before they become RGB.
    pub samples: Vec<u8>,
    /// The fitted picture before it is turned upright.
    pub turned: Vec<u8>,
    /// The picture between the two passes of resampling, with its final width and its old height.
    pub narrow: Vec<u8>,
    pub resizer: Resizer,
    pub decompressor: Option<Decompressor>,
    pub sequential: sequential::Reader,
}

impl Scratch {
    /// Bytes of the buffers that grow with pictures.
    fn bytes(&self) -> usize {
        let buffers = [&self.rgb, &self.samples, &self.turned, &self.narrow];
        let kept: usize = buffers.iter().map(|buffer| buffer.capacity()).sum();
        kept + self.resizer.size_of_internal_buffers()
    }

    fn free_buffers(&mut self) {
        for buffer in [
            &mut self.rgb,
            &mut self.samples,
            &mut self.turned,
            &mut self.narrow,
        ] {
            *buffer = Vec::new();
        }
        self.resizer.reset_internal_buffers();
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `work` with this thread's buffers.
pub(super) fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let result = work(scratch);
        if scratch.bytes() > KEPT_BYTES {
            scratch.free_buffers();
        }
        result
    })
}

/// Gives back all of this thread's buffers.
pub(super) fn forget() {
    SCRATCH.with_borrow_mut(|scratch| *scratch = Scratch::default());
}

/// The first `len` bytes of `buffer`, grown if need be. What they hold is left over from earlier
/// pictures.
pub(super) fn sized(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        // Emptied first: growing would copy what the buffer holds.
        buffer.clear();
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_in_all() {
        let kept = || with(|scratch| scratch.bytes());
        with(|scratch| sized(&mut scratch.rgb, 20 << 20).len());
        assert_eq!(kept(), 20 << 20);
        with(|scratch| sized(&mut scratch.narrow, 10 << 20).len());
        assert_eq!(kept(), 0);
    }
}

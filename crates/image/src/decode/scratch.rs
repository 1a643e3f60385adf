//! Buffers that decoding reuses, one set per thread.

use super::sequential;
use fast_image_resize::Resizer;
use std::cell::RefCell;
use turbojpeg::Decompressor;

/// A buffer that has grown beyond this is freed after use, so that one huge picture does not pin
/// its memory.
const KEPT_BYTES: usize = 48 << 20;

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

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `work` with this thread's buffers.
pub(super) fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let result = work(scratch);
        let Scratch {
            rgb,
            samples,
            turned,
            narrow,
            ..
        } = scratch;
        for buffer in [rgb, samples, turned, narrow] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        if scratch.resizer.size_of_internal_buffers() > KEPT_BYTES {
            scratch.resizer.reset_internal_buffers();
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

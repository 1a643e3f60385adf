//! The one door through which pictures that others wrote are decoded.
//!
//! Plain JPEGs, most of what there is, are decoded on the caller's thread, because their cost is
//! known from their headers (`decode::jpeg::plain` has the argument). Every other picture goes to a
//! helper process ([`crate::helper`]), which may take `max_alloc_bytes` and 16 MiB, has no network
//! and no files, and is killed after `timeout`. A helper that dies loses the picture it died of;
//! the next one is decoded by a new process.
//!
//! There is no way past this: where no helper can be started, the picture is
//! [`DecodeError::Unavailable`], and is not decoded.
//!
//! | file | what happens there |
//! |---|---|
//! | `settings` | what pictures may cost, and which program decodes them |
//! | `pool` | helpers that wait, one for each caller; how long the pool has been stuck |
//! | `counts` | what has been decoded, for metrics |
//! | `starter` | the thread that starts helpers |
//! | `process` | one helper: started, asked, ended, and what it died of |

mod counts;
mod pool;
mod process;
mod settings;
mod starter;

pub use crate::decode::heic_library;
pub use counts::JpegsDecoded;
pub use settings::DecoderSettings;

use crate::decode::{DecodeError, ImageInfo, ImageSize};
use crate::decode::{decode_plain_into, decode_plain_rgb, refusal_by_first_bytes};
use crate::preprocessing::Preprocessing;
use crate::wire::Task;
use pool::Pool;
use std::sync::Arc;
use std::time::Duration;

/// Decodes pictures within the caps that it was made with. Clones share the helper processes, which
/// end with the last of them.
#[derive(Debug, Clone)]
pub struct Decoders {
    pool: Arc<Pool>,
}

impl Default for Decoders {
    fn default() -> Self {
        Decoders::new(DecoderSettings::default())
    }
}

impl Decoders {
    /// Helpers are started when they are first needed, or by [`Decoders::prove`].
    pub fn new(settings: DecoderSettings) -> Self {
        Decoders {
            pool: Arc::new(Pool::new(settings)),
        }
    }

    /// The limits by which it decodes.
    pub fn settings(&self) -> &DecoderSettings {
        self.pool.settings()
    }

    /// Starts a helper, unless there is one: for programs that refuse to begin without.
    ///
    /// # Errors
    /// [`DecodeError::Unavailable`], with what to do.
    pub fn prove(&self) -> Result<(), DecodeError> {
        self.pool.prove()
    }

    /// Decodes `bytes`, fits the picture as `preprocessing` says and writes it to `pixels`: RGB,
    /// uint8, `[H, W, 3]`. Returns the size of the upright original. Waits for a helper if there
    /// are more callers than helpers.
    ///
    /// # Errors
    /// [`DecodeError`]; `pixels` then holds nothing of use.
    ///
    /// # Panics
    /// If `pixels` is not exactly `height * width * 3` bytes long, or that is 0.
    pub fn decode_into(
        &self,
        bytes: &[u8],
        preprocessing: &Preprocessing,
        pixels: &mut [u8],
    ) -> Result<ImageSize, DecodeError> {
        assert_eq!(
            pixels.len(),
            preprocessing.height * preprocessing.width * 3,
            "the slice does not fit the preprocessing"
        );
        assert!(!pixels.is_empty(), "the preprocessing's size is 0");
        let running = self.pool.running();
        let limits = &self.pool.settings().limits;
        if let Some(done) = decode_plain_into(bytes, preprocessing, limits, pixels) {
            return done.map(|plain| {
                self.pool.counts().plain_jpeg(plain.by_own_reader);
                plain.size
            });
        }
        drop(running);
        let task = Task::Fit(preprocessing.clone());
        let info = self.ask(bytes, &task, &mut Space::Given(pixels))?;
        if info.format == "jpeg" {
            self.pool.counts().helpers_jpeg();
        }
        Ok(info.size)
    }

    /// Decodes `bytes` at full size, upright.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode_rgb(&self, bytes: &[u8]) -> Result<image::RgbImage, DecodeError> {
        let running = self.pool.running();
        if let Some(done) = decode_plain_rgb(bytes, &self.pool.settings().limits) {
            return done;
        }
        drop(running);
        let mut space = Space::ThreePerPixel(Vec::new());
        let info = self.ask(bytes, &Task::Whole, &mut space)?;
        let Space::ThreePerPixel(pixels) = space else {
            unreachable!("it was made a line above");
        };
        let ImageSize { width, height } = info.size;
        Ok(image::RgbImage::from_raw(width, height, pixels).expect("as many as it was read for"))
    }

    /// Reads format, upright size and orientation from the header.
    ///
    /// # Errors
    /// [`DecodeError`], limits included.
    pub fn probe(&self, bytes: &[u8]) -> Result<ImageInfo, DecodeError> {
        self.ask(bytes, &Task::Probe, &mut Space::None)
    }

    /// How long decoding has been stuck: a picture that has not come back although its time is up,
    /// a helper that does not die although it was killed, or none that can be started. Zero while
    /// all is well.
    pub fn stuck_for(&self) -> Duration {
        self.pool.stuck_for()
    }

    /// Process ids of the helpers that are alive now.
    pub fn helpers(&self) -> Vec<u32> {
        self.pool.processes()
    }

    /// Helpers that have died, or were killed, over a picture.
    pub fn deaths(&self) -> u64 {
        self.pool.deaths()
    }

    /// Damaged pictures that were decoded all the same, as `max_damaged_percent` allows, since this
    /// was asked last.
    pub fn take_damaged(&self) -> u64 {
        self.pool.counts().take_damaged()
    }

    /// JPEGs that [`Decoders::decode_into`] has decoded since this was asked last.
    pub fn take_jpegs(&self) -> JpegsDecoded {
        self.pool.counts().take_jpegs()
    }

    fn ask(
        &self,
        bytes: &[u8],
        task: &Task,
        space: &mut Space<'_>,
    ) -> Result<ImageInfo, DecodeError> {
        if let Some(refusal) = refusal_by_first_bytes(bytes) {
            return Err(refusal);
        }
        // A helper has the file in its memory.
        let limits = &self.pool.settings().limits;
        limits.check_alloc(bytes.len() as u64)?;
        self.pool.ask(bytes, task, space)
    }
}

/// Where the pixels of an answer go.
pub(crate) enum Space<'a> {
    /// There are none.
    None,
    /// As many as there is room for.
    Given(&'a mut [u8]),
    /// Three bytes for each pixel of the size that is answered.
    ThreePerPixel(Vec<u8>),
}

impl Space<'_> {
    /// Room for `length` bytes, if that is what there should be.
    pub(crate) fn room(&mut self, size: ImageSize, length: usize) -> Option<&mut [u8]> {
        match self {
            Space::None => (length == 0).then_some(&mut []),
            Space::Given(pixels) => (pixels.len() == length).then_some(pixels),
            Space::ThreePerPixel(pixels) => {
                let wanted = 3 * u64::from(size.width) * u64::from(size.height);
                if wanted != length as u64 {
                    return None;
                }
                *pixels = vec![0; length];
                Some(pixels)
            }
        }
    }
}

//! What pictures may cost, and which program decodes them.

use crate::decode::DecodeLimits;
use std::path::PathBuf;
use std::time::Duration;

/// How [`super::Decoders`] work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderSettings {
    /// Caps on what is decoded.
    pub limits: DecodeLimits,
    /// How long one picture may take.
    pub timeout: Duration,
    /// Most helper processes at a time; 0: one for every core.
    pub helpers: usize,
    /// The program that helpers are: one that begins with [`crate::helper::run_if_asked`], of the
    /// same version as this. None: this process's own program, if it began so.
    pub program: Option<PathBuf>,
}

impl Default for DecoderSettings {
    fn default() -> Self {
        DecoderSettings {
            limits: DecodeLimits::default(),
            timeout: Duration::from_secs(20),
            helpers: 0,
            program: None,
        }
    }
}

impl DecoderSettings {
    /// The number of helpers, chosen if need be.
    pub(super) fn most_helpers(&self) -> usize {
        match self.helpers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            some => some,
        }
    }

    /// What is to be executed.
    ///
    /// # Errors
    /// That there is no such program, and what to do.
    pub(super) fn executable(&self) -> Result<PathBuf, String> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            // The program that runs, also after another one was put in its place.
            None if crate::helper::own_program_serves() => Ok("/proc/self/exe".into()),
            None => Err(
                "this program cannot be its own decoding helper: name the `tagstream` program of \
                 this version with `decode.helper`, or call \
                 `tagstream_image::helper::run_if_asked` first in `main`"
                    .into(),
            ),
        }
    }
}

//! In a build without the feature `heic`.

use super::super::coded::Coded;
use super::super::fault::Fault;
use super::Config;

/// # Errors
/// Always.
pub fn heic_library() -> Result<String, String> {
    Err("this build is without the feature `heic`".into())
}

/// What is never made.
pub(in super::super) struct Planes {
    pub coded: Coded,
    never: std::convert::Infallible,
}

impl Planes {
    /// # Errors
    /// Always.
    pub(in super::super) fn decode(_data: &[u8], _config: &Config<'_>) -> Result<Self, Fault> {
        Err(Fault::Unsupported(
            "HEVC is read by builds with the feature `heic`".into(),
        ))
    }

    pub(in super::super) fn copy_row(&self, _plane: usize, _row: usize, _out: &mut [u16]) {
        match self.never {}
    }
}

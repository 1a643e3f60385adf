//! libwebp: the only calls of it. It gets one picture without a container, whose size our own code
//! has read, and room for exactly that; it checks both once more.

use libwebp_sys as sys;
use std::mem::MaybeUninit;

/// What libwebp found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was given no more memory.
    Memory,
    /// The format's own rules allow it and the library does not.
    Unsupported,
    /// More data should follow.
    EndsEarly,
    /// The data contradict themselves, or the room that they were given.
    Contradiction,
}

/// Room for pixels, from the first one of the picture to the last one.
pub(super) struct Pixels<'a> {
    pub rgb: &'a mut [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// Decodes to RGB.
pub(super) fn decode_rgb(coded: &[u8], room: Pixels<'_>) -> Result<(), Fault> {
    let stride = i32::try_from(room.stride).map_err(|_| Fault::Memory)?;
    let mut config = MaybeUninit::<sys::WebPDecoderConfig>::zeroed();
    // SAFETY: it writes the defaults to memory that is there and zero.
    if !unsafe { sys::WebPInitDecoderConfig(config.as_mut_ptr()) } {
        return Err(Fault::Contradiction);
    }
    // SAFETY: it was zero, which is a value of each of its fields, and is initialised now.
    let mut config = unsafe { config.assume_init() };
    config.output.is_external_memory = 1;
    config.output.colorspace = sys::WEBP_CSP_MODE::MODE_RGB;
    config.output.u.RGBA = sys::WebPRGBABuffer {
        rgba: room.rgb.as_mut_ptr(),
        stride,
        size: room.rgb.len(),
    };
    // SAFETY: the data are a slice that is only read. It writes to the room, which is borrowed
    // until this returns, after it has checked its length against the size that the data declare,
    // and frees nothing that it has not allocated.
    let status = unsafe { sys::WebPDecode(coded.as_ptr(), coded.len(), &raw mut config) };
    use sys::VP8StatusCode as Status;
    match status {
        Status::VP8_STATUS_OK => Ok(()),
        Status::VP8_STATUS_OUT_OF_MEMORY => Err(Fault::Memory),
        Status::VP8_STATUS_UNSUPPORTED_FEATURE => Err(Fault::Unsupported),
        Status::VP8_STATUS_SUSPENDED | Status::VP8_STATUS_NOT_ENOUGH_DATA => Err(Fault::EndsEarly),
        _ => Err(Fault::Contradiction),
    }
}

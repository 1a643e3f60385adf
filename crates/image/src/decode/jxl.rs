//! JPEG XL by jxl-oxide: codestreams and containers, of an animation the first frame. It turns
//! pictures upright itself. Runs in helpers only, on one thread.

use super::error::DecodeError;
use super::format::Format;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::Stored;
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{resize, scratch};
use crate::preprocessing::Preprocessing;
use jxl_oxide::image::ExtraChannelType;
use jxl_oxide::{AllocTracker, InitializeResult, JxlImage, JxlThreadPool, PixelFormat};

/// Bytes of a sample while it is decoded. What else is held, the library itself counts.
const SAMPLE: u64 = 4;

/// Decodes into `scratch.rgb`, from where `fit` says how it goes on.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    fit: Option<&Preprocessing>,
    scratch: &mut Scratch,
) -> Result<Stored, DecodeError> {
    let image = open(bytes, limits)?;
    let size = size_of(&image);
    limits.check_pixels(size)?;
    let resampled = fit.map_or(0, |preprocessing| {
        let window = Window::of(size, Orientation::Upright, preprocessing);
        resize::working_bytes(size, window.target)
    });
    let format = image.pixel_format();
    if format.has_black() {
        return Err(DecodeError::UnsupportedFeature {
            format: Format::JpegXl.name(),
            reason: "CMYK".into(),
        });
    }
    let pixels = u64::from(size.width) * u64::from(size.height);
    let planes = (SAMPLE * format.channels() as u64).saturating_mul(pixels);
    let whole = (3 * pixels).saturating_add(planes);
    limits.check_alloc(whole.saturating_add(resampled + bytes.len() as u64))?;
    if image.num_loaded_keyframes() == 0 {
        return Err(damaged("it ends early"));
    }
    let picture = image.render_frame(0).map_err(|e| refusal(&*e, limits))?;
    let rgb = scratch::sized(&mut scratch.rgb, 3 * pixels as usize);
    let is_premultiplied = image.image_header().metadata.ec_info.iter().any(|extra| {
        matches!(
            extra.ty,
            ExtraChannelType::Alpha {
                alpha_associated: true
            }
        )
    });
    let channels = format.channels();
    let mut row = vec![0u8; size.width as usize * channels];
    let mut samples = picture.stream();
    for out in rgb.chunks_exact_mut(3 * size.width as usize) {
        if samples.write_to_buffer(&mut row) < row.len() {
            return Err(damaged("it is smaller than it says"));
        }
        for (out, pixel) in out.chunks_exact_mut(3).zip(row.chunks_exact(channels)) {
            match format {
                PixelFormat::Gray | PixelFormat::Graya => out.fill(pixel[0]),
                _ => out.copy_from_slice(&pixel[..3]),
            }
            if is_premultiplied && format.has_alpha() {
                divide(out, pixel[channels - 1]);
            }
        }
    }
    Ok(Stored::whole(size, Orientation::Upright))
}

/// Reads the size, which is that of the upright picture.
pub(super) fn probe(
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<(ImageSize, Orientation), DecodeError> {
    Ok((size_of(&open(bytes, limits)?), Orientation::Upright))
}

/// Reads all headers, and cuts the file into frames.
fn open(bytes: &[u8], limits: &DecodeLimits) -> Result<JxlImage, DecodeError> {
    let memory = usize::try_from(limits.max_alloc_bytes).unwrap_or(usize::MAX);
    let mut reader = JxlImage::builder()
        .pool(JxlThreadPool::none())
        .alloc_tracker(AllocTracker::with_limit(memory))
        .build_uninit();
    limits.check_alloc(2 * bytes.len() as u64)?;
    let refused = |e: Box<dyn std::error::Error + Send + Sync>| refusal(&*e, limits);
    reader.feed_bytes(bytes).map_err(refused)?;
    match reader.try_init().map_err(refused)? {
        InitializeResult::Initialized(image) => Ok(image),
        InitializeResult::NeedMoreData(_) => Err(damaged("it ends early")),
    }
}

fn size_of(image: &JxlImage) -> ImageSize {
    ImageSize {
        width: image.width(),
        height: image.height(),
    }
}

/// Divides colours that were multiplied with their alpha; nothing is known of what is transparent.
fn divide(colours: &mut [u8], alpha: u8) {
    for sample in colours {
        let whole = u32::from(*sample) * 255 + u32::from(alpha) / 2;
        *sample = whole.checked_div(u32::from(alpha)).unwrap_or(0).min(255) as u8;
    }
}

fn damaged(reason: &str) -> DecodeError {
    DecodeError::Damaged {
        format: Format::JpegXl.name(),
        reason: reason.into(),
    }
}

/// What the library says, as this room's error.
fn refusal(
    error: &(dyn std::error::Error + Send + Sync + 'static),
    limits: &DecodeLimits,
) -> DecodeError {
    // Its own error of memory has no public name, and may be the cause of another.
    const MEMORY: &str = "failed to allocate";
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    match causes.any(|cause| cause.to_string().contains(MEMORY)) {
        true => DecodeError::TooMuchMemory {
            max_alloc_bytes: limits.max_alloc_bytes,
        },
        false => damaged(&error.to_string()),
    }
}

//! From a decoded picture to the model's input: which part of it, resampled how.

use super::orientation::Orientation;
use super::picture::Stored;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{orientation, scratch, sequential};
use crate::preprocessing::{Filter, Fit, Preprocessing};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

/// The size of the model's input.
pub(super) fn target_size(preprocessing: &Preprocessing) -> ImageSize {
    ImageSize {
        width: preprocessing.width as u32,
        height: preprocessing.height as u32,
    }
}

/// Which part of the stored original becomes the input, and how large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    /// Left edge in the stored original, pixels.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Of the part, source pixels.
    pub width: f64,
    /// Of the part, source pixels.
    pub height: f64,
    /// Size it is resampled to, before it is turned upright.
    pub target: ImageSize,
}

impl Window {
    /// The window for an original of size `stored`.
    pub(super) fn of(
        stored: ImageSize,
        orientation: Orientation,
        preprocessing: &Preprocessing,
    ) -> Self {
        let target = target_size(preprocessing);
        let upright = orientation.upright(stored);
        let (width, height) = (f64::from(upright.width), f64::from(upright.height));
        let (left, top, window_width, window_height) = match preprocessing.fit {
            Fit::Squash => (0.0, 0.0, width, height),
            Fit::CenterCrop => {
                let (resized_width, resized_height) = resized_to_cover(upright, target);
                let scale_x = width / resized_width as f64;
                let scale_y = height / resized_height as f64;
                (
                    half_to_even(resized_width - u64::from(target.width)) * scale_x,
                    half_to_even(resized_height - u64::from(target.height)) * scale_y,
                    f64::from(target.width) * scale_x,
                    f64::from(target.height) * scale_y,
                )
            }
        };
        let (swap, mirror_x, mirror_y) = orientation.swap_and_mirrors();
        let mut window = Window {
            left,
            top,
            width: window_width,
            height: window_height,
            target,
        };
        if swap {
            window = Window {
                left: top,
                top: left,
                width: window_height,
                height: window_width,
                target: orientation.upright(target),
            };
        }
        if mirror_x {
            window.left = f64::from(stored.width) - window.left - window.width;
        }
        if mirror_y {
            window.top = f64::from(stored.height) - window.top - window.height;
        }
        window
    }
}

/// The smallest size of the picture's shape that covers `target`; the longer side is rounded down,
/// as torchvision does.
fn resized_to_cover(size: ImageSize, target: ImageSize) -> (u64, u64) {
    let (w, h) = (u64::from(size.width), u64::from(size.height));
    let (tw, th) = (u64::from(target.width), u64::from(target.height));
    if tw * h >= th * w {
        (tw, tw * h / w)
    } else {
        (th * w / h, th)
    }
}

/// Half of `excess`, rounded half to even, as Python rounds the crop's offset.
fn half_to_even(excess: u64) -> f64 {
    (excess as f64 / 2.0).round_ties_even()
}

/// Start and length of the window on one axis of the decoded picture, which they never leave, not
/// even by rounding.
fn span(start: f64, length: f64, reduction: f64, limit: f64) -> (f64, f64) {
    let start = (start * reduction).clamp(0.0, limit);
    let mut length = (length * reduction).min(limit - start);
    while start + length > limit {
        length = length.next_down();
    }
    (start, length)
}

/// Has a plain JPEG read straight into `pixels`. Returns whether that could be done; if not,
/// `pixels` holds nothing of use.
pub(super) fn fit_sequential(
    bytes: &[u8],
    picture: &Stored,
    preprocessing: &Preprocessing,
    scratch: &mut Scratch,
    pixels: &mut [u8],
) -> bool {
    let window = Window::of(picture.original, picture.orientation, preprocessing);
    let side = |pixels: u32, start, length, samples: u32| {
        let (start, length) = span(start, length, 1.0, f64::from(pixels));
        sequential::Span {
            pixels: pixels as usize,
            start,
            length,
            samples: samples as usize,
        }
    };
    let ImageSize { width, height } = picture.original;
    let target = sequential::Target {
        columns: side(width, window.left, window.width, window.target.width),
        rows: side(height, window.top, window.height, window.target.height),
        kernel: match preprocessing.filter {
            Filter::Bicubic => sequential::Kernel::Cubic,
            Filter::Bilinear => sequential::Kernel::Linear,
        },
    };
    if picture.orientation == Orientation::Upright {
        return scratch.sequential.read(bytes, &target, pixels).is_ok();
    }
    let stored = scratch::sized(&mut scratch.turned, pixels.len());
    if scratch.sequential.read(bytes, &target, stored).is_err() {
        return false;
    }
    let size = target_size(preprocessing);
    orientation::turn(picture.orientation, stored, size, pixels);
    true
}

/// Bytes that resampling a picture of size `decoded` takes, beside it and the result: the picture
/// between the two passes, and the weights of every row and column, which are eight-byte numbers,
/// four a pixel, and once more as whole numbers. A picture of one column and 60 million rows takes
/// more here than for its pixels.
pub(super) fn working_bytes(decoded: ImageSize, target: ImageSize) -> u64 {
    let (width, height) = (u64::from(decoded.width), u64::from(decoded.height));
    let (columns, rows) = (u64::from(target.width), u64::from(target.height));
    let between = (columns * height).max(width * rows) * 3;
    between + 48 * (width + height)
}

/// Resamples the picture in `scratch.rgb` and turns it upright into `pixels`.
pub(super) fn fit(
    picture: &Stored,
    preprocessing: &Preprocessing,
    scratch: &mut Scratch,
    pixels: &mut [u8],
) {
    let window = Window::of(picture.original, picture.orientation, preprocessing);
    let filter = match preprocessing.filter {
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Bilinear => FilterType::Bilinear,
    };
    let Scratch {
        rgb,
        turned,
        narrow,
        resizer,
        ..
    } = scratch;
    if picture.orientation == Orientation::Upright {
        resample(picture, &window, filter, rgb, narrow, resizer, pixels);
        return;
    }
    let stored = scratch::sized(turned, pixels.len());
    resample(picture, &window, filter, rgb, narrow, resizer, stored);
    let size = target_size(preprocessing);
    orientation::turn(picture.orientation, stored, size, pixels);
}

/// Resamples the window of the picture in `rgb` into `out`, as stored.
fn resample(
    picture: &Stored,
    window: &Window,
    filter: FilterType,
    rgb: &[u8],
    narrow: &mut Vec<u8>,
    resizer: &mut Resizer,
    out: &mut [u8],
) {
    const MADE: &str = "the buffer was made for this size";
    const INSIDE: &str = "the window lies inside the picture and the pixel types are the same";
    let ImageSize { width, height } = picture.decoded;
    // A reduced JPEG covers exactly original * eighths / 8, though its last column and row may
    // reach beyond.
    let reduction = f64::from(picture.eighths) / 8.0;
    let (left, window_width) = span(window.left, window.width, reduction, f64::from(width));
    let (top, window_height) = span(window.top, window.height, reduction, f64::from(height));
    let len = width as usize * height as usize * 3;
    let source = ImageRef::new(width, height, &rgb[..len], PixelType::U8x3).expect(MADE);
    let target = window.target;
    let mut out =
        Image::from_slice_u8(target.width, target.height, out, PixelType::U8x3).expect(MADE);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    // Pillow resamples along the upright picture's rows first and rounds to bytes between the
    // passes. The other order changes one sample in six, and with it an embedding's cosine in the
    // third decimal.
    if picture.orientation.swaps_sides() {
        // The upright rows are stored as columns, and the library by itself takes columns first.
        let whole = options.crop(left, top, window_width, window_height);
        resizer.resize(&source, &mut out, &whole).expect(INSIDE);
        return;
    }
    let narrow = scratch::sized(narrow, target.width as usize * height as usize * 3);
    let mut narrow =
        Image::from_slice_u8(target.width, height, narrow, PixelType::U8x3).expect(MADE);
    let along_rows = options.crop(left, 0.0, window_width, f64::from(height));
    let along_columns = options.crop(0.0, top, f64::from(target.width), window_height);
    resizer
        .resize(&source, &mut narrow, &along_rows)
        .expect(INSIDE);
    resizer
        .resize(&narrow, &mut out, &along_columns)
        .expect(INSIDE);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocessing(width: usize, height: usize, fit: Fit) -> Preprocessing {
        Preprocessing {
            height,
            width,
            fit,
            filter: Filter::Bicubic,
        }
    }

    fn size(width: u32, height: u32) -> ImageSize {
        ImageSize { width, height }
    }

    #[test]
    fn the_centre_is_cropped_as_torchvision_does() {
        // 500 x 375 to 224: resized to int(224 * 500 / 375) = 298 x 224, left = round(37.0) = 37.
        let w = Window::of(
            size(500, 375),
            Orientation::Upright,
            &preprocessing(224, 224, Fit::CenterCrop),
        );
        assert!((w.left - 37.0 * 500.0 / 298.0).abs() < 1e-9, "{w:?}");
        assert!((w.width - 224.0 * 500.0 / 298.0).abs() < 1e-9, "{w:?}");
        assert_eq!((w.top, w.height), (0.0, 375.0));
        // An odd excess: 101 x 100 to 100: left = round(0.5) = 0; 103 x 100: round(1.5) = 2.
        let left = |width| {
            Window::of(
                size(width, 100),
                Orientation::Upright,
                &preprocessing(100, 100, Fit::CenterCrop),
            )
            .left
        };
        assert_eq!((left(101), left(103)), (0.0, 2.0));
    }

    #[test]
    fn an_uneven_crop_follows_the_orientation() {
        let p = preprocessing(100, 100, Fit::CenterCrop);
        // Upright 103 x 100, cropped from x = 2 to 102.
        let mirrored = Window::of(size(103, 100), Orientation::MirrorHorizontal, &p);
        assert_eq!((mirrored.left, mirrored.top), (1.0, 0.0));
        let turned = Window::of(size(100, 103), Orientation::Turn270, &p);
        assert_eq!((turned.left, turned.top), (0.0, 2.0));
        let turned = Window::of(size(100, 103), Orientation::Turn90, &p);
        assert_eq!((turned.left, turned.top), (0.0, 1.0));
    }

    #[test]
    fn extreme_shapes_stay_inside() {
        for (w, h) in [(1, 60_000), (60_000, 1), (1, 1), (223, 225), (65_535, 976)] {
            for fit in [Fit::Squash, Fit::CenterCrop] {
                let p = preprocessing(224, 160, fit);
                let window = Window::of(size(w, h), Orientation::Upright, &p);
                assert!(window.left >= 0.0 && window.top >= 0.0, "{window:?}");
                assert!(window.left + window.width <= f64::from(w) + 1e-6);
                assert!(window.top + window.height <= f64::from(h) + 1e-6);
            }
        }
    }
}

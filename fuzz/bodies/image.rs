//! The body of the target `image`: it needs `tagstream-image` and nothing else of the workspace.

use tagstream_image::decode::{DecodeLimits, decode_into, probe};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

/// Images of all formats: any bytes give pixels or an error, within the limits; header and decoder
/// agree on the size.
pub(super) fn image(bytes: &[u8]) {
    let limits = DecodeLimits {
        max_pixels: 1 << 20,
        max_alloc_bytes: 32 << 20,
    };
    let fit = if bytes.len().is_multiple_of(2) {
        Fit::Squash
    } else {
        Fit::CenterCrop
    };
    let preprocessing = Preprocessing {
        height: 24,
        width: 32,
        fit,
        filter: Filter::Bicubic,
    };
    let mut pixels = vec![0; 24 * 32 * 3];
    if let Ok(size) = decode_into(bytes, &preprocessing, &limits, &mut pixels) {
        assert!(u64::from(size.width) * u64::from(size.height) <= limits.max_pixels);
        if let Ok(info) = probe(bytes, &limits) {
            assert_eq!(info.size, size);
        }
    }
}

//! Images of all formats: any bytes give pixels or an error, within the limits; header and decoder agree on the size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tagstream::{
    model::bundle::{Filter, Fit, Preprocessing},
    stage::decode::{DecodeLimits, decode_into, probe},
};

fuzz_target!(|bytes: &[u8]| {
    let limits = DecodeLimits {
        max_pixels: 1 << 20,
        max_alloc_bytes: 32 << 20,
    };
    let fit = if bytes.len() % 2 == 0 {
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
});

//! What the configuration allows a picture to cost, and which dead letter a picture makes that is
//! not decoded.

use tagstream_core::config::DecodeConfig;
use tagstream_core::events::DeadLetterKind;
use tagstream_image::decode::{DecodeFault, DecodeLimits};

/// The limits that `config` sets.
pub fn decode_limits(config: &DecodeConfig) -> DecodeLimits {
    DecodeLimits {
        max_pixels: config.max_megapixels * 1_000_000,
        max_alloc_bytes: config.max_alloc_mib << 20,
    }
}

/// The kind of dead letter that `fault` makes.
pub fn dead_letter_kind(fault: DecodeFault) -> DeadLetterKind {
    match fault {
        DecodeFault::Unsupported => DeadLetterKind::UnsupportedImage,
        DecodeFault::Damaged => DeadLetterKind::BadImage,
        DecodeFault::TooLarge => DeadLetterKind::TooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_configuration_without_keys_are_those_of_the_library() {
        assert_eq!(
            decode_limits(&DecodeConfig::default()),
            DecodeLimits::default()
        );
    }
}

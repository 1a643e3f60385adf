//! What the configuration allows a picture to cost, and which dead letter a picture makes that is
//! not decoded.

use std::time::Duration;
use tagstream_core::config::{DamagedPictures, DecodeConfig, JpegReader};
use tagstream_core::events::DeadLetterKind;
use tagstream_core::process::blocking;
use tagstream_image::decode::{DecodeError, DecodeFault, DecodeLimits};
use tagstream_image::decoders::{DecoderSettings, Decoders, JpegsDecoded};

/// The decoders that `config` sets, for pictures from anywhere. No helper is running yet.
pub fn decoders(config: &DecodeConfig) -> Decoders {
    Decoders::new(DecoderSettings {
        limits: DecodeLimits {
            max_pixels: config.max_megapixels.saturating_mul(1_000_000),
            max_alloc_bytes: config.max_alloc_mib.saturating_mul(1 << 20),
            max_damaged_percent: match config.damaged {
                DamagedPictures::Refuse => 0,
                DamagedPictures::Accept => config.max_damaged_percent.min(100) as u8,
            },
            own_jpeg_reader: match config.jpeg {
                JpegReader::Auto => true,
                JpegReader::LibjpegTurbo => false,
            },
        },
        timeout: Duration::from_millis(config.timeout_ms),
        helpers: config.threads,
        program: (!config.helper.is_empty()).then(|| config.helper.clone().into()),
    })
}

/// As [`decoders`], with the proof that helpers can be started.
///
/// # Errors
/// [`DecodeError::Unavailable`], with what to do.
pub async fn started(config: &DecodeConfig) -> Result<Decoders, DecodeError> {
    let decoders = decoders(config);
    let proved = {
        let decoders = decoders.clone();
        blocking::run(move || decoders.prove()).await
    };
    match proved {
        Ok(proved) => proved.map(|()| decoders),
        Err(error) => Err(DecodeError::Unavailable {
            reason: error.to_string(),
        }),
    }
}

/// Adds what `decoders` have decoded since the last call to the metrics.
pub fn count(decoders: &Decoders) {
    let damaged = decoders.take_damaged();
    if damaged > 0 {
        metrics::counter!("tagstream_damaged_images_total").increment(damaged);
    }
    let JpegsDecoded {
        own,
        libjpeg_turbo,
        helper,
    } = decoders.take_jpegs();
    for (reader, count) in [
        ("own", own),
        ("libjpeg_turbo", libjpeg_turbo),
        ("helper", helper),
    ] {
        if count > 0 {
            metrics::counter!("tagstream_jpegs_decoded_total", "reader" => reader).increment(count);
        }
    }
}

/// The kind of dead letter that `fault` makes; none if it is not the picture's.
pub fn dead_letter_kind(fault: DecodeFault) -> Option<DeadLetterKind> {
    match fault {
        DecodeFault::Unsupported => Some(DeadLetterKind::UnsupportedImage),
        DecodeFault::Damaged => Some(DeadLetterKind::BadImage),
        DecodeFault::TooLarge => Some(DeadLetterKind::TooLarge),
        DecodeFault::NoDecoder => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_configuration_without_keys_are_those_of_the_library() {
        assert_eq!(
            *decoders(&DecodeConfig::default()).settings(),
            DecoderSettings::default()
        );
    }

    #[test]
    fn damage_is_allowed_where_it_is_accepted_and_nowhere_else() {
        let allowed = |damaged| {
            let config = DecodeConfig {
                damaged,
                max_damaged_percent: 30,
                ..DecodeConfig::default()
            };
            decoders(&config).settings().limits.max_damaged_percent
        };
        assert_eq!(allowed(DamagedPictures::Refuse), 0);
        assert_eq!(allowed(DamagedPictures::Accept), 30);
    }

    #[test]
    fn the_own_reader_can_be_switched_off() {
        let own = |jpeg| {
            let config = DecodeConfig {
                jpeg,
                ..DecodeConfig::default()
            };
            decoders(&config).settings().limits.own_jpeg_reader
        };
        assert!(own(JpegReader::Auto));
        assert!(!own(JpegReader::LibjpegTurbo));
    }
}

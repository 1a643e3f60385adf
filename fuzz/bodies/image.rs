//! The bodies of the targets `image` and `decoders`: they need `tagstream-image` and nothing else
//! of the workspace.

#![allow(
    clippy::disallowed_methods,
    reason = "what the decoders are, without the helper's process around them"
)]

use std::sync::LazyLock;
use std::time::Duration;
use tagstream_image::decode::{DecodeError, DecodeFault, DecodeLimits, decode_into, probe};
use tagstream_image::decoders::{DecoderSettings, Decoders};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

const LIMITS: DecodeLimits = DecodeLimits {
    max_pixels: 1 << 20,
    max_alloc_bytes: 32 << 20,
    max_damaged_percent: 50,
    own_jpeg_reader: true,
};
/// What a helper may hold: its cap, and 16 MiB.
const HELPER_KB: u64 = (32 + 16) << 10;
const PIXELS: usize = 24 * 32 * 3;

fn preprocessing(bytes: &[u8]) -> Preprocessing {
    Preprocessing {
        height: 24,
        width: 32,
        fit: if bytes.len().is_multiple_of(2) {
            Fit::Squash
        } else {
            Fit::CenterCrop
        },
        filter: Filter::Bicubic,
    }
}

/// Images of all formats: any bytes give pixels or an error, within the limits; header and decoder
/// agree on the size.
pub(super) fn image(bytes: &[u8]) {
    let mut pixels = vec![0; PIXELS];
    if let Ok(size) = decode_into(bytes, &preprocessing(bytes), &LIMITS, &mut pixels) {
        assert!(u64::from(size.width) * u64::from(size.height) <= LIMITS.max_pixels);
        if let Ok(info) = probe(bytes, &LIMITS) {
            assert_eq!(info.size, size);
        }
    }
}

/// What the stage decodes itself; there is no helper, so everything else is refused.
pub(super) fn plain(bytes: &[u8]) {
    static INSIDE: LazyLock<Decoders> = LazyLock::new(|| {
        Decoders::new(DecoderSettings {
            limits: LIMITS,
            ..DecoderSettings::default()
        })
    });
    let mut pixels = vec![0; PIXELS];
    let _ = INSIDE.decode_into(bytes, &preprocessing(bytes), &mut pixels);
}

/// The whole door, with a helper: whatever the bytes, it neither dies of them nor takes more memory
/// than its cap. The helper is the program `tagstream` of this build, or the one that
/// `TAGSTREAM_FUZZ_HELPER` names.
pub(super) fn decoders(bytes: &[u8]) {
    static DOOR: LazyLock<Decoders> = LazyLock::new(|| {
        let program = option_env!("CARGO_BIN_EXE_tagstream").map(Into::into);
        let named = std::env::var_os("TAGSTREAM_FUZZ_HELPER").map(Into::into);
        Decoders::new(DecoderSettings {
            limits: LIMITS,
            timeout: Duration::from_secs(5),
            helpers: 1,
            program: named.or(program),
        })
    });
    let mut pixels = vec![0; PIXELS];
    match DOOR.decode_into(bytes, &preprocessing(bytes), &mut pixels) {
        Ok(size) => assert!(u64::from(size.width) * u64::from(size.height) <= LIMITS.max_pixels),
        Err(DecodeError::Died { cause }) => panic!("the helper died: {cause}"),
        Err(error) => assert_ne!(error.fault(), DecodeFault::NoDecoder, "{error}"),
    }
    for helper in DOOR.helpers() {
        let status = std::fs::read_to_string(format!("/proc/{helper}/status")).unwrap_or_default();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let most = most.and_then(|kb| kb.trim().trim_end_matches(" kB").parse::<u64>().ok());
        assert!(
            most.is_none_or(|kb| kb <= HELPER_KB),
            "the helper held {most:?} kB"
        );
    }
}

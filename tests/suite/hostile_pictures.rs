//! What hostile pictures cost: the memory and the time of the helper that decodes them, against the
//! caps; and what becomes of the next picture.

use crate::common::hostile::{Hostile, all, png_of, tiff_of_wide_tiles};
use crate::common::pictures::encoded;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tagstream_image::decode::{DecodeError, DecodeLimits, ImageSize};
use tagstream_image::decoders::{DecoderSettings, Decoders};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

const SIDE: usize = 32;
const MIB: u64 = 1 << 20;

fn preprocessing() -> Preprocessing {
    Preprocessing {
        height: SIDE,
        width: SIDE,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    }
}

/// As the example has it: one megapixel, 32 MiB.
fn strict() -> DecoderSettings {
    DecoderSettings {
        limits: DecodeLimits {
            max_pixels: 1_000_000,
            max_alloc_bytes: 32 * MIB,
            max_damaged_percent: 50,
            ..DecodeLimits::default()
        },
        helpers: 1,
        program: Some(env!("CARGO_BIN_EXE_tagstream").into()),
        ..DecoderSettings::default()
    }
}

fn decoded(decoders: &Decoders, bytes: &[u8]) -> Result<ImageSize, DecodeError> {
    let mut pixels = vec![0; SIDE * SIDE * 3];
    decoders.decode_into(bytes, &preprocessing(), &mut pixels)
}

/// A line of a process's status, in kB.
fn status_kb(process: u32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(line))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Runs `work` and returns what it returned, and the most memory that each of the helpers had.
fn measured<T>(decoders: &Decoders, work: impl FnOnce() -> T) -> (T, BTreeMap<u32, u64>) {
    let most = Mutex::new(BTreeMap::new());
    let over = AtomicBool::new(false);
    let look = || {
        for process in decoders.helpers() {
            if let Some(kb) = status_kb(process, "VmHWM") {
                most.lock().unwrap().insert(process, kb << 10);
            }
        }
    };
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                look();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = work();
        look();
        over.store(true, Ordering::Relaxed);
        result
    });
    (result, most.into_inner().unwrap())
}

#[test]
fn no_hostile_picture_takes_more_memory_than_its_cap() {
    let decoders = Decoders::new(strict());
    let good = encoded(64, image::ImageFormat::Png);
    let mut said = Vec::new();
    let (_, most) = measured(&decoders, || {
        for Hostile { name, bytes } in all() {
            let result = decoded(&decoders, &bytes);
            said.push(format!("{name} ({} bytes): {result:?}", bytes.len()));
            if let Ok(size) = result {
                assert!(
                    u64::from(size.width) * u64::from(size.height) <= 1_000_000,
                    "{name}"
                );
            }
            // Whatever became of it, the next picture is decoded.
            let size = ImageSize {
                width: 64,
                height: 64,
            };
            assert_eq!(decoded(&decoders, &good), Ok(size), "after {name}");
        }
    });
    println!("{}\n{most:?}", said.join("\n"));
    assert!(!most.is_empty());
    let cap = 48 * MIB;
    assert!(most.values().all(|&bytes| bytes <= cap), "{most:?}");
}

/// Every tile stays within the cap on memory; all of them together would take minutes.
#[test]
fn a_picture_of_many_small_costs_ends_by_the_cap_on_time() {
    let decoders = Decoders::new(DecoderSettings {
        timeout: Duration::from_secs(1),
        ..strict()
    });
    let tiles = tiff_of_wide_tiles(12_000);
    let (result, most) = measured(&decoders, || decoded(&decoders, &tiles));
    match result.unwrap_err() {
        DecodeError::TooMuchTime { timeout_ms: 1_000 } => (),
        // On a machine so busy that the helper got next to no time.
        DecodeError::Unavailable { reason } => assert!(reason.contains("ran for"), "{reason}"),
        other => panic!("{other}"),
    }
    assert!(most.values().all(|&bytes| bytes <= 48 * MIB), "{most:?}");
}

/// An AVIF of one colour: few bytes, and planes of 18 MB beside pixels of 36 MB.
#[test]
fn an_avif_of_12_megapixels_is_decoded_within_what_was_reckoned() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/heif/12-megapixels.avif"
    );
    let bytes = std::fs::read(path).unwrap();
    let allowing = |max_alloc_bytes| {
        Decoders::new(DecoderSettings {
            limits: DecodeLimits {
                max_alloc_bytes,
                ..DecodeLimits::default()
            },
            timeout: Duration::from_secs(120),
            ..strict()
        })
    };
    let error = decoded(&Decoders::new(strict()), &bytes).unwrap_err();
    assert!(
        matches!(error, DecodeError::TooManyPixels { .. }),
        "{error}"
    );
    let error = decoded(&allowing(62 * MIB), &bytes).unwrap_err();
    assert!(
        matches!(error, DecodeError::TooMuchMemory { .. }),
        "{error}"
    );
    // What was reckoned is enough: the kernel, too, gives no more.
    let decoders = allowing(68 * MIB);
    let (result, most) = measured(&decoders, || decoded(&decoders, &bytes));
    assert_eq!(
        result.map(|size| (size.width, size.height)),
        Ok((4_000, 3_000))
    );
    println!("{most:?}");
    assert!(most.values().any(|&bytes| bytes > 50 * MIB), "{most:?}");
    assert!(most.values().all(|&bytes| bytes <= 84 * MIB), "{most:?}");
}

/// HEIC and JPEG XL of one colour: what was reckoned is enough, and less is refused.
#[test]
fn heic_and_jpeg_xl_of_12_megapixels_are_decoded_within_what_was_reckoned() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/heif");
    for (name, too_little, enough) in [
        ("12-megapixels.heic", 130 * MIB, 150 * MIB),
        ("12-megapixels.jxl", 150 * MIB, 640 * MIB),
    ] {
        let bytes = std::fs::read(format!("{folder}/{name}")).unwrap();
        let allowing = |max_alloc_bytes| {
            Decoders::new(DecoderSettings {
                limits: DecodeLimits {
                    max_alloc_bytes,
                    ..DecodeLimits::default()
                },
                timeout: Duration::from_secs(120),
                ..strict()
            })
        };
        let error = decoded(&allowing(too_little), &bytes).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooMuchMemory { .. }),
            "{name}: {error}"
        );
        let decoders = allowing(enough);
        let (result, most) = measured(&decoders, || decoded(&decoders, &bytes));
        assert_eq!(
            result.map(|size| (size.width, size.height)),
            Ok((4_000, 3_000)),
            "{name}"
        );
        println!("{name}: {most:?}");
        assert!(
            most.values().all(|&bytes| bytes <= enough + 16 * MIB),
            "{most:?}"
        );
    }
}

/// What the runbook's formula reckons for a picture, with the caps as they are by default.
#[test]
fn a_valid_picture_of_63_megapixels_is_decoded_within_the_formula() {
    let decoders = Decoders::new(DecoderSettings {
        limits: DecodeLimits::default(),
        timeout: Duration::from_secs(120),
        ..strict()
    });
    let picture = png_of(9_000, 7_000, 2, &[]);
    let (result, most) = measured(&decoders, || decoded(&decoders, &picture));
    let size = ImageSize {
        width: 9_000,
        height: 7_000,
    };
    assert_eq!(result, Ok(size));
    let cap = decoders.settings().limits.max_alloc_bytes + 16 * MIB;
    println!(
        "{} MiB of {}",
        most.values().max().unwrap() / MIB,
        cap / MIB
    );
    // The picture's own pixels take 180 MiB: this is not a test of an idle helper.
    assert!(most.values().any(|&bytes| bytes > 180 * MIB), "{most:?}");
    assert!(most.values().all(|&bytes| bytes <= cap), "{most:?}");
    // What it took is given back.
    let now = status_kb(decoders.helpers()[0], "VmRSS").unwrap() << 10;
    assert!(now < 40 * MIB, "{now} bytes are still taken");
}

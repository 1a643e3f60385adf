#![allow(
    clippy::disallowed_methods,
    reason = "what the decoders are, without the helper's process around them"
)]

mod photographs;

use super::*;
use crate::preprocessing::{Filter, Fit};
use image::ImageFormat;

fn preprocessing(side: usize) -> Preprocessing {
    Preprocessing {
        height: side,
        width: side,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    }
}

fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 7) as u8, (y * 11) as u8, (x ^ y) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decoded(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageSize, DecodeError> {
    decode_into(bytes, &preprocessing(8), limits, &mut [0; 8 * 8 * 3])
}

#[test]
fn a_file_that_ends_early_is_an_error_in_every_format() {
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ] {
        let whole = encoded(64, 48, format);
        assert_eq!(
            decoded(&whole, &DecodeLimits::default()),
            Ok(ImageSize {
                width: 64,
                height: 48
            })
        );
        for part in [whole.len() / 2, whole.len() * 3 / 4, 20] {
            let error = decoded(&whole[..part], &DecodeLimits::default()).unwrap_err();
            assert_eq!(
                error.fault(),
                DecodeFault::Damaged,
                "{format:?} cut to {part} bytes: {error}"
            );
        }
    }
}

#[test]
fn what_is_no_image_is_named_by_its_kind_and_not_by_its_bytes() {
    for (bytes, says) in [
        (&b"<!DOCTYPE html><html>"[..], "HTML"),
        (b"  <html><body>404</body></html>", "HTML"),
        (b"<?xml version=\"1.0\"?><svg/>", "SVG"),
        (b"{\"error\":\"no such key\"}", "JSON"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\x01\0\x01\0", "ICO"),
        (b"\x7fELF\x02\x01", "like no file known here"),
        (b"hunter2", "like no file known here"),
    ] {
        let error = decoded(bytes, &DecodeLimits::default()).unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Unsupported, "{error}");
        let said = error.to_string();
        assert!(said.contains(says), "{said}");
        assert!(!said.contains("7f 45") && !said.contains("hunter") && !said.contains("68 75"));
    }
    assert_eq!(
        decoded(b"", &DecodeLimits::default()),
        Err(DecodeError::Empty)
    );
}

#[test]
fn declared_sizes_are_checked_before_decoding() {
    let limits = DecodeLimits {
        max_pixels: 64 * 48 - 1,
        ..DecodeLimits::default()
    };
    let little_memory = DecodeLimits {
        max_alloc_bytes: 8 * 8 * 3,
        ..DecodeLimits::default()
    };
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ] {
        let whole = encoded(64, 48, format);
        let error = decoded(&whole, &limits).unwrap_err();
        assert!(
            matches!(
                error,
                DecodeError::TooManyPixels {
                    width: 64,
                    height: 48,
                    ..
                }
            ),
            "{format:?}: {error}"
        );
        let error = decode_rgb(&whole, &little_memory).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooMuchMemory { .. }),
            "{format:?}: {error}"
        );
    }
}

#[test]
fn the_header_has_format_and_size() {
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif] {
        let info = probe(&encoded(64, 48, format), &DecodeLimits::default()).unwrap();
        assert_eq!(
            info.format,
            format.extensions_str()[0].replace("jpg", "jpeg")
        );
        assert_eq!((info.size.width, info.size.height), (64, 48));
        assert_eq!(info.orientation, Orientation::Upright);
    }
}

/// One line of tests/fixtures/decode/cases.json, written by scripts/make_decode_goldens.py.
#[derive(serde::Deserialize)]
struct Case {
    file: String,
    reference: String,
    width: u32,
    height: u32,
    side: usize,
    fit: Fit,
    filter: Filter,
    mean_tolerance: f64,
    largest_tolerance: u8,
}

/// The data of a NumPy file of uint8 in C order.
fn numpy_bytes(file: &[u8]) -> &[u8] {
    assert!(file.starts_with(b"\x93NUMPY\x01\x00"));
    let header = usize::from(u16::from_le_bytes([file[8], file[9]]));
    let text = std::str::from_utf8(&file[10..10 + header]).unwrap();
    assert!(text.contains("'|u1'") && text.contains("'fortran_order': False"));
    &file[10 + header..]
}

#[test]
fn pictures_equal_what_pillow_makes_of_them() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/decode");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&read("cases.json")).unwrap();
    assert!(cases.len() >= 40);
    let mut failures = Vec::new();
    for case in cases {
        let preprocessing = Preprocessing {
            height: case.side,
            width: case.side,
            fit: case.fit,
            filter: case.filter,
        };
        let file = read(&case.file);
        let mut pixels = vec![0; case.side * case.side * 3];
        let size = decode_into(&file, &preprocessing, &DecodeLimits::default(), &mut pixels)
            .unwrap_or_else(|e| panic!("{}: {e}", case.file));
        assert_eq!(
            (size.width, size.height),
            (case.width, case.height),
            "{}",
            case.file
        );
        let reference = read(&case.reference);
        let reference = numpy_bytes(&reference);
        assert_eq!(reference.len(), pixels.len());
        let differences = || pixels.iter().zip(reference).map(|(a, b)| a.abs_diff(*b));
        let mean = differences().map(f64::from).sum::<f64>() / pixels.len() as f64;
        let largest = differences().max().unwrap();
        println!("{:60} mean {mean:.3} largest {largest}", case.reference);
        if mean > case.mean_tolerance || largest > case.largest_tolerance {
            failures.push(format!(
                "{}: mean {mean:.3} (at most {}), largest {largest} (at most {})",
                case.reference, case.mean_tolerance, case.largest_tolerance
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_jpeg_without_a_frame_is_not_taken_for_the_one_before_it() {
    let whole = encoded(64, 48, ImageFormat::Jpeg);
    decoded(&whole, &DecodeLimits::default()).unwrap();
    for part in [
        &whole[..20],
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\0\x02\xff\xd9",
    ] {
        let error = decoded(part, &DecodeLimits::default()).unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Damaged, "{error}");
        assert!(probe(part, &DecodeLimits::default()).is_err());
    }
}

#[test]
fn a_jpeg_is_reduced_only_where_the_model_does_not_need_it() {
    // The reduced picture must not shift: an off-by-one in the geometry shows at the edges of this
    // one.
    let picture = image::RgbImage::from_fn(657, 493, |x, _| {
        let side = if x < 328 { 30 } else { 220 };
        image::Rgb([side, side, 255 - side])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(
            &mut bytes, 95,
        ))
        .unwrap();
    let bytes = bytes.into_inner();
    let mut reduced = vec![0; 32 * 32 * 3];
    decode_into(
        &bytes,
        &preprocessing(32),
        &DecodeLimits::default(),
        &mut reduced,
    )
    .unwrap();
    let full = decode_rgb(&bytes, &DecodeLimits::default()).unwrap();
    assert_eq!(full.dimensions(), (657, 493));
    let mut reference = vec![0; 32 * 32 * 3];
    fit_rgb(&full, &preprocessing(32), &mut reference);
    let mean = reduced
        .iter()
        .zip(&reference)
        .map(|(a, b)| f64::from(a.abs_diff(*b)))
        .sum::<f64>()
        / reduced.len() as f64;
    assert!(mean < 1.0, "{mean}");
}

#[test]
fn a_broken_header_does_not_spoil_the_next_picture() {
    let whole = encoded(64, 48, ImageFormat::Jpeg);
    let mut expected = vec![0; 8 * 8 * 3];
    let mut got = expected.clone();
    let limits = DecodeLimits::default();
    decode_into(&whole, &preprocessing(8), &limits, &mut expected).unwrap();
    let scan = whole.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    for cut in 2..scan {
        let mut broken = whole[..cut].to_vec();
        // A segment of impossible length: libjpeg stops in the middle of the header.
        broken.extend_from_slice(&[0xff, 0xdb, 0, 0]);
        assert!(decoded(&broken, &limits).is_err(), "cut at {cut}");
        assert!(probe(&broken, &limits).is_err(), "cut at {cut}");
        decode_into(&whole, &preprocessing(8), &limits, &mut got)
            .unwrap_or_else(|e| panic!("after a header cut at {cut}: {e}"));
        assert_eq!(got, expected, "after a header cut at {cut}");
    }
}

/// Flips, copies, cuts and overwrites bytes: a fixed sample of what the fuzzer does at length.
/// `TAGSTREAM_MUTATIONS` makes more of it.
#[test]
fn mutated_pictures_give_pixels_or_an_error_and_never_a_panic() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let rounds: u64 = std::env::var("TAGSTREAM_MUTATIONS")
        .map(|n| n.parse().unwrap())
        .unwrap_or(40);
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/decode");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            !matches!(
                path.extension().and_then(|e| e.to_str()),
                Some("npy" | "json")
            )
        })
        .collect();
    names.sort();
    let limits = DecodeLimits {
        max_pixels: 1 << 20,
        max_alloc_bytes: 32 << 20,
        max_damaged_percent: 50,
        own_jpeg_reader: true,
    };
    let mut decoded_anyway = 0;
    for path in &names {
        let whole = std::fs::read(path).unwrap();
        for seed in 0..rounds {
            let mut random = StdRng::seed_from_u64(seed);
            let mut bytes = whole.clone();
            // Headers are short and matter most, so every second change falls into the first bytes.
            for _ in 0..random.random_range(1..8) {
                let end = if random.random_bool(0.5) {
                    bytes.len().min(200)
                } else {
                    bytes.len()
                };
                let at = random.random_range(0..end.max(1));
                match random.random_range(0..5) {
                    0 => bytes[at] ^= 1 << random.random_range(0..8),
                    1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
                    2 => bytes[at] = random.random(),
                    3 if bytes.len() > 16 => bytes.truncate(at.max(8)),
                    _ => {
                        let from = random.random_range(0..bytes.len());
                        let len = random.random_range(0..32.min(bytes.len() - from.max(at)).max(1));
                        bytes.copy_within(from..from + len, at);
                    }
                }
            }
            match decode_into(&bytes, &preprocessing(16), &limits, &mut [0; 16 * 16 * 3]) {
                Ok(size) => {
                    decoded_anyway += 1;
                    assert!(u64::from(size.width) * u64::from(size.height) <= limits.max_pixels);
                }
                Err(error) => assert!(
                    !error.to_string().contains("panicked"),
                    "{}, seed {seed}: {error}",
                    path.display()
                ),
            }
        }
    }
    assert!(names.len() >= 30 && decoded_anyway > 0);
}

/// A PNG of 16 x 16 pixels, all of colour 0, with a palette of so many bytes.
fn indexed_png(palette: usize) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(kind);
        bytes.extend(data);
        bytes.extend(crc.sum().to_be_bytes());
    };
    chunk(b"IHDR", &[0, 0, 0, 16, 0, 0, 0, 16, 8, 3, 0, 0, 0]);
    chunk(b"PLTE", &vec![7; palette]);
    let mut rows = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut rows, &[0; 16 * 17]).unwrap();
    chunk(b"IDAT", &rows.finish().unwrap());
    chunk(b"IEND", b"");
    bytes
}

#[test]
fn a_palette_that_is_no_whole_colours_is_refused_without_a_panic() {
    let limits = DecodeLimits::default();
    for good in [3, 9, 768] {
        let picture = decode_rgb(&indexed_png(good), &limits).unwrap();
        assert_eq!(picture.get_pixel(15, 15).0, [7; 3], "{good} bytes");
    }
    for bad in [0, 1, 8, 200, 769, 771, 900] {
        let error = decoded(&indexed_png(bad), &limits).unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Damaged);
        let text = error.to_string();
        assert!(
            text.contains(&format!("its palette has {bad} bytes")),
            "{text}"
        );
    }
}

/// What a process decodes itself is decoded as the helper would; what is not plain is left to it.
#[test]
fn plain_jpegs_alone_are_decoded_without_a_helper() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/decode");
    let limits = DecodeLimits::default();
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".npy") || name.ends_with(".json") {
            continue;
        }
        let file = std::fs::read(&path).unwrap();
        for side in [8, 64, 224] {
            let preprocessing = preprocessing(side);
            let mut pixels = vec![0; side * side * 3];
            let mut reference = pixels.clone();
            let here = decode_plain_into(&file, &preprocessing, &limits, &mut pixels);
            let whole = decode_plain_rgb(&file, &limits);
            assert_eq!(here.is_some(), whole.is_some(), "{name}");
            let Some(here) = here else {
                outside.push(name.clone());
                continue;
            };
            inside.push(name.clone());
            let there = decode_into(&file, &preprocessing, &limits, &mut reference);
            let here = here.map(|plain| plain.size);
            assert_eq!((here, &pixels), (there, &reference), "{name} to {side}");
            assert_eq!(whole.unwrap(), decode_rgb(&file, &limits), "{name}");
        }
    }
    let has = |list: &[String], part: &str| list.iter().any(|name| name.contains(part));
    assert!(
        inside.iter().all(|name| name.ends_with(".jpg")),
        "{inside:?}"
    );
    for part in [
        "progressive",
        "cmyk",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tiff",
    ] {
        assert!(
            has(&outside, part) && !has(&inside, part),
            "{part}: {outside:?}"
        );
    }
    for part in ["grey", "restarts", "orientation", "422"] {
        assert!(has(&inside, part), "{part}: {inside:?}");
    }
}

/// One column of 60 million rows: the pixels are few, resampling them is not.
#[test]
fn what_resampling_takes_is_checked_too() {
    let thin = ImageSize {
        width: 1,
        height: 60_000_000,
    };
    let target = ImageSize {
        width: 224,
        height: 224,
    };
    let limits = DecodeLimits::default();
    assert!(limits.check_pixels(thin).is_ok());
    assert!(
        limits
            .check_alloc(resize::working_bytes(thin, target))
            .is_err()
    );
    let usual = ImageSize {
        width: 9_000,
        height: 7_000,
    };
    assert!(resize::working_bytes(usual, target) < 16 << 20);
    // In a file: a PNG of 1 x 100,000 pixels under a cap that its pixels do not reach.
    let file = encoded(1, 100_000, ImageFormat::Png);
    let small = DecodeLimits {
        max_alloc_bytes: 2 << 20,
        ..limits
    };
    assert!(matches!(
        decoded(&file, &small),
        Err(DecodeError::TooMuchMemory { .. })
    ));
    assert!(decoded(&file, &limits).is_ok());
}

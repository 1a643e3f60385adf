//! Containers that contradict themselves, and what a picture may cost. Pixels are compared with
//! Pillow's in `decode::tests::photographs`.

#![allow(
    clippy::disallowed_methods,
    reason = "what the decoder is, without the helper's process around it"
)]

use super::super::{decode_rgb, probe};
use super::*;
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    std::fs::read(root.join("tests/fixtures/photographs").join(name)).unwrap()
}

/// The offset of the first content of a box of this kind.
fn at(bytes: &[u8], kind: &[u8; 4]) -> usize {
    bytes.windows(4).position(|four| four == kind).unwrap() + 4
}

fn refused(bytes: &[u8]) -> String {
    decode_rgb(bytes, &DecodeLimits::default())
        .unwrap_err()
        .to_string()
}

fn put(bytes: &mut [u8], offset: usize, number: u32) {
    bytes[offset..offset + 4].copy_from_slice(&number.to_be_bytes());
}

#[test]
fn what_a_file_claims_is_checked_before_anything_is_decoded() {
    // A size beyond the limits.
    let mut file = fixture("avif");
    let size = at(&file, b"ispe") + 4;
    put(&mut file, size, 60_000);
    put(&mut file, size + 4, 60_000);
    let error = decode_rgb(&file, &DecodeLimits::default()).unwrap_err();
    assert!(
        matches!(error, DecodeError::TooManyPixels { width: 60_000, .. }),
        "{error}"
    );
    assert!(probe(&file, &DecodeLimits::default()).is_err());
    // One that its coded picture does not have, larger and smaller, and none.
    for (width, says) in [
        (41, "not of the size"),
        (8, "not of the size"),
        (0, "how large"),
    ] {
        put(&mut file, size, width);
        put(&mut file, size + 4, 28);
        let said = refused(&file);
        assert!(
            said.contains("damaged avif") && said.contains(says),
            "{said}"
        );
    }
    // A grid that says another size than its parts make, or has another number of them.
    let mut file = fixture("avif-grid");
    let layout = at(&file, b"idat");
    file[layout + 3] = 2;
    assert!(
        refused(&file).contains("not as many parts"),
        "{}",
        refused(&file)
    );
    file[layout + 3] = 1;
    file[layout + 5] = 120;
    assert!(
        refused(&file).contains("not of the size"),
        "{}",
        refused(&file)
    );
    let size = at(&file, b"ispe") + 4;
    put(&mut file, size, 140);
    file[layout + 5] = 140;
    assert!(
        refused(&file).contains("do not make its size"),
        "{}",
        refused(&file)
    );
}

#[test]
fn what_is_sound_and_not_read_is_named() {
    let mut file = fixture("avif");
    let meta = at(&file, b"meta") - 4;
    file[meta..meta + 4].copy_from_slice(b"mini");
    assert!(
        refused(&file).contains("short form (mini)"),
        "{}",
        refused(&file)
    );
    for (from, to, says) in [
        (&b"av01"[..], &b"j2k1"[..], "a picture of the kind j2k1"),
        (
            b"nclx\0\x01\0\x0d\0\x06",
            b"nclx\0\x01\0\x0d\0\x0e",
            "coefficients 14",
        ),
    ] {
        let mut file = fixture("avif");
        let at = file.windows(from.len()).position(|some| some == from);
        let at = at.unwrap_or_else(|| panic!("there is no {from:?}"));
        file[at..at + to.len()].copy_from_slice(to);
        let error = decode_rgb(&file, &DecodeLimits::default()).unwrap_err();
        assert!(
            matches!(error, DecodeError::UnsupportedFeature { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn places_that_are_not_there_are_damage() {
    let whole = fixture("avif");
    let entry = at(&whole, b"iloc") + 14;
    let mut file = whole.clone();
    put(&mut file, entry, u32::MAX - 9);
    assert!(refused(&file).contains("ends early"), "{}", refused(&file));
    let mut file = whole.clone();
    put(&mut file, entry + 4, 20_000);
    assert!(refused(&file).contains("ends early"), "{}", refused(&file));
    // Sizes of offsets that nothing has; and very many parts of no bytes.
    let mut file = whole.clone();
    file[entry - 10] = 0xf4;
    assert!(refused(&file).contains("of no size"), "{}", refused(&file));
    let mut file = whole.clone();
    file[entry - 10] = 0;
    file[entry - 2] = 0xff;
    assert!(
        refused(&file).contains("have no place"),
        "{}",
        refused(&file)
    );
    // A box that is shorter than its own beginning.
    let mut file = whole;
    let meta = at(&file, b"meta") - 8;
    put(&mut file, meta, 3);
    assert!(
        refused(&file).contains("shorter than"),
        "{}",
        refused(&file)
    );
}

#[test]
fn memory_is_reckoned_before_it_is_taken() {
    // RGB of 3 bytes a pixel and 1 for working; planes of 1.5, with sides that are rounded up; what
    // the decoder takes whatever the size.
    let bytes = fixture("avif");
    let items = Items::of(&bytes).unwrap();
    let coded = items.data(items.primary).unwrap().len() as u64;
    let whole = 40 * 28 * (3 + 1) + 128 * 128 * 3 / 2 + coded + (2 << 20);
    let allowing = |max_alloc_bytes| DecodeLimits {
        max_alloc_bytes,
        ..DecodeLimits::default()
    };
    assert!(decode_rgb(&bytes, &allowing(whole)).is_ok());
    let error = decode_rgb(&bytes, &allowing(whole - 1)).unwrap_err();
    assert!(
        matches!(error, DecodeError::TooMuchMemory { .. }),
        "{error}"
    );
}

#[test]
fn no_byte_that_is_changed_does_more_than_refuse() {
    let limits = DecodeLimits {
        max_pixels: 100_000,
        ..DecodeLimits::default()
    };
    for name in ["avif", "avif-grid", "avif-premultiplied"] {
        let whole = fixture(name);
        // The container, and some of what is coded.
        let container = at(&whole, b"mdat");
        for offset in (0..container).chain((container..whole.len()).step_by(7)) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut file = whole.clone();
                file[offset] = value;
                if let Err(error) = decode_rgb(&file, &limits) {
                    assert!(
                        !error.to_string().contains("panicked"),
                        "{name} {offset}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn colour_lies_between_samples_and_edges_repeat() {
    let rows = |y| colour_rows(y, 1, 3);
    assert_eq!(
        [rows(0), rows(1), rows(2), rows(5)],
        [[0, 0], [0, 1], [1, 0], [2, 2]]
    );
    assert_eq!(colour_rows(4, 0, 9), [4, 4]);
    let mut pixels = [100, 30, 250, 1, 2, 3];
    divide(&mut pixels, &[0.5, 0.0]);
    assert_eq!(pixels, [200, 60, 255, 0, 0, 0]);
}

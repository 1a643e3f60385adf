//! Features by the tiny model of `tests/fixtures/tiny-model`, with and without the cache.

#![allow(
    clippy::disallowed_methods,
    reason = "what the decoders are, without the helper's process around them"
)]

use super::super::worker::mirror;
use super::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use tagstream_core::config::Provider;
use tagstream_image::decode::{DecodeLimits, decode_into};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

/// Pictures in memory, counting how often each is read.
struct Pictures {
    files: BTreeMap<String, Vec<u8>>,
    reads: Mutex<usize>,
}

impl Pictures {
    fn new(count: u32) -> Self {
        let files = (0..count).map(|n| {
            // No 255: the tiny model refuses it, on purpose.
            let picture = image::RgbImage::from_fn(40, 30, |x, y| {
                image::Rgb([
                    ((x * 5 + n * 13) % 250) as u8,
                    (y * 8) as u8,
                    (((x + y) * 3 + n * 29) % 250) as u8,
                ])
            });
            let mut bytes = std::io::Cursor::new(Vec::new());
            picture
                .write_to(&mut bytes, image::ImageFormat::Jpeg)
                .unwrap();
            (format!("p{n}"), bytes.into_inner())
        });
        Self {
            files: files.collect(),
            reads: Mutex::new(0),
        }
    }

    fn ids(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }
}

impl ImageBytes for Pictures {
    fn read(&self, id: &str) -> Result<Bytes, ImageError> {
        *self.reads.lock().unwrap() += 1;
        match self.files.get(id) {
            Some(bytes) => Ok(bytes.clone().into()),
            None => Err(ImageError::NotFound {
                container: "memory".into(),
            }),
        }
    }

    /// The id is as good as the content here, and need not be read.
    fn identity(&self, id: &str) -> Result<super::super::Identity, ImageError> {
        match self.files.get(id) {
            Some(bytes) => Ok(super::super::Identity {
                key: Sha256::digest(bytes).into(),
                bytes: None,
            }),
            None => self.read(id).map(|_| unreachable!("it is not there")),
        }
    }
}

fn encoder() -> Encoder {
    let graph = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/tiny-model/encoder.onnx");
    Encoder::open(&graph, preprocessing(32), Provider::Cpu, 2).unwrap()
}

fn preprocessing(side: usize) -> Preprocessing {
    Preprocessing {
        height: side,
        width: side,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    }
}

fn run(extraction: &Extraction, pictures: &Pictures, ids: &[String]) -> (Vec<f32>, Vec<f32>) {
    let extracted = extraction.extract(&encoder(), pictures, ids).unwrap();
    assert!(extracted.left_out().is_empty());
    let store = extracted.features;
    assert_eq!(
        (store.len(), store.locations(), store.dim()),
        (ids.len(), 16, 4)
    );
    let rows: Vec<usize> = (0..store.len()).collect();
    (store.dense(&rows).unwrap(), store.global().to_vec())
}

#[test]
fn the_cache_gives_what_was_computed_without_reading_images() {
    let root = tempfile::tempdir().unwrap();
    let pictures = Pictures::new(37);
    let ids = pictures.ids();
    let cached = || Extraction {
        cache: Some(root.path().to_path_buf()),
        ..Extraction::default()
    };
    let without = Extraction {
        cache: None,
        ..Extraction::default()
    };
    let computed = run(&without, &pictures, &ids);
    assert_eq!(run(&cached(), &pictures, &ids), computed);
    let reads = *pictures.reads.lock().unwrap();
    let last = Mutex::new(None);
    let counting = Extraction {
        progress: &|progress| *last.lock().unwrap() = Some(progress),
        ..cached()
    };
    assert_eq!(run(&counting, &pictures, &ids), computed);
    assert_eq!(
        *pictures.reads.lock().unwrap(),
        reads,
        "nothing was read again"
    );
    assert_eq!(
        *last.lock().unwrap(),
        Some(ExtractionProgress {
            done: 37,
            total: 37,
            cached: 37
        })
    );

    // The order is the caller's, and repetitions are fine.
    let some = ["p9".to_owned(), "p2".to_owned(), "p9".to_owned()];
    let (dense, _) = run(&cached(), &pictures, &some);
    let at = |id: &str| ids.iter().position(|other| other == id).unwrap();
    for (row, id) in some.iter().enumerate() {
        assert_eq!(
            dense[row * 64..(row + 1) * 64],
            computed.0[at(id) * 64..(at(id) + 1) * 64]
        );
    }

    // More than the memory granted: batches come from the disk.
    let from_disk = Extraction {
        memory_limit: 0,
        ..cached()
    };
    assert_eq!(run(&from_disk, &pictures, &ids), computed);
}

#[test]
fn features_equal_the_session_s_own_up_to_half_precision() {
    let pictures = Pictures::new(3);
    let without = Extraction {
        cache: None,
        ..Extraction::default()
    };
    let (dense, global) = run(&without, &pictures, &pictures.ids());
    let mut session = encoder().session().unwrap();
    for (row, id) in pictures.ids().iter().enumerate() {
        let mut pixels = vec![0; 32 * 32 * 3];
        decode_into(
            &pictures.files[id],
            &preprocessing(32),
            &DecodeLimits::default(),
            &mut pixels,
        )
        .unwrap();
        let expected = session.encode(&pixels, 1).unwrap();
        for (found, expected) in dense[row * 64..].iter().zip(&expected.dense) {
            assert!(
                (found - expected).abs() <= expected.abs() * 1e-3 + 1e-6,
                "{found} {expected}"
            );
        }
        for (found, expected) in global[row * 4..].iter().zip(&expected.global) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}

#[test]
fn a_mirrored_image_is_another_one() {
    let root = tempfile::tempdir().unwrap();
    let pictures = Pictures::new(2);
    let ids = pictures.ids();
    let view = |mirror| Extraction {
        cache: Some(root.path().to_path_buf()),
        mirror,
        ..Extraction::default()
    };
    let (straight, _) = run(&view(false), &pictures, &ids);
    let (mirrored, _) = run(&view(true), &pictures, &ids);
    assert_ne!(straight, mirrored);
    assert_eq!(run(&view(true), &pictures, &ids).0, mirrored);
    assert_eq!(run(&view(false), &pictures, &ids).0, straight);

    let mut line = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    mirror(&mut line);
    assert_eq!(line, [7, 8, 9, 4, 5, 6, 1, 2, 3]);
}

#[test]
fn bad_images_are_named_or_left_out() {
    let mut pictures = Pictures::new(4);
    pictures.files.insert("p2".into(), b"no picture".to_vec());
    let mut ids = pictures.ids();
    ids.push("gone".into());
    let strict = Extraction {
        cache: None,
        ..Extraction::default()
    };
    let error = strict
        .extract(&encoder(), &pictures, &ids)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("2 of 5 images")
            && error.contains("p2 ")
            && error.contains("gone not found"),
        "{error}"
    );

    let lenient = Extraction {
        cache: None,
        skip_bad: true,
        ..Extraction::default()
    };
    let extracted = lenient.extract(&encoder(), &pictures, &ids).unwrap();
    let (store, skipped) = (extracted.features, extracted.skipped);
    assert_eq!(
        skipped.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
        ["p2", "gone"]
    );
    let good: Vec<String> = ["p0", "p1", "p3"].map(String::from).into();
    let (dense, _) = run(&strict, &pictures, &good);
    assert_eq!(store.dense(&[0, 1, 2]).unwrap(), dense);
    assert_eq!(store.global().len(), 12);

    let none: Vec<String> = vec!["gone".into()];
    assert!(
        lenient.extract(&encoder(), &pictures, &none).is_err(),
        "nothing is left"
    );
}

#[test]
fn an_encoder_of_another_size_is_refused() {
    let graph = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/tiny-model/encoder.onnx");
    let encoder = Encoder::open(&graph, preprocessing(64), Provider::Cpu, 1).unwrap();
    let pictures = Pictures::new(1);
    let error = Extraction::default()
        .extract(&encoder, &pictures, &pictures.ids())
        .unwrap_err();
    assert!(matches!(error, FeatureError::InputSize { .. }), "{error}");
}

/// Bytes of one picture's features in memory, and in the cache.
const IN_MEMORY: u64 = 2 * 16 * 4 + 4 * 4;
const IN_CACHE: u64 = IN_MEMORY + 32;

/// With three hours of encoding before it, what does not fit is said at once.
#[test]
fn what_has_no_room_is_said_before_anything_is_encoded() {
    let root = tempfile::tempdir().unwrap();
    let pictures = Pictures::new(30);
    let tight = Extraction {
        cache: Some(root.path().to_path_buf()),
        cache_limit: 12 * IN_CACHE,
        memory_limit: 0,
        ..Extraction::default()
    };
    let error = tight.extract(&encoder(), &pictures, &pictures.ids());
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            FeatureError::Room {
                images: 30,
                fit: 12,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(*pictures.reads.lock().unwrap(), 0);
    assert!(error.to_string().contains("--cache-limit-gib"), "{error}");
}

#[test]
fn a_ranking_says_which_images_have_room() {
    let root = tempfile::tempdir().unwrap();
    let pictures = Pictures::new(30);
    let ids = pictures.ids();
    let whole = Extraction {
        cache: None,
        ..Extraction::default()
    };
    let all = run(&whole, &pictures, &ids);
    // The last ones teach most.
    let ranking = || (0..30).rev().collect::<Vec<usize>>();
    let chosen = |cache_images: u64, memory_limit: u64| {
        let tight = Extraction {
            cache: Some(root.path().to_path_buf()),
            cache_limit: cache_images * IN_CACHE,
            memory_limit,
            ranking: Some(&ranking),
            ..Extraction::default()
        };
        let extracted = tight.extract(&encoder(), &pictures, &ids).unwrap();
        let kept = extracted.features.len();
        assert_eq!(extracted.without_room, (0..30 - kept).collect::<Vec<_>>());
        let rows: Vec<usize> = (0..kept).collect();
        assert_eq!(
            extracted.features.dense(&rows).unwrap(),
            all.0[(30 - kept) * 64..]
        );
        assert_eq!(extracted.features.global(), &all.1[(30 - kept) * 4..]);
        kept
    };
    // On the disk, where the global features alone are in memory.
    assert_eq!(chosen(12, 30 * 16), 12);
    // What the cache has already takes no room.
    assert_eq!(chosen(15, 30 * 16), 15);
    // Global features are memory, too.
    assert_eq!(chosen(15, 5 * 16), 5);
    // Memory holds more than the disk.
    assert_eq!(chosen(15, 20 * IN_MEMORY), 20);
    assert_eq!(chosen(15, 30 * IN_MEMORY), 30);

    let nothing = Extraction {
        cache: None,
        memory_limit: IN_MEMORY - 1,
        ranking: Some(&ranking),
        ..Extraction::default()
    };
    let error = nothing.extract(&encoder(), &pictures, &ids).unwrap_err();
    assert!(
        matches!(error, FeatureError::Room { fit: 0, .. }),
        "{error}"
    );
}

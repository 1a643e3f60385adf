//! What sessions on a GPU do differently, on the processor as far as that goes: with its allocator
//! in place of page-locked memory, and with inputs and outputs bound. What needs a GPU is in
//! tests/suite/gpu.rs.

use super::*;
use super::{fixture, open, picture};
use crate::clip::vision::{Precision, PreprocessorFile, Tower, TowerOptions, VisionConfig};
use crate::clip::weights::WeightFiles;
use crate::session::binding::{Outputs, RunMode};
use crate::session::graph::{Graph, GraphSource};
use crate::session::pixels::HostMemory;
use ort::memory::{Allocator, MemoryInfo};

/// As on a GPU, with the host's memory in both roles.
fn bound() -> RunMode {
    RunMode::Bound {
        device: MemoryInfo::default(),
        host: MemoryInfo::default(),
    }
}

#[test]
fn bound_runs_say_the_same_and_leave_features_for_the_head() {
    let runtime = Runtime::load().unwrap();
    let (mut encoder, mut head) = open(&runtime);
    let pixels = [picture([250, 20, 20]), picture([20, 20, 250])].concat();
    let encoded = encoder.encode(&pixels, 2).unwrap();
    let features = encoder.features(&pixels, 2).unwrap();
    let scored = head.score(&features, true).unwrap();

    (encoder.mode, head.mode) = (bound(), bound());
    assert_eq!(encoder.encode(&pixels, 2).unwrap(), encoded);
    let features = encoder.features(&pixels, 2).unwrap();
    assert_eq!(head.score(&features, true).unwrap(), scored);
    // From the host's memory, as a new head is tried.
    assert_eq!(head.score_encoded(&encoded, true).unwrap(), scored);
    // A batch that fails leaves a session that works.
    let mut poison = picture([250, 20, 20]);
    poison[0] = 255;
    assert!(matches!(
        encoder.encode(&poison, 1),
        Err(SessionError::Run { .. })
    ));
    assert_eq!(encoder.encode(&pixels, 2).unwrap(), encoded);
}

#[test]
fn images_in_an_allocators_memory_are_read_where_they_are() {
    let runtime = Runtime::load().unwrap();
    let (mut encoder, _) = open(&runtime);
    let images = [picture([250, 20, 20]), picture([20, 20, 250])];
    let expected = encoder.encode(&images.concat(), 2).unwrap();
    let image = encoder.shape().image_bytes();
    for mode in [RunMode::Processor, bound()] {
        encoder.mode = mode;
        let mut buffer = PixelBuffer::allocated(&Allocator::default(), 3 * image).unwrap();
        let mut pieces: Vec<_> = (0..3).map(|_| buffer.split_to(image)).collect();
        for (piece, image) in pieces.iter_mut().zip(&images) {
            piece.copy_from_slice(image);
        }
        let mut buffer = pieces.remove(0);
        pieces.into_iter().for_each(|piece| buffer.unsplit(piece));
        let found = encoder.encode(buffer.part(0..2 * image), 2).unwrap();
        assert_eq!(found, expected);
        let second = encoder.encode(buffer.part(image..2 * image), 1).unwrap();
        assert_eq!(second.dense, expected.dense_of(1));
        // What does not divide into images is refused, not read.
        assert!(matches!(
            encoder.encode(&buffer, 2),
            Err(SessionError::Input { .. })
        ));
    }
}

#[test]
fn without_page_locked_memory_ordinary_memory_is_used() {
    let runtime = Runtime::load().unwrap();
    let (encoder, _) = open(&runtime);
    assert!(!encoder.memory().is_pinned());
    // A session that has no GPU is asked for what only a GPU's session has.
    let memory = HostMemory::of(&encoder.session, Device::Cuda(0));
    assert!(!memory.is_pinned());
    assert_eq!(format!("{:?}", memory.zeroed(4)), "PixelBuffer(heap, 0..4)");
    let mode = RunMode::of(Device::Cuda(0), &memory).unwrap();
    let RunMode::Bound { device, host } = mode else {
        panic!("a GPU's runs are bound");
    };
    assert!(!device.is_cpu_accessible() && host.is_cpu_accessible());
}

#[test]
fn outputs_that_stay_and_outputs_for_the_host_go_to_their_memories() {
    let runtime = Runtime::load().unwrap();
    let (mut encoder, _) = open(&runtime);
    let image = picture([250, 20, 20]);
    let input = Pixels::from(&image).copied([1, 32, 32, 3]).unwrap();
    // The device's memory is one that this session does not have, so that only outputs for the host
    // can be had.
    let mode = RunMode::Bound {
        device: crate::session::pixels::pinned(Device::Cuda(0))
            .unwrap()
            .unwrap(),
        host: MemoryInfo::default(),
    };
    let names = ["dense", "global"];
    let inputs = [("pixels", input.upcast_ref())];
    let session = &mut encoder.session;
    let found = mode.run(session, &inputs, &names, Outputs::ToHost);
    assert_eq!(found.unwrap().len(), 2);
}

#[test]
fn the_file_tells_the_inputs_shape_before_a_session_does() {
    let bytes = Bytes::from(fs::read(fixture("encoder.onnx")).unwrap());
    let graph = Graph::new(
        "tiny".into(),
        GraphSource::Memory(bytes.clone()),
        bytes,
        None,
    )
    .unwrap();
    let pixels = graph.declared("pixels").unwrap();
    assert_eq!(pixels, [None, Some(32), Some(32), Some(3)]);
    assert_eq!(graph.declared("dense"), None);
    assert!(!graph.half());
}

/// Small towers of one golden's weights, in both widths.
fn towers() -> [EncoderModel; 2] {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/towers/hugging_face");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let preprocessor = read("preprocessor_config.json");
    let preprocessor = [PreprocessorFile {
        name: "preprocessor_config.json",
        json: &preprocessor,
    }];
    let config = VisionConfig::hugging_face(&read("config.json"), &preprocessor).unwrap();
    let weights = WeightFiles::open(&[folder.join("model.safetensors")]).unwrap();
    [Precision::Fp32, Precision::Fp16].map(|precision| {
        let options = TowerOptions {
            precision,
            ..TowerOptions::default()
        };
        let tower = Tower::write(&config, &weights, options).unwrap();
        let runtime = Runtime::load().unwrap();
        EncoderModel::from_bytes(&runtime, format!("{precision:?}"), tower.onnx).unwrap()
    })
}

#[test]
fn an_encoder_of_16_bits_takes_bytes_and_gives_floats_that_point_the_same_way() {
    let runtime = Runtime::load().unwrap();
    let [wide, narrow] = towers();
    assert!(!wide.graph.half() && narrow.graph.half());
    let [mut wide, mut narrow] = [wide, narrow].map(|model| {
        let many = SessionOptions {
            many: true,
            ..SessionOptions::cpu()
        };
        model.open(&runtime, &many).unwrap()
    });
    assert_eq!(wide.shape(), narrow.shape());
    let image = wide.shape().image_bytes();
    let pixels: Vec<u8> = (0..2 * image).map(|i| (i * 7 % 251) as u8).collect();
    let (a, b) = (wide.encode(&pixels, 2), narrow.encode(&pixels, 2));
    let (a, b) = (a.unwrap(), b.unwrap());
    let cosine = |x: &[f32], y: &[f32]| {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
    };
    for (a, b) in [(&a.dense, &b.dense), (&a.global, &b.global)] {
        assert_ne!(a, b);
        for (x, y) in a
            .chunks_exact(wide.shape().dim)
            .zip(b.chunks_exact(wide.shape().dim))
        {
            assert!(cosine(x, y) >= 0.999, "{}", cosine(x, y));
        }
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
    let runtime = Runtime::load().unwrap();
    let [_, narrow] = towers();
    for device in [Device::Cuda(0), Device::Tensorrt(0)] {
        let options = SessionOptions {
            many: true,
            ..SessionOptions::on(device)
        };
        match narrow.open(&runtime, &options) {
            Err(SessionError::Open { device: named, .. }) => assert_eq!(named, device),
            Err(other) => panic!("another error: {other}"),
            // It is there.
            Ok(session) => assert_eq!(session.shape().height, 32),
        }
    }
}

#[test]
fn engines_are_kept_by_weights_and_library() {
    let runtime = Runtime::load().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = SessionOptions::on(Device::Tensorrt(0));
    assert!(
        options
            .engines(&runtime, &"a".repeat(64))
            .unwrap()
            .is_none()
    );
    options.engine_cache = Some(folder.path().join("engines"));
    let [a, b] = ["a", "b"].map(|hash| {
        let cache = options
            .engines(&runtime, &hash.repeat(64))
            .unwrap()
            .unwrap();
        assert!(cache.engines.is_dir() && cache.timings.is_dir());
        cache
    });
    assert_ne!(a.engines, b.engines);
    assert_eq!(a.timings, b.timings);
    assert!(
        a.engines
            .display()
            .to_string()
            .ends_with(&runtime.version())
    );

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    options.engine_cache = Some(file);
    let error = options.engines(&runtime, &"a".repeat(64)).unwrap_err();
    assert!(matches!(error, SessionError::EngineCache { .. }), "{error}");
}

//! The engine on the tiny model of `tests/fixtures/tiny-model` (its `make.py` says what it
//! computes).

use super::*;
use std::path::Path;
use tagstream_model::bundle::{BundleWriter, Draft};
use tagstream_model::tagger::BatchSizes;

fn fixture() -> Bundle {
    Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model")).unwrap()
}

/// One worker, and a delay that no test waits out: a batch ends because it is full, because the
/// worker has nothing to do, or because the test lets it (with `max_delay_ms` 0).
fn config(max_batch: usize, max_delay_ms: u64) -> ModelConfig {
    ModelConfig {
        workers: 1,
        max_batch,
        max_delay_ms,
        ..ModelConfig::default()
    }
}

const NEVER: u64 = 3_600_000;

fn paint(slot: &mut Slot, colour: [u8; 3]) {
    let pixels = slot.pixels_mut();
    pixels.fill(90);
    for y in 8..24 {
        for x in 16..32 {
            pixels[(y * 32 + x) * 3..][..3].copy_from_slice(&colour);
        }
    }
}

const RED: [u8; 3] = [250, 20, 20];
const BLUE: [u8; 3] = [20, 20, 250];

#[tokio::test]
async fn images_come_back_with_their_own_tags_boxes_and_vectors() {
    let engine = Engine::start(&config(2, NEVER), &fixture()).unwrap();
    let (mut a, mut b) = (engine.slot().await.unwrap(), engine.slot().await.unwrap());
    paint(&mut a, RED);
    paint(&mut b, BLUE);
    let (a, b) = tokio::join!(a.infer(), b.infer());
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.tags.len(), 1);
    assert_eq!((a.tags[0].category, b.tags[0].category), (0, 2));
    let found = a.tags[0].bounding_box();
    assert_eq!([found.x, found.y, found.w, found.h], [0.5, 0.25, 0.5, 0.5]);
    // logit 4.977 (see make.py), temperature 1.
    assert!(
        (a.tags[0].score - 0.99315).abs() < 1e-3,
        "{}",
        a.tags[0].score
    );
    assert_eq!(a.scores.len(), 3);
    assert_eq!(a.tags[0].region.as_ref().map(Vec::len), Some(4));
    let norm: f32 = a.embedding.iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5);
    assert_eq!(a.model.id(), fixture().id());
}

#[tokio::test]
async fn one_poison_image_kills_only_itself() {
    let engine = Engine::start(&config(4, NEVER), &fixture()).unwrap();
    let mut results = Vec::new();
    for i in 0..4 {
        let mut slot = engine.slot().await.unwrap();
        paint(&mut slot, if i == 3 { BLUE } else { RED });
        if i == 1 {
            slot.pixels_mut()[0] = 255;
        }
        results.push(tokio::spawn(slot.infer()));
    }
    let mut tags = Vec::new();
    for result in results {
        tags.push(result.await.unwrap().map(|r| r.tags[0].category));
    }
    let error = tags[1].as_ref().unwrap_err();
    assert_eq!(error.kind().as_str(), "inference");
    assert!(
        matches!(error, InferError::Image { reason } if reason.contains("Gather")),
        "{error}"
    );
    let rest: Vec<_> = [0, 2, 3].map(|i| tags[i].as_ref().unwrap()).into();
    assert_eq!(rest, [&0, &0, &2]);
}

#[tokio::test]
async fn every_run_of_a_batch_answers_its_own_images() {
    let engine = Engine::start(&config(16, NEVER), &fixture()).unwrap();
    let BatchSizes { run, batch } = engine.shared.serving().batch_sizes();
    assert!(batch >= 2 * run, "{batch} images in runs of {run}");
    // One image less than the batch holds, so that its last run is shorter; one of the second run
    // fails.
    let poison = run + 1;
    let mut results = Vec::new();
    for i in 0..batch {
        let mut slot = engine.slot().await.unwrap();
        if i == batch - 1 {
            break;
        }
        paint(&mut slot, if i % 3 == 0 { BLUE } else { RED });
        if i == poison {
            slot.pixels_mut()[0] = 255;
        }
        results.push(tokio::spawn(slot.infer()));
    }
    for (i, result) in results.into_iter().enumerate() {
        let result = result.await.unwrap();
        assert_eq!(result.is_err(), i == poison, "image {i}");
        let expected = if i % 3 == 0 { 2 } else { 0 };
        assert!(result.is_ok_and(|r| r.tags[0].category == expected) || i == poison);
    }
}

#[tokio::test]
async fn dropped_slots_and_dropped_claims_hold_nothing_up() {
    let engine = Engine::start(&config(2, NEVER), &fixture()).unwrap();
    // Three buffers of two: all six places are claimed, and a seventh claim waits.
    let mut slots = Vec::new();
    for _ in 0..6 {
        slots.push(engine.slot().await.unwrap());
    }
    let mut seventh = Box::pin(engine.slot());
    assert!(futures::poll!(seventh.as_mut()).is_pending());
    drop(seventh);
    slots.truncate(1);
    for _ in 0..20 {
        drop(engine.slot().await.unwrap());
    }
    // The first batch has one place filled and one given back: it runs.
    let mut slot = slots.pop().unwrap();
    paint(&mut slot, RED);
    assert_eq!(slot.infer().await.unwrap().tags[0].category, 0);
}

/// At a low load half of the latency was this wait.
#[tokio::test]
async fn an_idle_worker_never_waits_for_others() {
    let engine = Engine::start(&config(16, NEVER), &fixture()).unwrap();
    for colour in [RED, BLUE, RED] {
        let mut slot = engine.slot().await.unwrap();
        paint(&mut slot, colour);
        let category = if colour == RED { 0 } else { 2 };
        assert_eq!(slot.infer().await.unwrap().tags[0].category, category);
    }
}

#[tokio::test]
async fn a_lone_image_runs_after_the_delay() {
    let engine = Engine::start(&config(16, 0), &fixture()).unwrap();
    let mut slot = engine.slot().await.unwrap();
    paint(&mut slot, BLUE);
    assert_eq!(slot.infer().await.unwrap().tags[0].category, 2);
}

/// The fixture with another head: `change` gets the bundle's weights.
fn variant(folder: &Path, change: impl FnOnce(&mut Vec<f32>)) -> Bundle {
    variant_of(folder, false, change)
}

/// As [`variant`], with another encoder, too: it says the same, but its file is not the same.
fn variant_of(folder: &Path, encoder: bool, change: impl FnOnce(&mut Vec<f32>)) -> Bundle {
    let source = fixture();
    let weights = std::fs::read(source.path("head.safetensors").unwrap()).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let mut bias: Vec<f32> = stored
        .tensor("region.bias")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    change(&mut bias);
    let bytes: Vec<u8> = bias.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3], &bytes).unwrap();
    let tensors = stored.tensors().into_iter().map(|(n, t)| {
        if n == "region.bias" {
            (n, view.clone())
        } else {
            (n, t)
        }
    });
    let changed = safetensors::serialize(tensors, None).unwrap();
    let mut writer = BundleWriter::new(folder).unwrap();
    let mut graph = std::fs::read(source.encoder()).unwrap();
    if encoder {
        // Field 6 of the graph's file, its description, is "x".
        graph.extend([6 << 3 | 2, 1, b'x']);
    }
    writer.add("encoder.onnx", &graph).unwrap();
    writer.add_copy("head.onnx", &source.head_graph()).unwrap();
    writer.add("head.safetensors", &changed).unwrap();
    let manifest = source.manifest().clone();
    writer
        .finish(Draft {
            name: "variant".into(),
            parent: None,
            created: manifest.created,
            categories: manifest.categories,
            dims: manifest.dims,
            preprocessing: manifest.preprocessing,
            calibration: manifest.calibration,
            metrics: manifest.metrics,
            lineage: manifest.lineage,
        })
        .unwrap()
}

#[tokio::test]
async fn a_swap_keeps_the_encoder_and_lets_begun_batches_finish() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::start(&config(2, NEVER), &fixture()).unwrap();
    let old_id = engine.model().id().to_owned();
    let mut begun = engine.slot().await.unwrap();
    paint(&mut begun, RED);
    // The new head finds nothing at all.
    let deaf = variant(&folder.path().join("deaf"), |bias| bias.fill(-50.0));
    let swap = engine.swap(deaf).await.unwrap();
    assert!(swap.encoder_kept);
    assert_eq!(swap.from, old_id);
    assert_eq!(engine.model().id(), swap.to);
    let mut later = [engine.slot().await.unwrap(), engine.slot().await.unwrap()];
    later.iter_mut().for_each(|slot| paint(slot, RED));
    let [c, d] = later;
    // The begun batch was sealed by the swap, so it runs although it is not full.
    let begun = begun.infer().await.unwrap();
    assert_eq!((begun.model.id(), begun.tags.len()), (old_id.as_str(), 1));
    let (c, d) = tokio::join!(c.infer(), d.infer());
    assert_eq!((c.unwrap().tags.len(), d.unwrap().tags.len()), (0, 0));
}

#[tokio::test]
async fn a_model_that_fails_its_trial_is_refused_and_the_old_one_serves() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::start(&config(1, NEVER), &fixture()).unwrap();
    let before = engine.model().id().to_owned();
    let broken = variant(&folder.path().join("broken"), |bias| bias[1] = f32::NAN);
    let error = engine.swap(broken).await.unwrap_err().to_string();
    assert!(
        error.contains("canary batch: outputs are not finite"),
        "{error}"
    );
    let mut slot = engine.slot().await.unwrap();
    paint(&mut slot, RED);
    let result = slot.infer().await.unwrap();
    assert_eq!((result.model.id(), result.tags.len()), (before.as_str(), 1));
}

#[tokio::test]
async fn many_images_on_many_workers_all_come_back_right() {
    let config = ModelConfig {
        workers: 3,
        max_batch: 5,
        max_delay_ms: 1,
        ..ModelConfig::default()
    };
    let engine = Engine::start(&config, &fixture()).unwrap();
    let tasks: Vec<_> = (0..300)
        .map(|i| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut slot = engine.slot().await.unwrap();
                if i % 7 == 3 {
                    return None;
                }
                paint(&mut slot, if i % 2 == 0 { RED } else { BLUE });
                Some(slot.infer().await.unwrap().tags[0].category)
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        let expected = (i % 7 != 3).then_some(if i % 2 == 0 { 0 } else { 2 });
        assert_eq!(task.await.unwrap(), expected, "image {i}");
    }
}

/// Every image of every round is answered once, by one of the two models and rightly; whoever was
/// exchanged goes.
#[tokio::test(flavor = "multi_thread")]
async fn encoders_are_exchanged_while_images_flow_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let config = ModelConfig {
        workers: 2,
        max_batch: 3,
        max_delay_ms: 1,
        ..ModelConfig::default()
    };
    let engine = Engine::start(&config, &fixture()).unwrap();
    let bundles = [
        variant_of(&folder.path().join("other"), true, |_| {}),
        fixture(),
    ];
    for round in 0..6 {
        let images: Vec<_> = (0..40)
            .map(|i| {
                let engine = engine.clone();
                tokio::spawn(async move {
                    let mut slot = engine.slot().await.unwrap();
                    paint(&mut slot, if i % 2 == 0 { RED } else { BLUE });
                    let promised = slot.model().id().to_owned();
                    let result = slot.infer().await.unwrap();
                    assert_eq!(result.model.id(), promised);
                    result.tags[0].category
                })
            })
            .collect();
        let old = Arc::downgrade(&engine.shared.serving());
        let swap = engine.swap(bundles[round % 2].clone()).await.unwrap();
        assert!(!swap.encoder_kept);
        assert_eq!(engine.model().id(), bundles[round % 2].id());
        for (i, image) in images.into_iter().enumerate() {
            let expected = if i % 2 == 0 { 0 } else { 2 };
            assert_eq!(image.await.unwrap(), expected, "image {i}, round {round}");
        }
        // A worker answers before it lets go of the model.
        let begun = Instant::now();
        while old.strong_count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it stays");
            engine.shared.old_models.clear();
        }
    }
}

#[test]
fn gpu_batches_are_padded_to_few_sizes() {
    assert_eq!(bucket_sizes(Device::Cuda(0), 16), [1, 2, 4, 8, 16]);
    assert_eq!(bucket_sizes(Device::Cuda(0), 12), [1, 2, 4, 8, 12]);
    assert_eq!(bucket_sizes(Device::Cuda(0), 1), [1]);
    // No padding on a processor: the largest is warmed for all.
    assert_eq!(bucket_sizes(Device::Cpu, 4), [4]);
}

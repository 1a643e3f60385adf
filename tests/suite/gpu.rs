//! The model and the engine on a GPU, beside the processor. `TAGSTREAM_TEST_PROVIDER` (`cuda` or
//! `tensorrt`) says what to test on; without it each of these says `NOT TESTED`
//! (`scripts/gpu_check.sh` sets it). With `cpu` the processor stands in for the GPU: the tests then
//! prove nothing but themselves.

#![allow(
    clippy::disallowed_methods,
    reason = "what the decoders are, without the helper's process around them"
)]

use crate::common::not_tested;
use std::path::PathBuf;
use std::sync::LazyLock;
use tagstream::demo::scenes::{Scene, Style, categories};
use tagstream::stage::infer::Engine;
use tagstream_core::config::{ModelConfig, Provider};
use tagstream_image::decode::{DecodeLimits, decode_into};
use tagstream_model::bundle::Bundle;
use tagstream_model::clip::vision::{Precision, TowerOptions};
use tagstream_model::init::{CategoryList, ClipFolder, Init};
use tagstream_model::parity::Parity;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::session::{Pixels, SessionOptions};
use tagstream_model::tagger::{Inference, Tagger, TaggerOptions};

fn provider(what: &str) -> Option<Provider> {
    match std::env::var("TAGSTREAM_TEST_PROVIDER").as_deref() {
        Ok("cuda") => Some(Provider::Cuda),
        Ok("tensorrt") => Some(Provider::Tensorrt),
        Ok("cpu") => Some(Provider::Cpu),
        Ok(other) => panic!("TAGSTREAM_TEST_PROVIDER is `{other}`: cuda, tensorrt or cpu"),
        Err(_) => {
            not_tested(&format!("{what} (no GPU named by TAGSTREAM_TEST_PROVIDER)"));
            None
        }
    }
}

/// The demo model in 32 and in 16 bits, and drawn scenes as it wants them.
struct World {
    whole: Bundle,
    half: Bundle,
    images: Vec<Vec<u8>>,
    /// TensorRT's engines are built once for all tests.
    engines: PathBuf,
    _folder: tempfile::TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("categories.txt");
    std::fs::write(&list, categories().join("\n")).unwrap();
    let list = CategoryList::read(&list).unwrap();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let clip = ClipFolder::open(&root.join("models/demo-clip")).unwrap();
    let [whole, half] = [Precision::Fp32, Precision::Fp16].map(|precision| {
        let init = Init {
            clip: &clip,
            name: "demo-clip",
            source: "demo-clip",
            categories: &list,
            tower: TowerOptions {
                precision,
                ..TowerOptions::default()
            },
            views: tagstream_model::views::Views::default(),
            fit: Default::default(),
        };
        let out = folder.path().join(format!("{precision:?}"));
        init.run(&out, |_| ()).unwrap()
    });
    let preprocessing = &whole.manifest().preprocessing;
    let images = (0..24).map(|i| {
        let scene = Scene::draw(5, i, Style::Plain, 192).jpeg().unwrap();
        let mut pixels = vec![0u8; preprocessing.height * preprocessing.width * 3];
        let limits = DecodeLimits::default();
        decode_into(&scene, preprocessing, &limits, &mut pixels).unwrap();
        pixels
    });
    World {
        images: images.collect(),
        engines: folder.path().join("engines"),
        whole,
        half,
        _folder: folder,
    }
});

impl World {
    fn open(&self, bundle: &Bundle, provider: Provider) -> Tagger {
        let runtime = Runtime::load().unwrap();
        let device = runtime.resolve(provider, 0).unwrap();
        let options = TaggerOptions {
            session: SessionOptions {
                max_batch: 8,
                engine_cache: Some(self.engines.clone()),
                ..SessionOptions::on(device)
            },
            workers: 2,
            ..TaggerOptions::on(device)
        };
        Tagger::open(&runtime, bundle, options, None).unwrap()
    }

    fn engine(&self, bundle: &Bundle, provider: Provider) -> Engine {
        let config = ModelConfig {
            provider,
            max_batch: 8,
            max_delay_ms: 5,
            engine_cache: self.engines.display().to_string(),
            ..ModelConfig::default()
        };
        Engine::start(&config, bundle).unwrap()
    }

    /// What the processor says of every image, and an engine on `provider` with the same model.
    async fn beside_the_processor(&self, provider: Provider) -> (Vec<Inference>, Engine) {
        let reference = self.engine(&self.whole, Provider::Cpu);
        let expected = self.through(&reference, 1).await;
        (expected, self.engine(&self.whole, provider))
    }

    /// All images at once, `rounds` times.
    async fn through(&self, engine: &Engine, rounds: usize) -> Vec<Inference> {
        let tasks: Vec<_> = (0..rounds * self.images.len())
            .map(|i| {
                let (engine, pixels) = (engine.clone(), &self.images[i % self.images.len()]);
                let pixels = pixels.clone();
                tokio::spawn(async move {
                    let mut slot = engine.slot().await.unwrap();
                    slot.pixels_mut().copy_from_slice(&pixels);
                    slot.infer().await.unwrap()
                })
            })
            .collect();
        let mut found = Vec::new();
        for task in tasks {
            found.push(task.await.unwrap());
        }
        found
    }
}

fn same(expected: &[Inference], found: &[Inference]) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    for (i, found) in found.iter().enumerate() {
        let expected = &expected[i % expected.len()];
        let cosine = dot(&expected.embedding, &found.embedding);
        assert!(cosine >= 0.999, "image {i}: cosine {cosine}");
        let pairs = expected.scores.iter().zip(&found.scores);
        let most = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 0.02, "image {i}: a score differs by {most}");
    }
}

#[test]
fn both_precisions_say_what_32_bits_say_on_the_processor() {
    let Some(provider) = provider("parity of the encoder in 32 and 16 bits") else {
        return;
    };
    let world = &*WORLD;
    let reference = world.open(&world.whole, Provider::Cpu);
    let pixels = world.images.concat();
    for bundle in [&world.whole, &world.half] {
        let there = world.open(bundle, provider);
        let found = Parity::between(&reference, &there, &pixels).unwrap();
        println!("{}: {found:?}", there.model().device);
        assert!(found.holds(), "{found:?}");
    }
}

#[test]
fn batches_lie_in_page_locked_memory() {
    let Some(provider) = provider("page-locked memory of batches") else {
        return;
    };
    let world = &*WORLD;
    let tagger = world.open(&world.half, provider);
    let on_gpu = tagger.model().device != Device::Cpu;
    let mut buffer = tagger.buffer(2 * world.images[0].len());
    assert_eq!(Pixels::from(&buffer).are_pinned(), on_gpu);
    // It outlives the session that made it.
    drop(tagger);
    let first = buffer.split_to(world.images[0].len());
    buffer.copy_from_slice(&world.images[1]);
    assert_eq!(buffer[..], world.images[1][..]);
    drop((buffer, first));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_says_it_in_every_batch_of_every_worker() {
    let Some(provider) = provider("the engine: two workers, batches of every size") else {
        return;
    };
    let world = &*WORLD;
    let (expected, engine) = world.beside_the_processor(provider).await;
    same(&expected, &world.through(&engine, 8).await);
    // Batches of one, and of three, which are padded.
    for many in [1, 3] {
        for (i, pixels) in world.images.chunks(many).enumerate() {
            let mut waiting = Vec::new();
            for pixels in pixels {
                let mut slot = engine.slot().await.unwrap();
                slot.pixels_mut().copy_from_slice(pixels);
                waiting.push(slot.infer());
            }
            let found = futures::future::join_all(waiting).await;
            let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
            same(&expected[i * many..], &found);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encoders_are_swapped_while_images_flow() {
    let Some(provider) = provider("swaps of the encoder") else {
        return;
    };
    let world = &*WORLD;
    let (expected, engine) = world.beside_the_processor(provider).await;
    for round in 0..4 {
        let next = [&world.half, &world.whole][round % 2].clone();
        let flowing = world.through(&engine, 4);
        let (found, swap) = tokio::join!(flowing, engine.swap(next));
        assert!(!swap.unwrap().encoder_kept);
        same(&expected, &found);
    }
}

#[test]
fn engines_are_kept_for_the_next_start() {
    let Some(provider) = provider("TensorRT's engine cache") else {
        return;
    };
    if provider != Provider::Tensorrt {
        return not_tested("TensorRT's engine cache (the provider is another)");
    }
    let world = &*WORLD;
    let engines = || {
        let mut found = Vec::new();
        let mut folders = vec![world.engines.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false if path.extension().is_some_and(|e| e == "engine") => {
                        let written = path.metadata().unwrap().modified().unwrap();
                        found.push((path, written));
                    }
                    false => {}
                }
            }
        }
        found.sort();
        found
    };
    drop(world.open(&world.whole, provider));
    let first = engines();
    assert!(!first.is_empty());
    drop(world.open(&world.whole, provider));
    assert_eq!(engines(), first, "they are read, not built again");
}

//! Bundles of the tiny encoder of `tests/fixtures/tiny-model` with heads of our own making.

use super::rows::floor;
use super::*;
use crate::bundle::{BundleWriter, Category, Draft};
use crate::head::{ExportedHead, ZeroShot};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CATEGORIES: usize = 12;

/// A bundle whose head scores `CATEGORIES` directions of the encoder's four dimensions.
fn bundle(folder: &Path, threshold: f32) -> Bundle {
    let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/tiny-model");
    let manifest = Bundle::open(&source).unwrap().manifest().clone();
    let directions: Vec<f32> = (0..CATEGORIES * 4)
        .map(|i| ((i * 37 % 23) as f32 / 11.0) - 1.0)
        .collect();
    let head = ExportedHead::zero_shot(&directions, 4, ZeroShot::from_logit(Some(2.0), None));
    let files = head.to_files(Some(manifest.positions()), &[]).unwrap();
    let mut writer = BundleWriter::new(folder).unwrap();
    writer
        .add_copy("encoder.onnx", &source.join("encoder.onnx"))
        .unwrap();
    writer.add("head.onnx", &files.onnx).unwrap();
    writer.add("head.safetensors", &files.safetensors).unwrap();
    let categories = (0..CATEGORIES).map(|i| {
        // Different thresholds: the best score and the furthest above its threshold are not the
        // same.
        let name = format!("c{i}");
        Category::named(&name, &name, threshold + 0.02 * (i % 3) as f32)
    });
    writer
        .finish(Draft {
            name: "rows".into(),
            parent: None,
            created: manifest.created,
            categories: categories.collect(),
            dims: manifest.dims,
            preprocessing: manifest.preprocessing,
            calibration: manifest.calibration,
            metrics: manifest.metrics,
            lineage: manifest.lineage,
        })
        .unwrap()
}

fn open(bundle: &Bundle, rows: HeadRows) -> Tagger {
    let options = TaggerOptions {
        workers: 1,
        rows,
        ..TaggerOptions::on(Device::Cpu)
    };
    Tagger::open(&Runtime::load().unwrap(), bundle, options, None).unwrap()
}

/// Pictures of the tiny model: a coloured square on grey.
fn pictures() -> Vec<u8> {
    let colours: [[u8; 3]; 4] = [[250, 20, 20], [20, 250, 20], [20, 20, 250], [200, 200, 30]];
    let picture = |(i, colour): (usize, &[u8; 3])| {
        let mut pixels = vec![90u8; 32 * 32 * 3];
        for y in 8..24 {
            for x in 4 * i..4 * i + 16 {
                pixels[(y * 32 + x) * 3..][..3].copy_from_slice(colour);
            }
        }
        pixels
    };
    colours.iter().enumerate().flat_map(picture).collect()
}

fn inferences(tagger: &Tagger, regions: bool) -> Vec<Inference> {
    let outputs = tagger.run(0, &pictures(), 4, regions).unwrap();
    let interpret = |i| {
        tagger
            .model()
            .interpret(&outputs, i, Some((640, 480)))
            .unwrap()
    };
    (0..4).map(interpret).collect()
}

#[test]
fn rows_of_the_best_say_the_same_as_rows_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(&folder.path().join("bundle"), 0.5);
    let all = inferences(&open(&bundle, HeadRows::All), true);
    let tags: usize = all.iter().map(|i| i.tags.len()).sum();
    assert!((5..4 * CATEGORIES).contains(&tags), "{tags} tags");
    let best = HeadRows::Best {
        count: 100,
        regions: true,
    };
    for (a, b) in all.iter().zip(inferences(&open(&bundle, best), true)) {
        assert_eq!(a.tags.len(), b.tags.len());
        let close = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5);
        assert!(close(&a.scores, &b.scores) && close(&a.embedding, &b.embedding));
        for (x, y) in a.tags.iter().zip(&b.tags) {
            assert_eq!(
                (x.category, x.bounding_box()),
                (y.category, y.bounding_box())
            );
            let regions = (x.region.as_ref().unwrap(), y.region.as_ref().unwrap());
            assert!(close(regions.0, regions.1));
        }
    }
}

/// Parents, groups and what is hidden decide alike whichever rows of evidence there are.
#[test]
fn relations_decide_the_same_with_rows_of_the_best_and_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let plain = bundle(&folder.path().join("plain"), 0.5);
    let before = inferences(&open(&plain, HeadRows::All), true);
    let mut categories = plain.manifest().categories.clone();
    // c0 is what c1 and the hidden c2 are; c3 and c4 are one; the parent asks for less than its
    // children do.
    categories[0].tags.of_children = true;
    categories[0].threshold = 0.2;
    for child in [1, 2] {
        categories[child].tags.parent = Some("c0".into());
    }
    categories[2].tags.hidden = true;
    for near in [3, 4] {
        categories[near].tags.group = Some("near".into());
        categories[near].threshold = 0.0;
    }
    let out = folder.path().join("related");
    let related = crate::new_head::with_categories(&plain, categories, &out).unwrap();
    assert_eq!(related.manifest().format_version, 2);
    let all = inferences(&open(&related, HeadRows::All), true);
    let best = HeadRows::Best {
        count: 100,
        regions: true,
    };
    let best = inferences(&open(&related, best), true);
    let mut parents = 0;
    for ((before, all), best) in before.iter().zip(&all).zip(&best) {
        let score = |category: usize| before.scores[category];
        assert_eq!(all.scores[0], score(1).max(score(2)));
        assert_eq!(all.scores[1..], before.scores[1..]);
        let of = |i: &Inference, category: usize| {
            i.tags.iter().find(|tag| tag.category == category).cloned()
        };
        assert_eq!(of(all, 0).is_some(), score(1).max(score(2)) >= 0.2);
        parents += usize::from(of(all, 0).is_some());
        assert!(of(all, 2).is_none());
        let near = if score(3) >= score(4) { 3 } else { 4 };
        assert!(of(all, near).is_some() && of(all, 7 - near).is_none());
        // The parent's evidence is that of its best child, shown or not.
        if let (Some(parent), Some(child)) = (of(all, 0), of(before, 1))
            && score(1) > score(2)
        {
            assert_eq!(
                (parent.bounding_box(), parent.region),
                (child.bounding_box(), child.region)
            );
        }
        assert_eq!(all.tags.len(), best.tags.len());
        for (x, y) in all.tags.iter().zip(&best.tags) {
            assert_eq!(
                (x.category, x.bounding_box()),
                (y.category, y.bounding_box())
            );
        }
    }
    assert!(parents > 0);
}

#[test]
fn few_rows_are_those_that_exceed_their_thresholds_the_furthest() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(&folder.path().join("bundle"), 0.45);
    let all = inferences(&open(&bundle, HeadRows::All), false);
    let best = HeadRows::Best {
        count: 2,
        regions: false,
    };
    let few = inferences(&open(&bundle, best), false);
    assert!(all.iter().any(|i| i.tags.len() > 2));
    for (a, b) in all.iter().zip(&few) {
        let temperature = bundle.manifest().calibration.temperature;
        let margin = |t: &TagHit| {
            let threshold = bundle.manifest().categories[t.category].threshold;
            temperature * (t.score / (1.0 - t.score)).ln() - floor(threshold, temperature)
        };
        let mut expected = a.tags.clone();
        expected.sort_by(|x, y| margin(y).total_cmp(&margin(x)));
        expected.truncate(2);
        expected.sort_by(|x, y| y.score.total_cmp(&x.score));
        let categories = |tags: &[TagHit]| tags.iter().map(|t| t.category).collect::<Vec<_>>();
        assert_eq!(categories(&expected), categories(&b.tags));
        assert!(b.tags.iter().all(|t| t.region.is_none()));
    }
}

#[test]
fn floors_are_where_the_probability_reaches_the_threshold() {
    for (threshold, temperature) in [(0.5f32, 1.0f32), (0.9, 1.0), (0.2, 2.5)] {
        let logit = floor(threshold, temperature);
        let probability = 1.0 / (1.0 + (-logit / temperature).exp());
        assert!((probability - threshold).abs() < 1e-6);
    }
    assert_eq!((floor(0.0, 1.0), floor(1.0, 1.0)), (-1e30, 1e30));
}

/// Runs of at most so many images, however long they take, and no more than one in a batch.
fn at_most(images: usize) -> BatchBounds {
    BatchBounds {
        run_time: Duration::from_secs(3600),
        run_images: images,
        batch_time: Duration::ZERO,
        batch_runs: 1,
    }
}

#[test]
fn a_processor_s_batches_are_what_is_useful_and_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut tagger = open(&bundle(&folder.path().join("bundle"), 0.5), HeadRows::All);
    let allowed = BatchSizes { run: 16, batch: 16 };
    assert_eq!(tagger.batch_sizes(), allowed);
    let mut settled = |bounds: BatchBounds| {
        tagger.settle_batches(&bounds).unwrap();
        let BatchSizes { run, batch } = tagger.batch_sizes();
        [run, batch]
    };
    assert_eq!([at_most(1), at_most(4)].map(&mut settled), [[1, 1], [4, 4]]);
    // What one run may hold is given when the model is opened.
    assert_eq!(settled(at_most(1000)), [16, 16]);
    let no_time = BatchBounds {
        run_time: Duration::ZERO,
        ..at_most(1000)
    };
    assert_eq!(settled(no_time), [2, 2]);
    let several = BatchBounds {
        batch_time: Duration::from_secs(3600),
        batch_runs: 3,
        ..at_most(4)
    };
    assert_eq!(settled(several), [4, 12]);
}

#[test]
fn a_further_head_is_opened_tried_and_warmed_while_all_encoders_are_busy() {
    let folder = tempfile::tempdir().unwrap();
    let first = bundle(&folder.path().join("first"), 0.5);
    let second = bundle(&folder.path().join("second"), 0.4);
    let options = TaggerOptions {
        workers: 2,
        ..TaggerOptions::on(Device::Cpu)
    };
    let runtime = Runtime::load().unwrap();
    let old = Tagger::open(&runtime, &first, options.clone(), None).unwrap();
    old.canary().unwrap();
    old.warm(&[1, 2, 3], true).unwrap();
    let busy: Vec<_> = (0..2).map(|worker| old.encoders.worker(worker)).collect();
    thread::scope(|scope| {
        let (done, opened) = std::sync::mpsc::channel();
        let (runtime, second, old) = (&runtime, &second, &old);
        scope.spawn(move || {
            let mut new = Tagger::open(runtime, second, options, Some(old)).unwrap();
            new.canary().unwrap();
            new.settle_batches(&at_most(3)).unwrap();
            new.warm(&[1, 2, 3], false).unwrap();
            done.send(new).unwrap();
        });
        // Only a test that fails waits so long.
        let new = opened.recv_timeout(Duration::from_secs(60));
        drop(busy);
        let new = new.expect("it does not wait for an encoder");
        assert!(new.shares_encoder_with(old));
        assert_eq!(new.batch_sizes().run, 3);
        assert_eq!(inferences(&new, true).len(), 4);
    });
}

#[test]
fn a_kept_encoder_is_warmed_only_for_batches_larger_than_it_ran() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(&folder.path().join("bundle"), 0.5);
    let options = TaggerOptions {
        workers: 1,
        ..TaggerOptions::on(Device::Cpu)
    };
    let runtime = Runtime::load().unwrap();
    let old = Tagger::open(&runtime, &bundle, options.clone(), None).unwrap();
    old.warm(&[2], false).unwrap();
    let new = Tagger::open(&runtime, &bundle, options, Some(&old)).unwrap();
    assert_eq!(new.encoders.cold(&[1, 2, 4]), [4]);
    new.warm(&[4], false).unwrap();
    assert!(old.encoders.cold(&[1, 2, 3, 4]).is_empty());
}

/// The demonstration model, whose activations are megabytes: what was not there before a batch
/// shows as page faults.
#[cfg(target_os = "linux")]
#[test]
fn after_warming_with_the_largest_batch_no_batch_takes_new_memory() {
    use crate::init::{CategoryList, ClipFolder, Init};
    use tagstream_core::process::thread_cost::ThreadCost;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("categories.txt");
    std::fs::write(&list, "cat\ndog\n").unwrap();
    let clip = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("models/demo-clip");
    let init = Init {
        clip: &ClipFolder::open(&clip).unwrap(),
        name: "demo-clip",
        source: "test",
        categories: &CategoryList::read(&list).unwrap(),
        tower: Default::default(),
        views: crate::views::Views::default(),
        fit: Default::default(),
    };
    let bundle = init.run(&folder.path().join("bundle"), |_| ()).unwrap();
    let options = TaggerOptions {
        workers: 1,
        ..TaggerOptions::on(Device::Cpu)
    };
    let runtime = Runtime::load().unwrap();
    let open = || Tagger::open(&runtime, &bundle, options.clone(), None).unwrap();
    let faults = |tagger: &Tagger, size: usize| {
        let pixels = vec![77u8; size * tagger.model().shape.image_bytes()];
        let before = ThreadCost::now().unwrap();
        tagger.run(0, &pixels, size, true).unwrap();
        ThreadCost::now().unwrap().since(before).page_faults
    };
    let cold = faults(&open(), 4);
    let tagger = open();
    tagger.warm(&[4], false).unwrap();
    // Twice each, as a session that notes memory patterns takes its memory at the second run of a
    // shape.
    let warm = [4, 4, 3, 3, 2, 2, 1, 1].map(|size| faults(&tagger, size));
    assert!(
        cold > 300 && warm.iter().all(|taken| *taken < cold / 4),
        "{cold} {warm:?}"
    );
}

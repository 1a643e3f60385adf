//! New categories beside those of a bundle.

use super::*;
use crate::head::Attention;
use crate::init::{CategoryList, ClipFolder, Init};
use std::path::PathBuf;

/// A zero-shot bundle of a tiny CLIP with these categories.
fn zero_shot(folder: &Path, names: &[&str]) -> Bundle {
    let fixture = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let clip = ClipFolder::open(&fixture.join("models/demo-clip")).unwrap();
    let list = folder.join(format!("{}.txt", names.len()));
    std::fs::write(&list, names.join("\n")).unwrap();
    let init = Init {
        clip: &clip,
        name: "demo-clip",
        source: "test",
        categories: &CategoryList::read(&list).unwrap(),
        tower: Default::default(),
        views: crate::views::Views::default(),
        fit: Default::default(),
    };
    let out = folder.join(format!("bundle-{}", names.len()));
    init.run(&out, |_| ()).unwrap()
}

#[test]
fn a_zero_shot_model_becomes_the_one_that_it_would_have_been_with_the_category() {
    let folder = tempfile::tempdir().unwrap();
    let small = zero_shot(folder.path(), &["cat", "dog"]);
    let large = zero_shot(folder.path(), &["cat", "dog", "sail_boat"]);
    let out = folder.path().join("added");
    let added = add_category(&small, "sail_boat", None, &out).unwrap();
    let manifest = added.manifest();
    assert_eq!(manifest.categories, large.manifest().categories);
    assert_eq!(manifest.parent.as_deref(), Some(small.id()));
    assert_eq!(added.encoder_hash(), small.encoder_hash());
    let (ours, _) = added.head().unwrap();
    let (theirs, _) = large.head().unwrap();
    for (a, b) in [
        (&ours.region.weight, &theirs.region.weight),
        (&ours.region.bias, &theirs.region.bias),
    ] {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    let image = vec![0.3; 4 * ours.dim];
    let [x, y] = [&ours, &theirs].map(|h| h.evaluate(&image, &image[..h.dim], 1).logits);
    assert!(
        x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-3),
        "{x:?} {y:?}"
    );
}

#[test]
fn what_cannot_be_added_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = zero_shot(folder.path(), &["cat", "dog"]);
    let out = folder.path().join("added");
    for (name, words, wrong) in [
        ("dog", None, "`dog` already"),
        (" ", None, "needs a name"),
        ("bird", Some(" "), "needs a name"),
    ] {
        let error = add_category(&bundle, name, words, &out).unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
        assert!(!out.exists());
    }
}

fn written(folder: &Path, content: &str) -> CategoryList {
    let path = folder.join("words.csv");
    std::fs::write(&path, content).unwrap();
    CategoryList::read_part(&path).unwrap()
}

fn close(x: &[f32], y: &[f32]) -> bool {
    x.len() == y.len() && x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-4)
}

#[test]
fn other_words_make_the_zero_shot_model_that_they_would_have_made() {
    let folder = tempfile::tempdir().unwrap();
    let small = zero_shot(folder.path(), &["cat", "dog"]);
    let content = "name,words,templates,negative,threshold\n\
                   dog,dog|puppy:0.5,seven,toy,0.7\nox,,,,\n";
    let list = written(folder.path(), content);
    let changed = set_words(&small, &list, &folder.path().join("changed")).unwrap();
    let manifest = changed.manifest();
    let names: Vec<&str> = manifest
        .categories
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(names, ["cat", "dog", "ox"]);
    assert_eq!(
        (manifest.format_version, small.manifest().format_version),
        (2, 1)
    );
    assert_eq!(manifest.categories[1].threshold, 0.7);
    assert_eq!(manifest.parent.as_deref(), Some(small.id()));
    assert!(manifest.lineage.method.ends_with(NEW_WORDS));

    let path = folder.path().join("all.csv");
    std::fs::write(&path, format!("{content}cat,,,,\n")).unwrap();
    let fixture = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let whole = Init {
        clip: &ClipFolder::open(&fixture.join("models/demo-clip")).unwrap(),
        name: "demo-clip",
        source: "test",
        categories: &CategoryList::read(&path).unwrap(),
        tower: Default::default(),
        views: crate::views::Views::default(),
        fit: Default::default(),
    };
    let whole = whole.run(&folder.path().join("whole"), |_| ()).unwrap();
    let (ours, _) = changed.head().unwrap();
    let (theirs, _) = whole.head().unwrap();
    let row = |head: &ExportedHead, at: usize| {
        let own = at * head.dim..(at + 1) * head.dim;
        let Attention::Folded(attention) = &head.attention else {
            panic!("one head")
        };
        let global = &head.global.as_ref().unwrap().read_out.weight;
        [
            &head.region.weight[own.clone()],
            &attention[own.clone()],
            &global[own],
        ]
        .concat()
    };
    for (at, other) in [(0, 2), (1, 0), (2, 1)] {
        assert!(close(&row(&ours, at), &row(&theirs, other)), "{at}");
    }

    // The same again changes nothing, and is said.
    let error = set_words(&changed, &list, &folder.path().join("again")).unwrap_err();
    assert!(error.to_string().contains("nothing to change"), "{error}");
}

#[test]
fn what_was_learnt_stays_beside_other_words() {
    let folder = tempfile::tempdir().unwrap();
    let first = zero_shot(folder.path(), &["cat", "dog"]);
    // Something learnt: every weight is moved.
    let (mut head, _) = first.head().unwrap();
    let learnt: Vec<f32> = (0..head.region.weight.len())
        .map(|i| (i % 7) as f32 * 0.1)
        .collect();
    let add = |row: &mut [f32]| row.iter_mut().zip(&learnt).for_each(|(x, more)| *x += more);
    add(&mut head.region.weight);
    let towers = Towers::from(&first);
    let trained = NewHead {
        name: "trained",
        files: &head.to_files(Some(towers.positions()), &[]).unwrap(),
        categories: first.manifest().categories.clone(),
        calibration: first.manifest().calibration,
        metrics: BTreeMap::new(),
        method: "trm-ml".into(),
        label_snapshot: Some("labels".into()),
        seed: None,
        trained_on: None,
    };
    let trained = towers
        .with_head(trained, &folder.path().join("trained"))
        .unwrap();

    let list = written(folder.path(), "name,words\ndog,wolf\n");
    let changed = set_words(&trained, &list, &folder.path().join("changed")).unwrap();
    let (after, _) = changed.head().unwrap();
    let d = head.dim;
    // The cat is what it was, to the last digit.
    assert_eq!(after.region.weight[..d], head.region.weight[..d]);
    // The dog differs by the words' difference, in the length that its row has.
    let text = ClipTextEncoder::open(&trained.text_files().unwrap()).unwrap();
    let texts = text
        .embed(&["a photo of a dog", "a photo of a wolf"], |_| ())
        .unwrap();
    let length = head.region.weight[d..]
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt();
    let moved: Vec<f32> = (0..d)
        .map(|i| head.region.weight[d + i] + length * (texts[d + i] - texts[i]))
        .collect();
    assert!(close(&after.region.weight[d..], &moved));
    let lineage = &changed.manifest().lineage;
    assert_eq!(lineage.method, format!("trm-ml{NEW_WORDS}"));
    assert_eq!(lineage.label_snapshot.as_deref(), Some("labels"));

    // Relations alone move nothing.
    let list = written(
        folder.path(),
        "name,group,display,do_not_show\ndog,pets,Hund,yes\n",
    );
    let changed = set_words(&trained, &list, &folder.path().join("relations")).unwrap();
    assert_eq!(changed.head().unwrap().0, head);
    assert_eq!(changed.manifest().categories[1].shown(), "Hund");
}

#[test]
fn relations_with_categories_of_the_model_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = zero_shot(folder.path(), &["cat", "pet"]);
    let out = folder.path().join("out");
    let list = written(folder.path(), "name,parent\nfox,animal\n");
    let error = add_categories(&bundle, &list, &out)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("words.csv line 2, column `parent`, `animal`"),
        "{error}"
    );
    let list = written(folder.path(), "name,parent\ncat,pet\npet,cat\n");
    let error = set_words(&bundle, &list, &out).unwrap_err().to_string();
    assert!(error.contains("cat < pet < cat"), "{error}");
    assert!(!out.exists());
    // A parent that has its line and no words takes its children's scores; one that has no line
    // keeps the words that it has.
    let list = written(folder.path(), "name,parent\ncat,pet\n");
    let changed = set_words(&bundle, &list, &out).unwrap();
    assert!(!changed.manifest().categories[1].tags.of_children);
    let list = written(folder.path(), "name,parent\ncat,pet\npet,\n");
    let changed = set_words(&bundle, &list, &folder.path().join("both")).unwrap();
    assert!(changed.manifest().categories[1].tags.of_children);
}

#[test]
fn a_new_category_does_not_take_the_others_thresholds() {
    let folder = tempfile::tempdir().unwrap();
    let first = zero_shot(folder.path(), &["cat", "dog"]);
    let list = written(folder.path(), "name,threshold\ncat,0.1\ndog,0.2\n");
    let low = set_words(&first, &list, &folder.path().join("low")).unwrap();
    let added = add_category(&low, "fox", None, &folder.path().join("added")).unwrap();
    let thresholds: Vec<f32> = added
        .manifest()
        .categories
        .iter()
        .map(|c| c.threshold)
        .collect();
    assert_eq!(thresholds, [0.1, 0.2, 0.5]);
}

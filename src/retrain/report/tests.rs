use super::*;
use crate::retrain::judge::{JudgeConfig, Trial, judge};
use ndarray::{ArrayView2, arr2};

#[test]
fn known_labels_are_counted_by_how_sure_the_model_is() {
    let logits = arr2(&[[4.0, 4.0, -4.0], [-4.0, 0.0, 4.0]]);
    let labels = arr2(&[[1, -1, -1], [1, 1, 0]]);
    let counts = |temperature| {
        let measured = Confidence::measure(logits.view(), labels.view(), temperature);
        measured.ranges.map(|r| (r.known, r.present))
    };
    // Zero is a probability of one half, which belongs to the range above it.
    assert_eq!(
        counts(1.0),
        [(2, 1), (0, 0), (0, 0), (1, 1), (0, 0), (2, 1)]
    );
    // A temperature makes the same logits less sure.
    assert_eq!(
        counts(4.0),
        [(0, 0), (2, 1), (0, 0), (1, 1), (2, 1), (0, 0)]
    );
}

fn tag(category: &str, x: f32) -> ExampleTag {
    ExampleTag {
        category: category.into(),
        score: 0.5,
        boxes: vec![BoundingBox {
            x,
            y: 0.0,
            w: 0.5,
            h: 0.5,
        }],
    }
}

#[test]
fn tags_with_one_box_share_its_label() {
    let boxes = page::boxes(&[tag("house", 0.5), tag("cup", 0.0), tag("mushroom", 0.5)]);
    let named: Vec<_> = boxes.iter().map(|(_, names)| names.as_str()).collect();
    assert_eq!(named, ["house, mushroom", "cup"]);
}

#[test]
fn the_page_escapes_what_it_shows_and_survives_nothing_measured() {
    let nasty = "<script>alert('x')</script>".to_owned();
    let judgement = judge(
        &Trial {
            categories: &[],
            candidate: ArrayView2::from(&[[]; 0]),
            champion: ArrayView2::from(&[[]; 0]),
            labels: ArrayView2::from(&[[]; 0]),
            groups: &[],
            parts: &[],
            tags: None,
            look: 1,
        },
        &[],
        &JudgeConfig::default(),
        0,
    );
    let example = Example {
        image_id: nasty.clone(),
        picture: vec![1, 2, 3],
        present: vec![nasty.clone()],
        absent: Vec::new(),
        before: Vec::new(),
        after: vec![tag(&nasty, 0.0)],
    };
    let thinned = Thinned {
        images: 3,
        known: 5,
        present: BTreeMap::from([(nasty.clone(), 4)]),
    };
    let facts = ReportFacts {
        run: &nasty,
        written: Utc::now(),
        champion: &nasty,
        champion_version: Some(1),
        candidate: &nasty,
        method: &nasty,
        seed: 0,
        code_version: "0",
        judgement: &judgement,
        labels: LabelFacts {
            snapshot: "short".into(),
            images: 0,
            known: 0,
            used_images: 0,
            used_known: 0,
            left_out: Some(&thinned),
            judged_images: 0,
            judged_known: 0,
            groups: 0,
            with_relatives: 0,
            not_compared: 1,
            folds: 5,
            without_uri: 1,
            of_unknown_categories: 1,
            new_categories: vec![nasty.clone()],
            categories: BTreeMap::from([(nasty.clone(), CategoryCount::default())]),
        },
        confidence: &[Confidence::default(); 2],
        curves: &[],
        cost: &Cost::default(),
        drift: None,
        examples: &[example],
    };
    let html = page::html(&facts);
    assert!(!html.contains("<script"), "unescaped text");
    // Pictures are base64, in which any three letters may stand.
    let words: String = html
        .split("base64,")
        .map(|part| part.split_once('"').map_or(part, |(_, rest)| rest))
        .collect();
    assert!(!words.contains("NaN"));
    assert!(
        !html.contains("http://") && !html.contains("https://"),
        "it needs nothing else"
    );
}

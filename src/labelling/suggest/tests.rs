use super::*;
use crate::stage::sink::parquet;
use crate::stage::sink::predictions::{ModelStamp, PredictionLayout, PredictionRow};
use crate::stage::sink::table::TableRow;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use tagstream_core::config::VectorEncoding;
use tagstream_core::events::{Offset, PartitionId};

async fn table(rows: &[(&str, [f32; 2], [f32; 2])]) -> TableStore {
    let layout = Arc::new(PredictionLayout {
        categories: vec!["cat".into(), "dog".into()],
        display: Default::default(),
        embedding: 2,
        region_embeddings: false,
        boxes: Default::default(),
        records: false,
    });
    let rows: Vec<PredictionRow> = rows
        .iter()
        .enumerate()
        .map(|(offset, (id, scores, embedding))| PredictionRow {
            image_id: id.to_string(),
            uri: format!("s3://b/{id}.jpg"),
            event_time: chrono::DateTime::UNIX_EPOCH,
            processed_time: chrono::DateTime::UNIX_EPOCH,
            partition: PartitionId::new("images", 0),
            offset: Offset(offset as i64),
            record: 0,
            model: Arc::new(ModelStamp {
                version: "m".into(),
                preprocessing_hash: "h".into(),
            }),
            width: 1,
            height: 1,
            tags: Vec::new(),
            scores: scores.to_vec(),
            embedding: embedding.to_vec(),
            attributes: BTreeMap::new(),
            layout: Arc::clone(&layout),
            trace: Default::default(),
        })
        .collect();
    let entries = PredictionRow::describe(&layout, &rows)
        .into_iter()
        .collect();
    let bytes = parquet::encode(&*layout, &rows, &entries, VectorEncoding::Plain).unwrap();
    let store = TableStore::in_memory();
    let path = Path::from("predictions/images/0/0-00.parquet");
    store.put_if_absent(&path, bytes.into()).await.unwrap();
    store
}

fn ids(suggestions: &[Suggestion]) -> Vec<&str> {
    suggestions.iter().map(|s| s.image_id.as_str()).collect()
}

#[tokio::test]
async fn the_uncertain_come_first_and_near_alike_pictures_once() {
    let store = table(&[
        ("sure", [0.99, 0.01], [0.0, 1.0]),
        ("torn", [0.5, 0.5], [1.0, 0.0]),
        ("torn twin", [0.5, 0.49], [1.0, 0.0]),
        ("unsure", [0.3, 0.9], [0.0, 1.0]),
    ])
    .await;
    let options = SuggestOptions {
        count: 2,
        measure: 0.0,
        ..SuggestOptions::default()
    };
    let nothing = LabelTable::default();
    let chosen = suggest(&store, "predictions", &nothing, &options)
        .await
        .unwrap();
    assert_eq!(ids(&chosen), ["torn", "unsure"]);
    assert_eq!(chosen[0].uri, "s3://b/torn.jpg");
    let question = chosen[0].question(1);
    assert_eq!((question.rank, question.value), (1, chosen[0].value));
    assert_eq!(question.event, LabelEvent::about("torn", "s3://b/torn.jpg"));
    let asked: Vec<_> = question.ask.iter().map(|a| a.category.as_str()).collect();
    assert_eq!((asked.len(), question.ask[0].score), (2, 0.5));
    let all = SuggestOptions {
        count: 9,
        ..options
    };
    assert_eq!(
        suggest(&store, "predictions", &nothing, &all)
            .await
            .unwrap()
            .len(),
        4
    );
}

#[tokio::test]
async fn what_is_known_is_not_asked_and_the_rare_weighs_more() {
    let store = table(&[
        ("a", [0.5, 0.05], [1.0, 0.0]),
        ("b", [0.05, 0.5], [0.0, 1.0]),
    ])
    .await;
    let event = |image: &str, category: &str| LabelEvent {
        present: vec![category.into()],
        ..LabelEvent::about(image, "")
    };
    let options = SuggestOptions {
        count: 1,
        questions: 1,
        measure: 0.0,
        ..SuggestOptions::default()
    };
    let one = |events: Vec<LabelEvent>| {
        let (store, options) = (&store, &options);
        async move {
            let labels = LabelTable::of_events(&events);
            suggest(store, "predictions", &labels, options)
                .await
                .unwrap()
        }
    };
    let known = one(vec![event("a", "cat")]).await;
    assert_eq!(ids(&known), ["b"]);
    assert_eq!(known[0].ask[0].0, "dog");
    let many_dogs = (0..20)
        .map(|i| event(&format!("other {i}"), "dog"))
        .collect();
    assert_eq!(ids(&one(many_dogs).await), ["a"]);
}

#[tokio::test]
async fn where_the_whole_image_says_something_else_a_label_teaches_more() {
    // Three pictures on which both views agree about cats, and two on which they do not; all are
    // equally uncertain but one.
    let store = table(&[
        ("plain", [0.2, 0.5], [0.0, 1.0]),
        ("cat", [0.8, 0.5], [1.0, 0.0]),
        ("said, not seen", [0.2, 0.5], [1.0, 0.0]),
        ("plain too", [0.2, 0.5], [0.0, 1.0]),
    ])
    .await;
    let options = SuggestOptions {
        count: 1,
        questions: 1,
        view: Some(GlobalView {
            model_version: "m".into(),
            directions: vec![1.0, 0.0, 0.5, 0.5],
        }),
        measure: 0.0,
        ..SuggestOptions::default()
    };
    let known_dogs: Vec<LabelEvent> = ["plain", "cat", "said, not seen", "plain too"]
        .iter()
        .map(|image| LabelEvent {
            absent: vec!["dog".into()],
            ..LabelEvent::about(*image, "")
        })
        .collect();
    let labels = LabelTable::of_events(&known_dogs);
    let chosen = suggest(&store, "predictions", &labels, &options).await;
    assert_eq!(ids(&chosen.unwrap()), ["said, not seen"]);
    // Rows of another model are none of this one's business.
    let other = SuggestOptions {
        view: options.view.clone().map(|view| GlobalView {
            model_version: "another".into(),
            ..view
        }),
        ..options
    };
    let chosen = suggest(&store, "predictions", &labels, &other).await;
    assert_eq!(ids(&chosen.unwrap()), [""; 0]);
}

#[tokio::test]
async fn one_category_does_not_take_all_questions() {
    let store = table(&[
        ("a cat", [0.5, 0.0], [1.0, 0.0]),
        ("another cat", [0.5, 0.0], [0.0, 1.0]),
        ("a dog", [0.0, 0.45], [0.0, -1.0]),
    ])
    .await;
    let options = SuggestOptions {
        count: 3,
        questions: 1,
        measure: 0.0,
        ..SuggestOptions::default()
    };
    let chosen = suggest(&store, "predictions", &LabelTable::default(), &options).await;
    // The dog is a little surer. Once a cat is asked for, which is there as likely as not, another
    // teaches less.
    assert_eq!(ids(&chosen.unwrap()), ["a cat", "a dog", "another cat"]);
}

#[tokio::test]
async fn measuring_questions_are_drawn_evenly_of_images_of_their_own() {
    let names: Vec<String> = (0..400).map(|i| format!("img-{i}")).collect();
    // Half of the images are doubtful: learning asks about those alone.
    let rows: Vec<(&str, [f32; 2], [f32; 2])> = names
        .iter()
        .enumerate()
        .map(|(i, id)| {
            let doubt = if i % 2 == 0 { 0.5 } else { 0.001 };
            let turn = i as f32;
            (id.as_str(), [doubt, doubt], [turn.cos(), turn.sin()])
        })
        .collect();
    let store = table(&rows).await;
    let options = SuggestOptions {
        count: 50,
        measure: 0.4,
        questions: 1,
        ..SuggestOptions::default()
    };
    let asked = async |labels: &LabelTable| {
        let asked = suggest(&store, "predictions", labels, &options).await;
        asked.unwrap()
    };
    let first = asked(&LabelTable::default()).await;
    let (measuring, learning): (Vec<_>, Vec<_>) = first
        .iter()
        .partition(|s| s.purpose == QuestionPurpose::Measuring);
    assert_eq!((measuring.len(), learning.len()), (20, 30));
    let number = |s: &&Suggestion| s.image_id["img-".len()..].parse::<usize>().unwrap();
    assert!(
        learning
            .iter()
            .all(|s| number(s) % 2 == 0 && !is_for_measuring(&s.image_id))
    );
    let odd = measuring.iter().filter(|s| number(s) % 2 == 1).count();
    assert!((4..=16).contains(&odd), "{odd} of 20 are of the sure half");
    assert!(measuring.iter().all(|s| is_for_measuring(&s.image_id)));
    let cats = measuring.iter().filter(|s| s.ask[0].0 == "cat").count();
    assert!(
        (4..=16).contains(&cats),
        "{cats} of 20 ask about one category"
    );
    // Both kinds among the first ten, and the same again.
    let early = first[..10]
        .iter()
        .filter(|s| s.purpose == QuestionPurpose::Measuring);
    assert_eq!(early.count(), 4);
    assert_eq!(asked(&LabelTable::default()).await, first);
    // What was answered is not asked again; other images for measuring are.
    let event = LabelEvent {
        present: vec!["cat".into()],
        ..LabelEvent::about(&measuring[0].image_id, "")
    };
    let again = asked(&LabelTable::of_events(&[event])).await;
    assert!(!again.iter().any(|s| s.image_id == measuring[0].image_id));
    assert_eq!(
        again
            .iter()
            .filter(|s| s.purpose == QuestionPurpose::Measuring)
            .count(),
        20
    );
}

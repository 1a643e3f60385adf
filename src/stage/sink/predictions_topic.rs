//! The predictions topic: what a row says, as JSON, keyed by image; at least once, each with the
//! key that makes duplicates recognisable.

use super::predictions::PredictionRow;
use super::producer::Outgoing;
use std::sync::Arc;
use tagstream_core::events::{Prediction, SourcePosition, Tag};

/// The message for `row`.
pub fn message(topic: &Arc<str>, row: &PredictionRow, with_embedding: bool) -> Outgoing {
    let tags = row.tags.iter().filter_map(|tag| {
        Some(Tag {
            category: row.layout.categories.get(tag.category)?.clone(),
            score: tag.score,
            bounding_box: tag.bounding_box,
        })
    });
    let prediction = Prediction {
        image_id: row.image_id.clone(),
        uri: row.uri.clone(),
        event_time: row.event_time,
        model_version: row.model.version.clone(),
        source: SourcePosition {
            topic: row.partition.topic.to_string(),
            partition: row.partition.partition,
            offset: row.offset,
        },
        tags: tags.collect(),
        embedding: with_embedding.then(|| row.embedding.clone()),
    };
    Outgoing {
        topic: Arc::clone(topic),
        key: Some(row.image_id.clone().into()),
        payload: Some(
            serde_json::to_vec(&prediction)
                .expect("a prediction is plain data")
                .into(),
        ),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::predictions::tests::{layout, row};

    #[test]
    fn a_row_becomes_its_prediction() {
        let message = message(&"predictions".into(), &row(4, &layout(false)), true);
        assert_eq!(message.key.as_deref(), Some(b"image-4".as_slice()));
        let read: Prediction = serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap();
        assert_eq!(read.source.offset.0, 4);
        assert_eq!(read.tags.len(), 1);
        assert_eq!(read.tags[0].category, "cat");
        assert_eq!(read.embedding.unwrap().len(), 4);
    }
}

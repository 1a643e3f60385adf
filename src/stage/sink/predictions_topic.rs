//! The predictions topic: what a row says, as JSON, keyed by image; at least once, each with the
//! key that makes duplicates recognisable.
//!
//! A prediction that its topic has no room for is shortened, one field after the other, and says in
//! `shortened` which; the row in the table is whole. `schemas/prediction.schema.json` says how.

use super::outgoing::{MessageForm, Outgoing, beginning};
use super::predictions::PredictionRow;
use bytes::Bytes;
use std::sync::Arc;
use tagstream_core::digest::sha256;
use tagstream_core::events::{Prediction, ShortenedField as Field, SourcePosition, Tag};

/// Longest beginning of an address that is kept, bytes.
const URI_KEPT: usize = 32;
/// Longest beginning of an image's id that is kept, bytes.
const ID_KEPT: usize = 16;
/// Stands where something was cut off.
const CUT: char = '…';

/// The message for `row`, with the headers of the message that asked for it.
pub fn message(
    topic: &Arc<str>,
    row: &PredictionRow,
    headers: &[(String, Option<Bytes>)],
    with_embedding: bool,
) -> Outgoing {
    let tags = row.tags.iter().filter_map(|tag| {
        let category = row.layout.categories.get(tag.category)?;
        Some(Tag {
            category: category.clone(),
            display: row.layout.display.get(category).cloned(),
            score: tag.score,
            bounding_box: tag.bounding_box,
            boxes: Some(tag.boxes.clone()),
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
            record: row.record,
        },
        tags: tags.collect(),
        attributes: row.attributes.clone(),
        embedding: with_embedding.then(|| row.embedding.clone()),
        shortened: Vec::new(),
    };
    let whole = Outgoing {
        topic: Arc::clone(topic),
        headers: headers.to_vec(),
        form: MessageForm::Prediction,
        ..Outgoing::default()
    };
    with_prediction(&whole, &prediction)
}

fn with_prediction(message: &Outgoing, prediction: &Prediction) -> Outgoing {
    let value = serde_json::to_vec(prediction).expect("a prediction is plain data");
    Outgoing {
        key: Some(prediction.image_id.clone().into()),
        payload: Some(value.into()),
        headers: match prediction.shortened.contains(&Field::Headers) {
            true => Vec::new(),
            false => message.headers.clone(),
        },
        ..message.clone()
    }
}

/// The form of `message` that leaves out least among those that `fits`.
pub(super) fn shortened(message: &Outgoing, fits: &dyn Fn(&Outgoing) -> bool) -> Option<Outgoing> {
    let whole: Prediction = serde_json::from_slice(message.payload.as_deref()?).ok()?;
    let without = |fields: &[Field]| {
        let mut prediction = whole.clone();
        for field in fields {
            match field {
                Field::Headers if message.headers.is_empty() => {}
                Field::Headers => prediction.shortened.push(Field::Headers),
                field => leave_out(&mut prediction, *field),
            }
        }
        prediction
    };
    let fields = [
        Field::Embedding,
        Field::Uri,
        Field::ImageId,
        Field::Attributes,
        Field::Headers,
    ];
    // Each by itself, then more and more of them.
    let steps = fields
        .chunks(1)
        .chain((2..=fields.len()).map(|n| &fields[..n]));
    let found = steps
        .map(|fields| with_prediction(message, &without(fields)))
        .find(fits);
    found.or_else(|| {
        let mut least = without(&fields);
        leave_out(&mut least, Field::Tags);
        while !least.tags.is_empty() {
            let half = with_prediction(message, &least);
            if fits(&half) {
                return Some(half);
            }
            least.tags.truncate(least.tags.len() / 2);
        }
        let least = with_prediction(message, &least);
        fits(&least).then_some(least)
    })
}

/// Leaves a field out, or most of it, and says so.
fn leave_out(prediction: &mut Prediction, field: Field) {
    let (uri, id) = (&mut prediction.uri, &mut prediction.image_id);
    let changed = match field {
        Field::Embedding => prediction.embedding.take().is_some(),
        Field::Uri if uri.len() > URI_KEPT => {
            *uri = format!("{}{CUT}", beginning(uri, URI_KEPT));
            true
        }
        Field::Attributes => !std::mem::take(&mut prediction.attributes).is_empty(),
        // Two images never share a shortened id: it is the message's key, too.
        Field::ImageId if id.len() > ID_KEPT + 80 => {
            let hash = sha256(id.as_bytes());
            *id = format!("{}{CUT}sha256:{hash}", beginning(id, ID_KEPT));
            true
        }
        // The best come first.
        Field::Tags => {
            prediction.tags.truncate(prediction.tags.len() / 2);
            true
        }
        Field::Uri | Field::ImageId | Field::Headers => false,
    };
    if changed && !prediction.shortened.contains(&field) {
        prediction.shortened.push(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::predictions::tests::{layout, row};

    #[test]
    fn a_row_becomes_its_prediction() {
        let headers = [("trace".to_owned(), Some(Bytes::from_static(b"t-1")))];
        let row = row(4, &layout(false));
        let message = message(&"predictions".into(), &row, &headers, true);
        assert_eq!(message.headers, headers);
        assert_eq!(message.key.as_deref(), Some(b"image-4".as_slice()));
        let read: Prediction = serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap();
        assert_eq!(read.source.offset.0, 4);
        assert_eq!(read.tags.len(), 1);
        assert_eq!(read.tags[0].category, "cat");
        assert_eq!(read.embedding.unwrap().len(), 4);
        assert_eq!(read.attributes, row.attributes);
        assert!(read.shortened.is_empty());
    }

    #[test]
    fn what_people_are_shown_stands_beside_the_name() {
        let mut own = (*layout(false)).clone();
        own.display.insert("cat".into(), "Katze".into());
        let row = row(4, &Arc::new(own));
        let sent = message(&"predictions".into(), &row, &[], false);
        let tag = &read(&sent).tags[0];
        assert_eq!((tag.category.as_str(), tag.shown()), ("cat", "Katze"));
    }

    #[test]
    fn attributes_and_headers_that_take_the_room_are_left_out_and_said_to_be() {
        let mut row = row(4, &layout(false));
        let long = "x".repeat(5_000);
        let headers = [("trace".to_owned(), Some(Bytes::from(long.clone())))];
        let short = message(&"predictions".into(), &row, &headers, false);
        let short = shortened(&short, &|m| m.batch_bytes() <= 2_000).unwrap();
        assert_eq!(
            (read(&short).shortened, short.headers),
            (vec![Field::Headers], Vec::new())
        );
        assert_eq!(read(&short_of(&row)).attributes, row.attributes);
        row.attributes.insert("note".into(), long);
        let said = read(&short_of(&row));
        assert_eq!(said.shortened, [Field::Attributes]);
        assert!(said.attributes.is_empty());
    }

    fn short_of(row: &PredictionRow) -> Outgoing {
        let whole = message(&"predictions".into(), row, &[], false);
        shortened(&whole, &|m| m.batch_bytes() <= 2_000).unwrap()
    }

    /// Sizes of what a prediction repeats or holds, each beyond 100,000 bytes if asked for.
    fn large(uri: bool, id: bool, embedding: bool, tags: bool) -> Outgoing {
        let layout = layout(false);
        let mut row = row(4, &layout);
        let long = |start: &str| format!("{start}{}", "\u{7}ä".repeat(50_000));
        if uri {
            row.uri = long("data:image/png;base64,");
        }
        if id {
            row.image_id = long("id");
        }
        if embedding {
            row.embedding = vec![0.123_456; 20_000];
        }
        if tags {
            let tag = row.tags[0].clone();
            row.tags = vec![tag; 5_000];
        }
        message(&"predictions".into(), &row, &[], true)
    }

    fn read(message: &Outgoing) -> Prediction {
        serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn only_what_takes_the_room_is_shortened_and_said_to_be() {
        for (uri, id, embedding, tags, fields) in [
            (true, false, false, false, &[Field::Uri][..]),
            (false, true, false, false, &[Field::ImageId]),
            (false, false, true, false, &[Field::Embedding]),
            (true, false, true, false, &[Field::Embedding, Field::Uri]),
            (
                true,
                true,
                true,
                false,
                &[Field::Embedding, Field::Uri, Field::ImageId],
            ),
        ] {
            let whole = large(uri, id, embedding, tags);
            let short = shortened(&whole, &|m| m.batch_bytes() <= 2_000).unwrap();
            let (before, after) = (read(&whole), read(&short));
            assert_eq!(after.shortened, fields);
            assert_eq!((&after.source, &after.tags), (&before.source, &before.tags));
            assert_eq!(after.model_version, before.model_version);
            assert_eq!(after.uri == before.uri, !uri);
            assert_eq!(short.key.as_deref(), Some(after.image_id.as_bytes()));
        }
    }

    #[test]
    fn the_best_tags_stay_and_the_least_form_fits_the_least_limit() {
        let whole = large(true, true, true, true);
        let short = shortened(&whole, &|m| m.batch_bytes() <= 20_000).unwrap();
        let tags = read(&short).tags.len();
        assert!((50..5_000).contains(&tags), "{tags} tags");
        assert!(read(&short).shortened.contains(&Field::Tags));
        let least = super::super::outgoing::LEAST_LIMIT;
        let short = shortened(&whole, &|m| m.batch_bytes() <= least).unwrap();
        assert_eq!(read(&short).source, read(&whole).source);
        assert!(shortened(&whole, &|_| false).is_none());
    }

    #[test]
    fn long_ids_that_begin_alike_stay_apart() {
        let key = |end: &str| {
            let mut row = row(4, &layout(false));
            row.image_id = format!("{}{end}", "a".repeat(5_000));
            let whole = message(&"predictions".into(), &row, &[], false);
            shortened(&whole, &|m| m.batch_bytes() <= 2_000)
                .unwrap()
                .key
        };
        assert_ne!(key("1"), key("2"));
    }
}

//! Rows of the predictions table as pages need them.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, StringArray, StructArray};
use chrono::{DateTime, Utc};
use tagstream_core::events::{BoundingBox, Tag};

/// A tagged picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TaggedPicture {
    /// The image's name.
    pub image_id: String,
    /// Where it is; not for pages.
    pub uri: String,
    /// When it came to be.
    pub event_time: DateTime<Utc>,
    /// When it was tagged.
    pub processed_time: DateTime<Utc>,
    /// The model that tagged it.
    pub model_version: String,
    /// Tags, best first.
    pub tags: Vec<Tag>,
}

/// The columns that [`pictures`] reads.
pub(crate) const COLUMNS: [&str; 6] = [
    "image_id",
    "uri",
    "event_time",
    "processed_time",
    "model_version",
    "tags",
];

/// The rows of a batch.
///
/// # Errors
/// What is wrong with a column, to stand behind the file's name.
pub(crate) fn pictures(batch: &RecordBatch) -> Result<Vec<TaggedPicture>, String> {
    let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
    let versions = strings(batch, "model_version")?;
    let event_times = times(batch, "event_time")?;
    let processed_times = times(batch, "processed_time")?;
    let wrong = || "its column `tags` holds no tags".to_owned();
    let lists = column(batch, "tags")?
        .as_list_opt::<i32>()
        .ok_or_else(wrong)?;
    (0..batch.num_rows())
        .map(|row| {
            let tags = lists.value(row);
            let tags = tags.as_struct_opt().ok_or_else(wrong)?;
            Ok(TaggedPicture {
                image_id: ids.value(row).to_owned(),
                uri: uris.value(row).to_owned(),
                event_time: event_times[row],
                processed_time: processed_times[row],
                model_version: versions.value(row).to_owned(),
                tags: tags_of(tags).ok_or_else(wrong)?,
            })
        })
        .collect()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, String> {
    let found = batch.column_by_name(name).map(|column| column.as_ref());
    found.ok_or_else(|| format!("it has no column `{name}`"))
}

fn strings<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, String> {
    let found = column(batch, name)?.as_string_opt::<i32>();
    found.ok_or_else(|| format!("its column `{name}` holds no strings"))
}

fn times(batch: &RecordBatch, name: &str) -> Result<Vec<DateTime<Utc>>, String> {
    let wrong = || format!("its column `{name}` holds no times");
    let found = column(batch, name)?.as_primitive_opt::<TimestampMicrosecondType>();
    let values = found.ok_or_else(wrong)?.values().iter();
    values
        .map(|micros| DateTime::from_timestamp_micros(*micros).ok_or_else(wrong))
        .collect()
}

fn tags_of(tags: &StructArray) -> Option<Vec<Tag>> {
    let floats = |of: &StructArray, name: &str| {
        let found = of.column_by_name(name)?.as_primitive_opt::<Float32Type>()?;
        Some(found.clone())
    };
    let names = tags.column_by_name("category")?.as_string_opt::<i32>()?;
    let scores = floats(tags, "score")?;
    let boxes = tags.column_by_name("box")?.as_struct_opt()?;
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| floats(boxes, name));
    let (x, y, w, h) = (x?, y?, w?, h?);
    let tag = |at: usize| Tag {
        category: names.value(at).to_owned(),
        score: scores.value(at),
        bounding_box: BoundingBox {
            x: x.value(at),
            y: y.value(at),
            w: w.value(at),
            h: h.value(at),
        },
    };
    Some((0..tags.len()).map(tag).collect())
}

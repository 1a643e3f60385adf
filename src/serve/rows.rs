//! Rows of the predictions table as pages need them.

use crate::stage::sink::predictions::DISPLAY_NAMES;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, TimestampMicrosecondType};
use arrow_array::{
    Array, Float32Array, Int32Array, ListArray, RecordBatch, StringArray, StructArray,
};
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use tagstream_core::events::{BoundingBox, Tag, TagBox};

/// What pages show of a row of the predictions table.
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

/// The columns that [`pictures`] reads; `boxes` where a table has it.
pub(crate) const COLUMNS: [&str; 7] = [
    "image_id",
    "uri",
    "event_time",
    "processed_time",
    "model_version",
    "tags",
    BOXES,
];

const BOXES: &str = "boxes";

/// The columns of [`PictureRows::size`].
pub(crate) const SIZE: [&str; 2] = ["width", "height"];

/// A batch's rows, each made when it is asked for.
pub(crate) struct PictureRows<'a> {
    ids: &'a StringArray,
    uris: &'a StringArray,
    versions: &'a StringArray,
    sizes: [Option<&'a Int32Array>; 2],
    event_times: Vec<DateTime<Utc>>,
    processed_times: Vec<DateTime<Utc>>,
    tags: &'a ListArray,
    /// Where each tag was seen, in tables that have all of it.
    boxes: Option<&'a ListArray>,
    /// What people are shown instead of categories' names.
    display: HashMap<String, String>,
}

impl<'a> PictureRows<'a> {
    /// The columns of [`COLUMNS`].
    ///
    /// # Errors
    /// What is wrong with a column, to stand behind the file's name.
    pub(crate) fn of(
        batch: &'a RecordBatch,
        footer: &HashMap<String, String>,
    ) -> Result<Self, String> {
        let display = footer
            .get(DISPLAY_NAMES)
            .map(|names| serde_json::from_str(names));
        let display = display
            .transpose()
            .map_err(|_| format!("its footer's `{DISPLAY_NAMES}` is no object of names"))?;
        let tags = column(batch, "tags")?.as_list_opt::<i32>();
        Ok(PictureRows {
            ids: strings(batch, "image_id")?,
            uris: strings(batch, "uri")?,
            versions: strings(batch, "model_version")?,
            sizes: SIZE.map(|name| {
                let column = batch.column_by_name(name)?;
                column.as_primitive_opt::<Int32Type>()
            }),
            event_times: times(batch, "event_time")?,
            processed_times: times(batch, "processed_time")?,
            tags: tags.ok_or_else(no_tags)?,
            boxes: batch
                .column_by_name(BOXES)
                .map(|column| column.as_list_opt::<i32>().ok_or_else(no_boxes))
                .transpose()?,
            display: display.unwrap_or_default(),
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// A row's image.
    pub(crate) fn image_id(&self, row: usize) -> &str {
        self.ids.value(row)
    }

    /// The model that made a row.
    pub(crate) fn model_version(&self, row: usize) -> &str {
        self.versions.value(row)
    }

    /// A row's width and height, pixels of the upright image; none without the columns.
    pub(crate) fn size(&self, row: usize) -> Option<(u32, u32)> {
        let [width, height] = self.sizes;
        let side = |column: &Int32Array| u32::try_from(column.value(row)).ok();
        let (width, height) = (side(width?)?, side(height?)?);
        (width > 0 && height > 0).then_some((width, height))
    }

    /// When a row's image came to be.
    pub(crate) fn event_time(&self, row: usize) -> DateTime<Utc> {
        self.event_times[row]
    }

    /// When a row was made.
    pub(crate) fn processed_time(&self, row: usize) -> DateTime<Utc> {
        self.processed_times[row]
    }

    /// A whole row.
    ///
    /// # Errors
    /// As [`PictureRows::of`].
    pub(crate) fn picture(&self, row: usize) -> Result<TaggedPicture, String> {
        let tags = self.tags.value(row);
        let mut tags = tags.as_struct_opt().and_then(tags_of).ok_or_else(no_tags)?;
        if let Some(boxes) = self.boxes {
            let boxes = boxes.value(row);
            let boxes = boxes.as_list_opt::<i32>().ok_or_else(no_boxes)?;
            for (at, tag) in tags.iter_mut().enumerate() {
                let own = (at < boxes.len()).then(|| boxes.value(at));
                let own = own.and_then(|own| own.as_struct_opt().and_then(boxes_of));
                tag.boxes = Some(own.ok_or_else(no_boxes)?);
            }
        }
        for tag in &mut tags {
            tag.display = self.display.get(&tag.category).cloned();
        }
        Ok(TaggedPicture {
            image_id: self.ids.value(row).to_owned(),
            uri: self.uris.value(row).to_owned(),
            event_time: self.event_times[row],
            processed_time: self.processed_times[row],
            model_version: self.versions.value(row).to_owned(),
            tags,
        })
    }
}

fn no_tags() -> String {
    "its column `tags` holds no tags".to_owned()
}

fn no_boxes() -> String {
    format!("its column `{BOXES}` holds no boxes")
}

/// All rows of a batch.
///
/// # Errors
/// As [`PictureRows::of`].
pub(crate) fn pictures(
    batch: &RecordBatch,
    footer: &HashMap<String, String>,
) -> Result<Vec<TaggedPicture>, String> {
    let rows = PictureRows::of(batch, footer)?;
    (0..rows.len()).map(|row| rows.picture(row)).collect()
}

/// The vectors of a column, one after another, and the length of one.
///
/// # Errors
/// As [`PictureRows::of`].
pub(crate) fn vectors<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<(&'a [f32], usize), String> {
    let wrong = || format!("its column `{name}` holds no vectors");
    let lists = column(batch, name)?
        .as_fixed_size_list_opt()
        .ok_or_else(wrong)?;
    let values = lists
        .values()
        .as_primitive_opt::<Float32Type>()
        .ok_or_else(wrong)?;
    let length = usize::try_from(lists.value_length()).map_err(|_| wrong())?;
    let start = lists.offset() * length;
    Ok((
        &values.values()[start..start + lists.len() * length],
        length,
    ))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, String> {
    let found = batch.column_by_name(name).map(|column| column.as_ref());
    found.ok_or_else(|| format!("it has no column `{name}`"))
}

/// The strings of a column.
///
/// # Errors
/// As [`PictureRows::of`].
pub(crate) fn strings<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, String> {
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
    let names = tags.column_by_name("category")?.as_string_opt::<i32>()?;
    let scores = floats(tags, "score")?;
    let boxes = tags.column_by_name("box")?.as_struct_opt()?;
    let edges = Edges::of(boxes)?;
    let tag = |at: usize| Tag {
        category: names.value(at).to_owned(),
        display: None,
        score: scores.value(at),
        bounding_box: match boxes.is_valid(at) {
            true => edges.at(at),
            false => BoundingBox::WHOLE,
        },
        boxes: None,
    };
    Some((0..tags.len()).map(tag).collect())
}

fn boxes_of(boxes: &StructArray) -> Option<Vec<TagBox>> {
    let (edges, scores) = (Edges::of(boxes)?, floats(boxes, "score")?);
    let found = (0..boxes.len()).map(|at| TagBox {
        bounding_box: edges.at(at),
        score: scores.value(at),
    });
    Some(found.collect())
}

fn floats<'a>(of: &'a StructArray, name: &str) -> Option<&'a Float32Array> {
    of.column_by_name(name)?.as_primitive_opt::<Float32Type>()
}

/// The columns of boxes.
struct Edges<'a>([&'a Float32Array; 4]);

impl<'a> Edges<'a> {
    fn of(boxes: &'a StructArray) -> Option<Self> {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| floats(boxes, name));
        Some(Edges([x?, y?, w?, h?]))
    }

    fn at(&self, at: usize) -> BoundingBox {
        let [x, y, w, h] = self.0.map(|edge| edge.value(at));
        BoundingBox { x, y, w, h }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::predictions::tests::{layout, row};
    use crate::stage::sink::predictions::{PredictionLayout, PredictionRow};
    use crate::stage::sink::table::TableRow;
    use std::sync::Arc;
    use tagstream_core::config::BoxForm;

    /// Tables of both forms, with tags that a region supports and tags that none does.
    #[test]
    fn boxes_are_read_whatever_a_table_says_of_them() {
        for form in [BoxForm::One, BoxForm::All, BoxForm::Masks] {
            let layout = Arc::new(PredictionLayout {
                boxes: form,
                ..(*layout(false)).clone()
            });
            let (here, mut nowhere) = (row(1, &layout), row(1, &layout));
            nowhere.tags[0].boxes.clear();
            nowhere.tags[0].masks.clear();
            nowhere.tags[0].bounding_box = BoundingBox::WHOLE;
            let batch = PredictionRow::batch(&layout, &[here, nowhere]).unwrap();
            let read = pictures(&batch, &HashMap::new()).unwrap();
            let [here, nowhere] = [&read[0].tags[0], &read[1].tags[0]];
            assert_eq!(here.shown_boxes().len(), 1, "{form:?}");
            assert_eq!(here.bounding_box, here.shown_boxes()[0]);
            assert!(nowhere.shown_boxes().is_empty(), "{form:?}");
            assert_eq!(here.boxes.is_some(), form != BoxForm::One);
            let tags = batch["tags"].as_list::<i32>().values().as_struct().clone();
            let nulls = tags.column_by_name("box").unwrap().null_count();
            assert_eq!(nulls, usize::from(form != BoxForm::One));
            assert_eq!(
                batch.column_by_name("boxes").is_some(),
                form != BoxForm::One
            );
        }
    }
}

//! The predictions table: a row for each image that was tagged. `schemas/predictions.table.json`
//! states the same columns.

mod boxes;

use super::table::TableRow;
use crate::stage::trace::ImageTrace;
use arrow_array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, ListArray, MapArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, Fields};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tagstream_core::config::BoxForm;
use tagstream_core::events::{BoundingBox, Offset, PartitionId, TagBox};
use tagstream_model::saliency::RegionMask;

/// The footer's key of what people are shown instead of categories' names: a JSON object, only
/// where there is any.
pub const DISPLAY_NAMES: &str = "tagstream.display_names";

/// What decides the table's column types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictionLayout {
    /// Category names in the order of the score vector (C).
    pub categories: Vec<String>,
    /// What people are shown instead of a name, where that is something else.
    pub display: BTreeMap<String, String>,
    /// Length of an embedding (D).
    pub embedding: usize,
    /// Whether there is a column of region embeddings.
    pub region_embeddings: bool,
    /// What is said of the places where tags are seen.
    pub boxes: BoxForm,
    /// Whether one message may be several rows, told apart by the column `record`.
    pub records: bool,
}

/// What made a prediction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelStamp {
    /// The bundle's id.
    pub version: String,
    /// The hash of its preprocessing.
    pub preprocessing_hash: String,
}

/// A category that was found, as the table has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RowTag {
    /// Index into the layout's categories.
    pub category: usize,
    /// Calibrated probability.
    pub score: f32,
    /// Where it was seen best; the whole picture where no region supports it.
    pub bounding_box: BoundingBox,
    /// Where it was seen, the surest first.
    pub boxes: Vec<TagBox>,
    /// The cells of each box that belong to its region, if the layout has them.
    pub masks: Vec<RegionMask>,
    /// The region's embedding, `[D]`, if the layout has them.
    pub region: Option<Vec<f32>>,
}

/// A row of the predictions table.
#[derive(Debug, Clone)]
pub struct PredictionRow {
    /// The image's name.
    pub image_id: String,
    /// The image's address.
    pub uri: String,
    /// When the image came to be.
    pub event_time: DateTime<Utc>,
    /// When the row was made.
    pub processed_time: DateTime<Utc>,
    /// The partition that the message came from.
    pub partition: PartitionId,
    /// The message's offset.
    pub offset: Offset,
    /// Which of the message's records it is, from 0.
    pub record: u32,
    /// What made the prediction.
    pub model: Arc<ModelStamp>,
    /// The upright image's width, pixels.
    pub width: u32,
    /// The upright image's height, pixels.
    pub height: u32,
    /// Tags, best first.
    pub tags: Vec<RowTag>,
    /// Calibrated probabilities, `[C]`.
    pub scores: Vec<f32>,
    /// The image's embedding, `[D]`.
    pub embedding: Vec<f32>,
    /// Carried through from the reference.
    pub attributes: BTreeMap<String, String>,
    /// The row's layout.
    pub layout: Arc<PredictionLayout>,
    /// Where it is told what becomes of the row.
    pub trace: ImageTrace,
}

fn vectors(
    length: usize,
    values: impl Iterator<Item = f32>,
) -> Result<FixedSizeListArray, ArrowError> {
    let length = i32::try_from(length).map_err(|_| {
        ArrowError::InvalidArgumentError("a vector of more than 2^31 values".into())
    })?;
    let field = Arc::new(Field::new("element", DataType::Float32, false));
    FixedSizeListArray::try_new(
        field,
        length,
        Arc::new(Float32Array::from_iter_values(values)),
        None,
    )
}

fn structs(fields: Vec<(&str, ArrayRef)>) -> StructArray {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = fields
        .into_iter()
        .map(|(name, array)| (Field::new(name, array.data_type().clone(), false), array))
        .unzip();
    StructArray::new(Fields::from(fields), arrays, None)
}

fn list_of(
    values: ArrayRef,
    lengths: impl IntoIterator<Item = usize>,
) -> Result<ArrayRef, ArrowError> {
    let field = Arc::new(Field::new("element", values.data_type().clone(), false));
    Ok(Arc::new(ListArray::try_new(
        field,
        OffsetBuffer::from_lengths(lengths),
        values,
        None,
    )?))
}

fn times(rows: &[PredictionRow], of: impl Fn(&PredictionRow) -> DateTime<Utc>) -> ArrayRef {
    let values = rows.iter().map(|r| of(r).timestamp_micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// The tags of all rows, one after another.
fn tag_structs(
    layout: &PredictionLayout,
    rows: &[PredictionRow],
) -> Result<StructArray, ArrowError> {
    let tags = || rows.iter().flat_map(|r| &r.tags);
    let floats = |of: fn(&RowTag) -> f32| -> ArrayRef {
        Arc::new(Float32Array::from_iter_values(tags().map(of)))
    };
    let names = tags()
        .map(|t| layout.categories.get(t.category))
        .collect::<Option<Vec<_>>>();
    let names = names.ok_or_else(|| {
        ArrowError::InvalidArgumentError(
            "a tag names a category that the layout does not have".into(),
        )
    })?;
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
    let field = |name: &str, array: &ArrayRef, nullable: bool| {
        Field::new(name, array.data_type().clone(), nullable)
    };
    let (scores, best) = (floats(|t| t.score), boxes::best(layout.boxes, tags()));
    let fields = Fields::from(vec![
        field("category", &names, false),
        field("score", &scores, false),
        field("box", &best, layout.boxes != BoxForm::One),
    ]);
    StructArray::try_new(fields, vec![names, scores, best], None)
}

fn attributes(rows: &[PredictionRow]) -> Result<MapArray, ArrowError> {
    let field_names = MapFieldNames {
        entry: "key_value".into(),
        key: "key".into(),
        value: "value".into(),
    };
    let mut attributes = MapBuilder::new(
        Some(field_names),
        StringBuilder::new(),
        StringBuilder::new(),
    );
    for row in rows {
        for (key, value) in &row.attributes {
            attributes.keys().append_value(key);
            attributes.values().append_value(value);
        }
        attributes.append(true)?;
    }
    Ok(attributes.finish())
}

impl TableRow for PredictionRow {
    type Layout = PredictionLayout;
    const SCHEMA_VERSION: u32 = 1;
    const LOOKED_UP: &'static [&'static str] = &["image_id"];

    fn offset(&self) -> Offset {
        self.offset
    }

    fn settled(&self, file: Option<&str>) {
        match file {
            Some(file) => self.trace.committed(file, &self.model.version),
            None => self.trace.overtaken(),
        }
    }

    fn bytes(&self) -> u64 {
        let regions: usize = self
            .tags
            .iter()
            .map(|t| t.region.as_ref().map_or(0, Vec::len))
            .sum();
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(k, v)| k.len() + v.len() + 64)
            .sum();
        let places: usize = self.tags.iter().map(boxes::bytes).sum();
        let vectors = places + 4 * (self.scores.len() + self.embedding.len() + regions);
        let own = std::mem::size_of::<Self>() + self.tags.len() * std::mem::size_of::<RowTag>();
        (own + self.image_id.len() + self.uri.len() + vectors + attributes) as u64
    }

    fn layout(&self) -> &Arc<PredictionLayout> {
        &self.layout
    }

    fn batch(layout: &PredictionLayout, rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let strings = |of: fn(&Self) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
        };
        let integers = |of: fn(&Self) -> i32| -> ArrayRef {
            Arc::new(Int32Array::from_iter_values(rows.iter().map(of)))
        };
        let tags = || rows.iter().flat_map(|r| &r.tags);
        let tag_counts = || rows.iter().map(|r| r.tags.len());
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("image_id", strings(|r| &r.image_id)),
            ("uri", strings(|r| &r.uri)),
            ("event_time", times(rows, |r| r.event_time)),
            ("processed_time", times(rows, |r| r.processed_time)),
            ("topic", strings(|r| &r.partition.topic)),
            ("partition", integers(|r| r.partition.partition)),
            (
                "offset",
                Arc::new(Int64Array::from_iter_values(
                    rows.iter().map(|r| r.offset.0),
                )),
            ),
            ("model_version", strings(|r| &r.model.version)),
            ("width", integers(|r| r.width as i32)),
            ("height", integers(|r| r.height as i32)),
            (
                "tags",
                list_of(Arc::new(tag_structs(layout, rows)?), tag_counts())?,
            ),
            (
                "scores",
                Arc::new(vectors(
                    layout.categories.len(),
                    rows.iter().flat_map(|r| r.scores.iter().copied()),
                )?),
            ),
            (
                "embedding",
                Arc::new(vectors(
                    layout.embedding,
                    rows.iter().flat_map(|r| r.embedding.iter().copied()),
                )?),
            ),
        ];
        if layout.region_embeddings {
            let values = tags().flat_map(|t| t.region.iter().flatten().copied());
            let regions = vectors(layout.embedding, values)?;
            columns.push((
                "region_embeddings",
                list_of(Arc::new(regions), tag_counts())?,
            ));
        }
        if layout.boxes != BoxForm::One {
            let all: Vec<&RowTag> = tags().collect();
            let boxes = boxes::all(layout.boxes, &all)?;
            columns.push(("boxes", list_of(boxes, tag_counts())?));
        }
        columns.push(("attributes", Arc::new(attributes(rows)?)));
        if layout.records {
            columns.push(("record", integers(|r| r.record as i32)));
        }
        RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, array)| (name, array, false)),
        )
    }

    fn vector_columns(layout: &PredictionLayout) -> Vec<String> {
        let mut columns = vec![
            "scores.list.element".to_owned(),
            "embedding.list.element".to_owned(),
        ];
        if layout.region_embeddings {
            columns.push("region_embeddings.list.element.list.element".to_owned());
        }
        columns
    }

    fn describe(layout: &PredictionLayout, rows: &[Self]) -> Vec<(String, String)> {
        let distinct = |of: fn(&ModelStamp) -> &String| {
            let values: BTreeSet<&String> = rows.iter().map(|r| of(&r.model)).collect();
            serde_json::json!(values).to_string()
        };
        let mut all = vec![
            ("tagstream.model_versions".into(), distinct(|m| &m.version)),
            (
                "tagstream.preprocessing_hashes".into(),
                distinct(|m| &m.preprocessing_hash),
            ),
            (
                "tagstream.categories".into(),
                serde_json::json!(layout.categories).to_string(),
            ),
        ];
        if !layout.display.is_empty() {
            let names = serde_json::json!(layout.display).to_string();
            all.push((DISPLAY_NAMES.into(), names));
        }
        all
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn layout(region_embeddings: bool) -> Arc<PredictionLayout> {
        Arc::new(PredictionLayout {
            categories: vec!["cat".into(), "dog".into(), "kite".into()],
            display: BTreeMap::new(),
            embedding: 4,
            region_embeddings,
            boxes: BoxForm::One,
            records: false,
        })
    }

    pub(crate) fn row(offset: i64, layout: &Arc<PredictionLayout>) -> PredictionRow {
        let bounding_box = BoundingBox {
            x: 0.1,
            y: 0.2,
            w: 0.5,
            h: 0.25,
        };
        let tag = |category| RowTag {
            category,
            score: 0.75,
            bounding_box,
            boxes: vec![TagBox {
                bounding_box,
                score: 0.75,
            }],
            masks: vec![RegionMask {
                columns: 2,
                runs: vec![1, 3],
            }],
            region: layout.region_embeddings.then(|| vec![offset as f32; 4]),
        };
        PredictionRow {
            image_id: format!("image-{offset}"),
            uri: format!("file:///images/{offset}.jpg"),
            event_time: DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap(),
            processed_time: DateTime::from_timestamp_micros(1_700_000_000_500_000).unwrap(),
            partition: PartitionId::new("images", 0),
            offset: Offset(offset),
            record: 0,
            model: Arc::new(ModelStamp {
                version: "demo-1".into(),
                preprocessing_hash: "abc".into(),
            }),
            width: 640,
            height: 480,
            tags: (0..(offset % 3) as usize).map(tag).collect(),
            scores: vec![0.75, 0.5, offset as f32],
            embedding: vec![offset as f32, 1.0, -1.0, 0.5],
            attributes: [("site".to_owned(), format!("{offset}"))].into(),
            layout: Arc::clone(layout),
            trace: ImageTrace::default(),
        }
    }

    #[test]
    fn a_row_of_the_wrong_shape_is_refused() {
        let layout = layout(false);
        let mut short = row(1, &layout);
        short.scores.pop();
        assert!(PredictionRow::batch(&layout, &[short]).is_err());
        let mut strange = row(1, &layout);
        strange.tags[0].category = 9;
        assert!(PredictionRow::batch(&layout, &[strange]).is_err());
    }

    #[test]
    fn columns_are_those_of_the_published_schema() {
        let published: serde_json::Value =
            serde_json::from_str(include_str!("../../../schemas/predictions.table.json")).unwrap();
        let all = PredictionLayout {
            records: true,
            boxes: BoxForm::Masks,
            ..(*layout(true)).clone()
        };
        let schema = PredictionRow::schema(&all).unwrap();
        let ours: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let theirs: Vec<String> = published["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ours, theirs);
        assert_eq!(published["schema_version"], PredictionRow::SCHEMA_VERSION);
        for (field, column) in schema
            .fields()
            .iter()
            .zip(published["columns"].as_array().unwrap())
        {
            assert_eq!(
                describe_type(field.data_type()),
                column["type"].as_str().unwrap(),
                "{}",
                field.name()
            );
        }
    }

    fn describe_type(data_type: &DataType) -> String {
        match data_type {
            DataType::Utf8 => "string".into(),
            DataType::Int32 => "int32".into(),
            DataType::Int64 => "int64".into(),
            DataType::Float32 => "float32".into(),
            DataType::Timestamp(_, Some(zone)) => format!("timestamp(us, {zone})"),
            DataType::FixedSizeList(f, n) => {
                let length = if *n == 3 { "C" } else { "D" };
                format!(
                    "fixed_size_list<{}>[{length}]",
                    describe_type(f.data_type())
                )
            }
            DataType::List(f) => format!("list<{}>", describe_type(f.data_type())),
            DataType::Struct(fields) => {
                let inner: Vec<String> = fields
                    .iter()
                    .map(|f| format!("{}: {}", f.name(), describe_type(f.data_type())))
                    .collect();
                format!("struct<{}>", inner.join(", "))
            }
            DataType::Map(_, _) => "map<string, string>".into(),
            other => panic!("unexpected column type {other}"),
        }
    }
}

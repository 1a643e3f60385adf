//! Where tags were seen, as columns.

use super::{RowTag, structs};
use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::{ArrayRef, Float32Array, Int32Array, ListArray, StructArray};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{ArrowError, DataType, Field};
use std::sync::Arc;
use tagstream_core::config::BoxForm;
use tagstream_core::events::{BoundingBox, TagBox};

/// What a tag's places take of memory, bytes.
pub(super) fn bytes(tag: &RowTag) -> usize {
    let masks = tag
        .masks
        .iter()
        .map(|mask| 4 * mask.runs.len() + size_of_val(mask));
    tag.boxes.len() * size_of::<TagBox>() + masks.sum::<usize>()
}

/// The column `box` of all tags: each one's best; null where there is none and the form says so.
pub(super) fn best<'a>(form: BoxForm, tags: impl Iterator<Item = &'a RowTag> + Clone) -> ArrayRef {
    let boxes = structs(edges(tags.clone().map(|tag| tag.bounding_box)));
    if form == BoxForm::One {
        return Arc::new(boxes);
    }
    let known: NullBuffer = tags.map(|tag| !tag.boxes.is_empty()).collect();
    let (fields, edges, _) = boxes.into_parts();
    Arc::new(StructArray::new(fields, edges, Some(known)))
}

/// The lists of boxes of all tags, one after another.
pub(super) fn all(form: BoxForm, tags: &[&RowTag]) -> Result<ArrayRef, ArrowError> {
    let boxes = || tags.iter().flat_map(|tag| &tag.boxes);
    let mut columns = edges(boxes().map(|found| found.bounding_box));
    let scores = Float32Array::from_iter_values(boxes().map(|found| found.score));
    columns.push(("score", Arc::new(scores)));
    if form == BoxForm::Masks {
        columns.push(("mask", masks(tags)?));
    }
    let items = structs(columns);
    let field = Arc::new(Field::new("element", arrow_type(&items), false));
    let lengths = OffsetBuffer::from_lengths(tags.iter().map(|tag| tag.boxes.len()));
    Ok(Arc::new(ListArray::try_new(
        field,
        lengths,
        Arc::new(items),
        None,
    )?))
}

fn arrow_type(items: &StructArray) -> DataType {
    DataType::Struct(items.fields().clone())
}

fn masks(tags: &[&RowTag]) -> Result<ArrayRef, ArrowError> {
    if tags.iter().any(|tag| tag.masks.len() != tag.boxes.len()) {
        let message = "a box without the mask that the layout has";
        return Err(ArrowError::InvalidArgumentError(message.into()));
    }
    let masks = || tags.iter().flat_map(|tag| &tag.masks);
    let widths = Int32Array::from_iter_values(masks().map(|mask| mask.columns as i32));
    let field = Field::new("element", DataType::Int32, false);
    let mut runs = ListBuilder::new(Int32Builder::new()).with_field(field);
    for mask in masks() {
        runs.append_value(mask.runs.iter().map(|run| Some(*run as i32)));
    }
    Ok(Arc::new(structs(vec![
        ("columns", Arc::new(widths)),
        ("runs", Arc::new(runs.finish())),
    ])))
}

fn edges(boxes: impl Iterator<Item = BoundingBox> + Clone) -> Vec<(&'static str, ArrayRef)> {
    let floats = |of: fn(BoundingBox) -> f32| -> ArrayRef {
        Arc::new(Float32Array::from_iter_values(boxes.clone().map(of)))
    };
    vec![
        ("x", floats(|b| b.x)),
        ("y", floats(|b| b.y)),
        ("w", floats(|b| b.w)),
        ("h", floats(|b| b.h)),
    ]
}

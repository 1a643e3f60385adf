//! Tasks with two controls on the image: `present` and `absent`.

use super::super::error::LabelsError;
use super::super::{LabelTable, events_form};
use super::{ABSENT, PRESENT};
use serde_json::{Value, json};
use std::io::Write;

/// Writes the table's labels as a list of tasks.
pub(in super::super) fn write(
    table: &LabelTable,
    output: &mut impl Write,
) -> Result<(), LabelsError> {
    let mut tasks: Vec<Value> = Vec::new();
    for event in events_form::events_of(table) {
        let choices = |control: &str, names: &[String]| {
            let value = json!({"choices": names});
            json!({"type": "choices", "from_name": control, "to_name": "image", "value": value})
        };
        let mut result = Vec::new();
        if !event.present.is_empty() {
            result.push(choices(PRESENT, &event.present));
        }
        if !event.absent.is_empty() {
            result.push(choices(ABSENT, &event.absent));
        }
        let annotation = json!({
            "result": result,
            "was_cancelled": false,
            "ground_truth": false,
            "completed_by": event.annotator,
            "created_at": event.event_time,
        });
        let same = tasks
            .last_mut()
            .filter(|task| task["data"]["image_id"] == event.image_id.as_str());
        match same.and_then(|task| task["annotations"].as_array_mut()) {
            Some(annotations) => annotations.push(annotation),
            None => tasks.push(json!({
                "id": tasks.len() + 1,
                "data": {"image": event.uri, "image_id": event.image_id},
                "annotations": [annotation],
            })),
        }
    }
    serde_json::to_writer_pretty(output, &tasks).map_err(std::io::Error::from)?;
    Ok(())
}

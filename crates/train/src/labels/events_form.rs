//! Label events, one JSON object a line: the form of the topic itself.

use super::error::{LabelsError, line};
use super::{Drafts, LabelTable, Picture, file};
use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};

pub(super) fn read(input: impl Read) -> Result<Drafts, LabelsError> {
    let mut drafts = Drafts::default();
    for (text, number) in file::unicode(input)?.lines().zip(1..) {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        let event = LabelEvent::from_json(text.as_bytes());
        let event = event.map_err(|e| line(number, e.to_string()))?;
        drafts.say(Picture::Id(event.image_id.clone()), event);
    }
    Ok(drafts)
}

pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    for event in events_of(table) {
        let line = serde_json::to_string(&event).map_err(std::io::Error::from)?;
        writeln!(output, "{line}")?;
    }
    Ok(())
}

/// Events that make the table again: one for each image, annotator and time.
pub(super) fn events_of(table: &LabelTable) -> Vec<LabelEvent> {
    let mut events = Vec::new();
    for (id, image) in table.images() {
        let mut by_source: BTreeMap<_, LabelEvent> = BTreeMap::new();
        for (category, state, label) in image.known() {
            let key = (label.stamp.time, label.annotator.clone());
            let event = by_source.entry(key).or_insert_with(|| LabelEvent {
                image_id: id.into(),
                uri: image.address().to_owned(),
                present: Vec::new(),
                absent: Vec::new(),
                retract: Vec::new(),
                annotator: label.annotator.clone(),
                event_time: Some(label.stamp.time),
            });
            match state {
                LabelState::Present => event.present.push(category.into()),
                LabelState::Absent => event.absent.push(category.into()),
            }
        }
        events.extend(by_source.into_values());
    }
    events
}

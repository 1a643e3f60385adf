//! Messages into records, records into image references.

use super::cloud_event::{CloudEvent, is_binary};
use super::condition::Condition;
use super::field::Field;
use super::place::Found;
use super::scope::Scope;
use super::{Envelope, MappedRecord, Mapping, MessageParts, Records};
use crate::events::fields;
use crate::events::json::{Json, Parsed};
use crate::events::{ImageReference, MessageError};
use std::collections::BTreeMap;

const WHAT: &str = "message";

impl Mapping {
    /// The records of a message that are to be images; none where it stands for none. What is wrong
    /// with one record is its own refusal.
    ///
    /// # Errors
    /// [`MessageError`] says why nothing of it can be read.
    pub fn read(&self, parts: &MessageParts<'_>) -> Result<Vec<MappedRecord>, MessageError> {
        let binary = self.envelope == Envelope::CloudEvent && is_binary(parts);
        // A tombstone; of an event that tells of data elsewhere the value may be missing, too.
        if parts.value.is_none() && !binary {
            return Ok(Vec::new());
        }
        let value = parts.value.unwrap_or_default();
        let reads = self.reads_value && !(binary && value.is_empty());
        if !reads {
            let event = binary.then_some(CloudEvent::Binary(parts.headers));
            let scope = Scope {
                parts,
                message: None,
                event: event.as_ref(),
                record: None,
                uri: None,
            };
            return Ok(self.record(0, &scope)?.into_iter().collect());
        }
        let text = fields::json_text(value, WHAT)?;
        let inner: String;
        let message = Json::read(&text).map_err(fields::not_valid(WHAT))?;
        let event = match self.envelope {
            Envelope::CloudEvent if binary => Some(CloudEvent::Binary(parts.headers)),
            Envelope::CloudEvent => Some(CloudEvent::structured(&message)?),
            _ => None,
        };
        let whole = Scope {
            parts,
            message: Some(&message),
            event: event.as_ref(),
            record: Some(&message),
            uri: None,
        };
        if any_holds(&self.passed_over, &whole)? {
            return Ok(Vec::new());
        }
        let within = match self.within(&whole, binary)? {
            Within::Message => return self.records(&whole),
            Within::Nothing => None,
            Within::Json(json) => {
                let scope = Scope {
                    record: Some(json),
                    ..whole
                };
                return self.records(&scope);
            }
            Within::Text(text) => {
                inner = text;
                Some(Json::read(&inner).map_err(fields::not_valid("message within its envelope"))?)
            }
        };
        let scope = Scope {
            record: within.as_ref(),
            ..whole
        };
        self.records(&scope)
    }

    /// What the envelope holds.
    fn within<'s, 'a>(
        &self,
        whole: &'s Scope<'s, 'a>,
        binary: bool,
    ) -> Result<Within<'s, 'a>, MessageError> {
        let found = match &self.envelope {
            Envelope::None => return Ok(Within::Message),
            Envelope::CloudEvent if binary => return Ok(Within::Message),
            Envelope::CloudEvent => data_of(whole)?,
            Envelope::At(field) => {
                let missing =
                    || fields::not_valid(WHAT)(format!("nothing is at {}", field.written()));
                Some(field.find(whole, "envelope")?.ok_or_else(missing)?)
            }
        };
        Ok(match found {
            None => Within::Nothing,
            Some(Found::Text(text)) => Within::Text(text.into_owned()),
            Some(Found::Json(json)) => match json.parsed() {
                Ok(Parsed::Text(text)) => Within::Text(text.clone().into_owned()),
                _ => Within::Json(json),
            },
        })
    }

    fn records(&self, scope: &Scope<'_, '_>) -> Result<Vec<MappedRecord>, MessageError> {
        if any_holds(&self.passed_over, scope)? {
            return Ok(Vec::new());
        }
        let Records::At(steps) = &self.records else {
            return Ok(self.record(0, scope)?.into_iter().collect());
        };
        let found = scope
            .record
            .and_then(|json| steps.iter().try_fold(json, |json, step| json.get(step)));
        let place = || {
            steps
                .iter()
                .map(|step| format!("/{step}"))
                .collect::<String>()
        };
        let Some(found) = found else {
            let reason = format!("it has no records at {}", place());
            return Err(fields::not_valid(WHAT)(reason));
        };
        let items = match found.parsed() {
            Ok(Parsed::Array(items)) => items.iter().collect(),
            Ok(Parsed::Object(_)) => vec![found],
            _ => {
                let reason = format!("{} at `{}` where records are to be", found.kind(), place());
                return Err(fields::not_valid(WHAT)(reason));
            }
        };
        let mut records = Vec::new();
        for (index, item) in (0..).zip(items) {
            let scope = Scope {
                record: Some(item),
                ..*scope
            };
            match self.record(index, &scope) {
                Ok(record) => records.extend(record),
                Err(error) => records.push(MappedRecord {
                    index,
                    reference: Err(error),
                }),
            }
        }
        Ok(records)
    }

    /// One record, if it is to be an image.
    fn record(
        &self,
        index: u32,
        scope: &Scope<'_, '_>,
    ) -> Result<Option<MappedRecord>, MessageError> {
        for condition in &self.when {
            // What does not tell is taken.
            if condition.holds(scope)? == Some(false) {
                return Ok(None);
            }
        }
        let reference = self.reference(scope);
        Ok(Some(MappedRecord { index, reference }))
    }

    fn reference(&self, scope: &Scope<'_, '_>) -> Result<ImageReference, MessageError> {
        if self.reads_value
            && let Some(record) = scope.record
            && !matches!(record.parsed(), Ok(Parsed::Object(_)))
        {
            let reason = format!("it is {}, not an object", record.kind());
            return Err(fields::not_valid("image reference")(reason));
        }
        let missing = |field: &'static str, place: &Field| MessageError::Missing {
            field,
            place: place.written().to_owned(),
        };
        let uri = match self.uri.find(scope, "uri")? {
            Some(Found::Json(json)) => fields::address(json, "uri")?,
            Some(Found::Text(text)) => Some(fields::address_text(&text, "uri")?.to_owned()),
            None => None,
        };
        let uri = uri.ok_or_else(|| missing("uri", &self.uri))?;
        let scope = Scope {
            uri: Some(&uri),
            ..*scope
        };
        let image_id = match self.image_id.find(&scope, "image_id")? {
            Some(Found::Json(json)) => fields::name(json, "image_id")?,
            Some(Found::Text(text)) if text.is_empty() => {
                return Err(MessageError::EmptyField { field: "image_id" });
            }
            Some(Found::Text(text)) => Some(text.into_owned()),
            None => None,
        };
        let image_id = image_id.ok_or_else(|| missing("image_id", &self.image_id))?;
        let time = self.event_time.as_ref();
        let event_time = match time
            .map(|t| t.find(&scope, "event_time"))
            .transpose()?
            .flatten()
        {
            Some(Found::Json(json)) => fields::time(json, "event_time", self.zone)?,
            Some(Found::Text(text)) => Some(fields::time_text(&text, "event_time", self.zone)?),
            None => None,
        };
        let attributes = self.attributes_of(&scope)?;
        Ok(ImageReference {
            image_id,
            uri,
            event_time,
            attributes,
        })
    }

    fn attributes_of(
        &self,
        scope: &Scope<'_, '_>,
    ) -> Result<BTreeMap<String, String>, MessageError> {
        let mut attributes = BTreeMap::new();
        if self.all_headers {
            for (name, value) in scope.parts.headers {
                let text = value.as_deref().map(fields::text_of);
                if let Some(Ok(text)) = text {
                    attributes.insert(name.clone(), text.into_owned());
                }
            }
        }
        // `*` comes first: what has a name of its own stands above it.
        for (name, place) in &self.attributes {
            if name == "*" {
                if let Some(Found::Json(json)) = place.find(scope, "attributes")? {
                    attributes.extend(fields::attributes(json, "attributes")?);
                }
                continue;
            }
            let field = format!("attributes.{name}");
            let found = place.find(scope, &field)?;
            let text = found.map(|found| found.text(&field)).transpose()?;
            if let Some(text) = text.flatten() {
                attributes.insert(name.clone(), text.into_owned());
            }
        }
        Ok(attributes)
    }
}

/// What an envelope holds.
enum Within<'s, 'a> {
    /// There is none: the message itself.
    Message,
    Nothing,
    Json(&'s Json<'a>),
    Text(String),
}

/// The data of a structured CloudEvent.
fn data_of<'s, 'a>(whole: &'s Scope<'s, 'a>) -> Result<Option<Found<'s, 'a>>, MessageError> {
    let data = whole.record.and_then(|json| json.get("data"));
    if let Some(data) = data.filter(|data| !data.is_null()) {
        return Ok(Some(Found::Json(data)));
    }
    let encoded = Field::parse("/data_base64 | base64").map_err(fields::not_valid(WHAT))?;
    encoded.find(whole, "data_base64")
}

fn any_holds(conditions: &[Condition], scope: &Scope<'_, '_>) -> Result<bool, MessageError> {
    for condition in conditions {
        if condition.holds(scope)? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

//! How the messages of a topic name images: where each field stands, and which records of a
//! message are images at all (`[source.mapping]`).
//!
//! Forms that many topics have are presets; what a [`MappingSpec`] says stands above its preset. A
//! message gives any number of records, each of which is an image reference or a refusal of its
//! own; a record keeps its index in the message, whatever becomes of the others.

mod cloud_event;
mod condition;
mod field;
mod place;
mod presets;
mod reading;
mod scope;
#[cfg(test)]
mod tests;

use crate::events::{ImageReference, MessageError};
use bytes::Bytes;
use chrono::FixedOffset;
use condition::Condition;
use field::Field;
use place::Source;
use presets::Preset;
use std::collections::BTreeMap;

/// What a configuration says of a mapping. Where a text is empty the preset's counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MappingSpec {
    /// Name of the preset.
    pub preset: String,
    /// What the records lie in: `none`, `cloudevents`, or where the text or object stands.
    pub envelope: String,
    /// Where the list of records stands; `#` is the whole, `none` says that there is one.
    pub records: String,
    /// Conditions of a record: `/eventName ~ ObjectCreated:*`.
    pub when: Vec<String>,
    /// The image's name.
    pub image_id: String,
    /// The image's address.
    pub uri: String,
    /// When the image came to be; `none`: the Kafka timestamp.
    pub event_time: String,
    /// Attributes by name; `*` is an object that holds some, `headers` all headers. Empty text
    /// takes the preset's away.
    pub attributes: BTreeMap<String, String>,
    /// The zone of times that name none, as `+01:00`; empty: such a time is refused.
    pub time_zone: String,
}

/// What is wrong with a mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {reason}")]
pub struct MappingError {
    /// The key of [`MappingSpec`].
    pub key: String,
    /// What is wrong with it, to stand behind the key.
    pub reason: String,
}

/// Headers of a message.
type HeaderBytes<'a> = &'a [(String, Option<Bytes>)];

/// A message, as far as a mapping may look into it.
#[derive(Debug, Clone, Copy)]
pub struct MessageParts<'a> {
    /// As the topic has it; `None`: null.
    pub key: Option<&'a [u8]>,
    /// As the topic has it; `None`: null, a tombstone.
    pub value: Option<&'a [u8]>,
    /// In the message's order; a name may stand there twice.
    pub headers: HeaderBytes<'a>,
}

/// One record of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedRecord {
    /// Which of the message's records it is, from 0.
    pub index: u32,
    /// The image, or why it is none.
    pub reference: Result<ImageReference, MessageError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Envelope {
    None,
    CloudEvent,
    At(Field),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Records {
    One,
    /// A list (or one object) at this place of what the envelope holds; without steps it is that.
    At(Vec<String>),
}

/// Where the fields of messages stand, compiled.
///
/// ```
/// use tagstream_core::mapping::{Mapping, MappingSpec, MessageParts};
///
/// let spec = MappingSpec {
///     uri: "https://images.example.org/{/file | url-encoded}".into(),
///     image_id: "key".into(),
///     ..MappingSpec::default()
/// };
/// let mapping = Mapping::new(&spec)?;
/// let message = MessageParts {
///     key: Some(b"cat-1"),
///     value: Some(br#"{"file": "cats/1 a.jpg"}"#),
///     headers: &[],
/// };
/// let records = mapping.read(&message).expect("a record");
/// let image = records[0].reference.clone().expect("an image");
/// assert_eq!(image.image_id, "cat-1");
/// assert_eq!(image.uri, "https://images.example.org/cats/1%20a.jpg");
/// # Ok::<(), tagstream_core::mapping::MappingError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    envelope: Envelope,
    records: Records,
    when: Vec<Condition>,
    passed_over: Vec<Condition>,
    image_id: Field,
    uri: Field,
    event_time: Option<Field>,
    attributes: Vec<(String, Field)>,
    all_headers: bool,
    zone: Option<FixedOffset>,
    reads_value: bool,
}

impl Default for Mapping {
    fn default() -> Self {
        let spec = MappingSpec {
            time_zone: "+00:00".into(),
            ..MappingSpec::default()
        };
        Mapping::new(&spec).expect("the first preset is right")
    }
}

/// The names of all presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    presets::ALL.iter().map(|preset| preset.name)
}

fn error(key: impl Into<String>) -> impl FnOnce(String) -> MappingError {
    let key = key.into();
    move |reason| MappingError { key, reason }
}

/// What was said, or what the preset says.
fn or<'t>(said: &'t str, preset: &'t str) -> &'t str {
    if said.is_empty() { preset } else { said }
}

impl Mapping {
    /// Compiles a mapping.
    ///
    /// # Errors
    /// [`MappingError`] names the key.
    pub fn new(spec: &MappingSpec) -> Result<Self, MappingError> {
        let name = or(&spec.preset, presets::ALL[0].name);
        let known = presets::ALL.iter().find(|preset| preset.name == name);
        let preset = known.ok_or_else(|| {
            let names: Vec<&str> = preset_names().collect();
            error("preset")(format!("is `{name}`; there are {}", names.join(", ")))
        })?;
        let field = |key: &str, said: &str, preset: &str| {
            Field::parse(or(said, preset)).map_err(error(key))
        };
        let (attributes, all_headers) = attributes(spec, preset)?;
        let conditions = |texts: &[&str]| -> Result<Vec<Condition>, MappingError> {
            let parsed = texts.iter().map(|text| Condition::parse(text));
            parsed.collect::<Result<_, _>>().map_err(error("when"))
        };
        let said: Vec<&str> = spec.when.iter().map(String::as_str).collect();
        let when = match said.is_empty() {
            true => preset.when,
            false => said.as_slice(),
        };
        let envelope = match or(&spec.envelope, preset.envelope) {
            "none" => Envelope::None,
            "cloudevents" => Envelope::CloudEvent,
            place => Envelope::At(Field::parse(place).map_err(error("envelope"))?),
        };
        let records = match or(&spec.records, preset.records) {
            "none" => Records::One,
            "#" => Records::At(Vec::new()),
            place => Records::At(field::pointer(place).map_err(|_| {
                let reason = "must be a JSON Pointer to a list (`/Records`), `#` for a message \
                              that is one, or `none`";
                error("records")(reason.to_owned())
            })?),
        };
        let event_time = match or(&spec.event_time, preset.event_time) {
            "none" => None,
            place => Some(Field::parse(place).map_err(error("event_time"))?),
        };
        let mut mapping = Mapping {
            envelope,
            records,
            when: conditions(when)?,
            passed_over: conditions(preset.passed_over)?,
            image_id: field("image_id", &spec.image_id, preset.image_id)?,
            uri: field("uri", &spec.uri, preset.uri)?,
            event_time,
            attributes,
            all_headers,
            zone: zone(&spec.time_zone)?,
            reads_value: true,
        };
        if mapping.uri.sources().any(|source| *source == Source::Uri) {
            return Err(error("uri")("cannot be made of itself".into()));
        }
        mapping.reads_value = mapping.needs_value();
        Ok(mapping)
    }

    /// Whether one message may hold several records.
    pub fn has_many(&self) -> bool {
        self.records != Records::One
    }

    /// Whether anything is made of the message's key.
    pub fn reads_key(&self) -> bool {
        let fields = [
            Some(&self.image_id),
            Some(&self.uri),
            self.event_time.as_ref(),
        ];
        let envelope = match &self.envelope {
            Envelope::At(field) => Some(field),
            Envelope::None | Envelope::CloudEvent => None,
        };
        let conditions = self.when.iter().chain(&self.passed_over);
        let all = fields.into_iter().flatten().chain(envelope);
        let all = all.chain(self.attributes.iter().map(|(_, field)| field));
        let mut all = all.chain(conditions.map(Condition::field));
        all.any(|field| field.sources().any(|source| *source == Source::Key))
    }

    /// Whether anything looks into the value as JSON.
    fn needs_value(&self) -> bool {
        let fields = [
            Some(&self.image_id),
            Some(&self.uri),
            self.event_time.as_ref(),
        ];
        let attributes = self.attributes.iter();
        // An object of attributes alone, which may be missing, does not make JSON of the value.
        let named = attributes
            .filter(|(name, _)| name != "*")
            .map(|(_, field)| field);
        let conditions = self.when.iter().chain(&self.passed_over);
        let all = fields.into_iter().flatten().chain(named);
        let mut all = all.chain(conditions.map(Condition::field));
        let looks = |source: &Source| matches!(source, Source::Record(_) | Source::Message(_));
        self.envelope != Envelope::None || self.has_many() || all.any(|f| f.sources().any(looks))
    }
}

fn zone(text: &str) -> Result<Option<FixedOffset>, MappingError> {
    match text {
        "" => Ok(None),
        "Z" => Ok(FixedOffset::east_opt(0)),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| error("time_zone")("must be an offset like `+01:00`, or empty".into())),
    }
}

/// The places of attributes, and whether all headers are some.
fn attributes(
    spec: &MappingSpec,
    preset: &Preset,
) -> Result<(Vec<(String, Field)>, bool), MappingError> {
    let mut places: BTreeMap<&str, &str> = preset.attributes.iter().copied().collect();
    places.extend(
        spec.attributes
            .iter()
            .map(|(name, place)| (&**name, &**place)),
    );
    let all_headers = places.get("*") == Some(&"headers");
    let mut fields = Vec::new();
    for (name, place) in places {
        if place.is_empty() || (name == "*" && all_headers) {
            continue;
        }
        let field = Field::parse(place).map_err(error(format!("attributes.{name}")))?;
        fields.push((name.to_owned(), field));
    }
    Ok((fields, all_headers))
}

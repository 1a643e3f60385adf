//! Protobuf messages into JSON, by the file of the schema registry that describes them.
//!
//! The crates parse files and messages; the JSON is written here. Their own would open an `Any`
//! within an `Any` as deep as the bytes say.

use super::{MisfitError, UnusableSchema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::{
    DynamicMessage, FieldDescriptor, FileDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use std::collections::HashMap;

/// The schema's own file, which has no name in a registry.
const OWN: &str = "message-of-this-schema.proto";
/// Deepest index of a message type within others.
const NESTED: i64 = 64;

/// What serializers take for granted, beside Google's own files: they do not register it.
const GRANTED: [(&str, &str); 2] = [
    (
        "confluent/meta.proto",
        "syntax = \"proto3\"; package confluent; import \"google/protobuf/descriptor.proto\";
         message Meta {
           string doc = 1; map<string, string> params = 2; repeated string tags = 3;
         }
         extend google.protobuf.FileOptions { Meta file_meta = 1088; }
         extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
         extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
         extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
         extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }",
    ),
    (
        "confluent/type/decimal.proto",
        "syntax = \"proto3\"; package confluent.type;
         message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }",
    ),
];

/// A file with message types.
#[derive(Debug)]
pub(super) struct ProtobufSchema {
    file: FileDescriptor,
}

/// Files by the names that others import them by.
struct Files(HashMap<String, String>);

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => GoogleFileResolver::new().open_file(name),
        }
    }
}

impl ProtobufSchema {
    /// Reads a file; `references` are those that it imports, with their names.
    ///
    /// # Errors
    /// [`UnusableSchema`].
    pub(super) fn read(
        text: String,
        references: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, UnusableSchema> {
        let granted = GRANTED.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let mut files: HashMap<String, String> = granted.into();
        files.extend(references);
        files.insert(OWN.to_owned(), text);
        let mut compiler = Compiler::with_file_resolver(Files(files));
        let compiled = compiler.open_file(OWN);
        compiled.map_err(|e| UnusableSchema(format!("it is no file of Protobuf: {e}")))?;
        let file = compiler.descriptor_pool().get_file_by_name(OWN);
        let none = || UnusableSchema("it holds no file of Protobuf".to_owned());
        Ok(ProtobufSchema {
            file: file.ok_or_else(none)?,
        })
    }

    /// The JSON of a message behind the path to its type. Fields have the names of the file;
    /// numbers, truth values and enums are there even where they have their default.
    ///
    /// # Errors
    /// [`MisfitError`].
    pub(super) fn json(&self, bytes: &[u8]) -> Result<Vec<u8>, MisfitError> {
        let mut rest = bytes;
        let kind = self.message_type(&mut rest)?;
        let message = DynamicMessage::decode(kind, rest);
        let message = message.map_err(|e| MisfitError::Protobuf(e.to_string()))?;
        let mut json = Vec::new();
        write_message(&mut json, &message)?;
        Ok(json)
    }

    /// The message's type: one of the file's, or one within another.
    fn message_type(&self, rest: &mut &[u8]) -> Result<MessageDescriptor, MisfitError> {
        const NONE: MisfitError = MisfitError::Unfit("its schema has no such message type");
        let count = signed(rest)?;
        if !(0..=NESTED).contains(&count) {
            return Err(NONE);
        }
        // A path that is empty leads to the first.
        let mut path = vec![0; count.max(1) as usize];
        for index in path.iter_mut().take(count as usize) {
            *index = usize::try_from(signed(rest)?).map_err(|_| NONE)?;
        }
        let mut kind = self.file.messages().nth(path[0]).ok_or(NONE)?;
        for index in &path[1..] {
            // Entries of maps are no types of the file.
            let mut within = kind.child_messages().filter(|m| !m.is_map_entry());
            let next = within.nth(*index).ok_or(NONE)?;
            drop(within);
            kind = next;
        }
        Ok(kind)
    }
}

/// A signed number of variable length, as the frame has them.
fn signed(rest: &mut &[u8]) -> Result<i64, MisfitError> {
    let mut bits = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(MisfitError::Shorter)?;
        *rest = after;
        bits |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((bits >> 1) as i64 ^ -((bits & 1) as i64));
        }
    }
    Err(MisfitError::Unfit("a number of more than 64 bits"))
}

fn push_text(json: &mut Vec<u8>, text: &str) {
    json.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

fn write_message(json: &mut Vec<u8>, message: &DynamicMessage) -> Result<(), MisfitError> {
    let kind = message.descriptor();
    if let Some(name) = kind.full_name().strip_prefix("google.protobuf.")
        && write_known(json, name, message)?
    {
        return Ok(());
    }
    json.push(b'{');
    let mut is_first = true;
    for field in kind.fields() {
        let value = message.get_field(&field);
        // What has no presence and its default is there if it says something: 0, false, the first
        // of an enum.
        let says = match &*value {
            Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => false,
            _ => !field.supports_presence(),
        };
        if !says && !message.has_field(&field) {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            json.push(b',');
        }
        push_text(json, field.name());
        json.push(b':');
        write_value(json, &field.kind(), &value)?;
    }
    json.push(b'}');
    Ok(())
}

/// The messages of Google's own files that stand for something else. Returns whether this is one.
fn write_known(
    json: &mut Vec<u8>,
    name: &str,
    message: &DynamicMessage,
) -> Result<bool, MisfitError> {
    let kind = message.descriptor();
    let mut write = |field: FieldDescriptor| {
        let value = message.get_field(&field);
        write_value(json, &field.kind(), &value)
    };
    match name {
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value"
        | "UInt32Value" | "BoolValue" | "StringValue" | "BytesValue" | "Struct" | "ListValue" => {
            match kind.fields().next() {
                Some(field) => write(field)?,
                None => return Ok(false),
            }
        }
        "Value" => match kind.fields().find(|field| message.has_field(field)) {
            Some(field) if field.name() != "null_value" => write(field)?,
            _ => json.extend_from_slice(b"null"),
        },
        "Timestamp" => {
            let number = |index| message.get_field_by_number(index);
            let seconds = number(1).and_then(|v| v.as_i64()).unwrap_or_default();
            let nanos = number(2).and_then(|v| v.as_i32()).unwrap_or_default();
            let nanos = u32::try_from(nanos).ok();
            let time = nanos.and_then(|nanos| DateTime::<Utc>::from_timestamp(seconds, nanos));
            let time = time.ok_or(MisfitError::Unfit("a time that no calendar has"))?;
            push_text(json, &time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn write_value(json: &mut Vec<u8>, kind: &Kind, value: &Value) -> Result<(), MisfitError> {
    let mut number = |text: String, is_finite: bool| match is_finite {
        true => json.extend_from_slice(text.as_bytes()),
        false => push_text(json, &text),
    };
    match value {
        Value::Bool(value) => number(value.to_string(), true),
        Value::I32(value) => number(value.to_string(), true),
        Value::I64(value) => number(value.to_string(), true),
        Value::U32(value) => number(value.to_string(), true),
        Value::U64(value) => number(value.to_string(), true),
        Value::F32(value) => number(value.to_string(), value.is_finite()),
        Value::F64(value) => number(value.to_string(), value.is_finite()),
        Value::String(text) => push_text(json, text),
        Value::Bytes(bytes) => push_text(json, &BASE64.encode(bytes)),
        Value::EnumNumber(value) => match kind.as_enum().and_then(|e| e.get_value(*value)) {
            Some(named) => push_text(json, named.name()),
            None => number(value.to_string(), true),
        },
        Value::Message(message) => write_message(json, message)?,
        Value::List(items) => {
            json.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                write_value(json, kind, item)?;
            }
            json.push(b']');
        }
        Value::Map(entries) => {
            let of = kind.as_message().map(|entry| entry.map_entry_value_field());
            let of = of.map_or_else(|| kind.clone(), |field| field.kind());
            let mut entries: Vec<(String, &Value)> = entries
                .iter()
                .map(|(name, value)| (text_of(name), value))
                .collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            json.push(b'{');
            for (index, (name, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                push_text(json, &name);
                json.push(b':');
                write_value(json, &of, value)?;
            }
            json.push(b'}');
        }
    }
    Ok(())
}

fn text_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

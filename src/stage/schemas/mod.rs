//! Messages that are framed for a schema registry (by either wire format of Confluent's), made into
//! JSON: Avro, Protobuf, JSON Schema.

mod avro;
mod avro_schema;
mod client;
mod frame;
#[cfg(feature = "protobuf")]
mod protobuf;
#[cfg(test)]
mod tests;

pub use client::{SchemaRegistry, SchemaRegistryError};
pub use frame::{Frame, SchemaId};

use avro_schema::AvroSchema;
use bytes::Bytes;
use client::Registered;
#[cfg(feature = "protobuf")]
use protobuf::ProtobufSchema;

/// Why a framed value has no JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MisfitError {
    /// The bytes end before the value does.
    #[error("it ends within a value of its schema")]
    Shorter,
    /// There are bytes behind the value.
    #[error("{0} bytes follow the value that its schema describes")]
    Longer(usize),
    /// A number, length or choice that cannot be.
    #[error("it does not fit its schema: {0}")]
    Unfit(&'static str),
    /// No message of Protobuf.
    #[error("it does not fit its schema: {0}")]
    Protobuf(String),
    /// Its schema is of no use.
    #[error(transparent)]
    Unusable(#[from] UnusableSchema),
}

/// Why a schema that a registry gave is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its schema cannot be used: {0}")]
pub struct UnusableSchema(String);

/// What the id in a frame stands for.
#[derive(Debug)]
pub struct MessageSchema {
    id: SchemaId,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Avro(AvroSchema),
    #[cfg(feature = "protobuf")]
    Protobuf(ProtobufSchema),
    /// The value is JSON already.
    Json,
    Unusable(UnusableSchema),
}

impl MessageSchema {
    /// What a registry says of the schema, `references` being what it says of those that it uses:
    /// their names, and their texts, each behind those that it uses itself.
    fn of(id: SchemaId, registered: Registered, references: Vec<(String, String)>) -> Self {
        let form = match registered.kind.as_str() {
            "" | "AVRO" => AvroSchema::read(&registered.schema, &references).map(Form::Avro),
            "JSON" => Ok(Form::Json),
            #[cfg(feature = "protobuf")]
            "PROTOBUF" => ProtobufSchema::read(registered.schema, references).map(Form::Protobuf),
            #[cfg(not(feature = "protobuf"))]
            "PROTOBUF" => Err(UnusableSchema(
                "this build reads no Protobuf (its feature `protobuf`)".into(),
            )),
            other => Err(UnusableSchema(format!(
                "it is of the type {other:?}; Avro, Protobuf and JSON Schema are read"
            ))),
        };
        MessageSchema {
            id,
            form: form.unwrap_or_else(Form::Unusable),
        }
    }

    /// A schema of this type that uses no other.
    pub fn alone(number: u32, kind: &str, schema: String) -> Self {
        let registered = Registered::alone(kind, schema);
        MessageSchema::of(SchemaId::Number(number), registered, Vec::new())
    }

    fn unusable(id: SchemaId, reason: impl Into<String>) -> Self {
        MessageSchema {
            id,
            form: Form::Unusable(UnusableSchema(reason.into())),
        }
    }

    /// The value that stood in a frame ([`Frame::value`]), as JSON.
    ///
    /// # Errors
    /// [`MisfitError`].
    pub fn json_of(&self, value: &Bytes) -> Result<Bytes, MisfitError> {
        Ok(match &self.form {
            Form::Json => value.clone(),
            Form::Avro(schema) => avro::value_of(schema, value)?.into(),
            #[cfg(feature = "protobuf")]
            Form::Protobuf(schema) => schema.json(value)?.into(),
            Form::Unusable(why) => return Err(why.clone().into()),
        })
    }

    /// The key that stood in a frame, as text: what is text in JSON, without its quotes.
    ///
    /// # Errors
    /// [`MisfitError`].
    pub fn text_of(&self, key: &Bytes) -> Result<Bytes, MisfitError> {
        let json = self.json_of(key)?;
        Ok(match &self.form {
            Form::Json => serde_json::from_slice::<String>(&json).map_or(json, Bytes::from),
            _ => json,
        })
    }

    /// What the registry knows it by.
    pub fn id(&self) -> SchemaId {
        self.id
    }
}

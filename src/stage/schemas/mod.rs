//! Messages that are framed for a schema registry (Confluent's wire format: a zero byte, the
//! schema's number in four bytes, then the value), made into JSON: Avro, Protobuf, JSON Schema.

mod avro;
mod avro_schema;
mod client;
#[cfg(feature = "protobuf")]
mod protobuf;
#[cfg(test)]
mod tests;

pub use client::{SchemaRegistry, SchemaRegistryError};

use avro_schema::AvroSchema;
use bytes::Bytes;
use client::Registered;
#[cfg(feature = "protobuf")]
use protobuf::ProtobufSchema;

/// Bytes of a frame.
const FRAME: usize = 5;

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

/// What the number in a frame stands for.
#[derive(Debug)]
pub struct MessageSchema {
    number: u32,
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

/// The number of the schema that a value is framed with; `None` if it is not framed.
pub fn framed_with(value: &[u8]) -> Option<u32> {
    let frame = value.get(..FRAME)?;
    let number = frame[1..].try_into().ok()?;
    (frame[0] == 0).then(|| u32::from_be_bytes(number))
}

impl MessageSchema {
    /// What a registry says of the schema, `references` being what it says of those that it uses:
    /// their names, and their texts, each behind those that it uses itself.
    fn of(number: u32, registered: Registered, references: Vec<(String, String)>) -> Self {
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
            number,
            form: form.unwrap_or_else(Form::Unusable),
        }
    }

    /// A schema of this type that uses no other.
    pub fn alone(number: u32, kind: &str, schema: String) -> Self {
        let registered = Registered::alone(kind, schema);
        MessageSchema::of(number, registered, Vec::new())
    }

    fn unusable(number: u32, reason: impl Into<String>) -> Self {
        MessageSchema {
            number,
            form: Form::Unusable(UnusableSchema(reason.into())),
        }
    }

    /// The value that a framed one holds, as JSON.
    ///
    /// # Errors
    /// [`MisfitError`].
    pub fn value_of(&self, framed: &Bytes) -> Result<Bytes, MisfitError> {
        let value = framed.get(FRAME..).ok_or(MisfitError::Shorter)?;
        Ok(match &self.form {
            Form::Json => framed.slice(FRAME..),
            Form::Avro(schema) => avro::value_of(schema, value)?.into(),
            #[cfg(feature = "protobuf")]
            Form::Protobuf(schema) => schema.json(value)?.into(),
            Form::Unusable(why) => return Err(why.clone().into()),
        })
    }

    /// Its number in the registry.
    pub fn number(&self) -> u32 {
        self.number
    }
}

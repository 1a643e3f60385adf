//! Messages that are framed for a schema registry, as the mapping sees them.

use super::sample::Sampled;
use crate::cli::config::refused;
use bytes::Bytes;
use std::sync::Arc;
use tagstream::stage::schemas::{
    Frame, MessageSchema, MisfitError, SchemaId, SchemaRegistry, SchemaRegistryError,
};
use tagstream_core::config::StageConfig;
use tagstream_core::error::{Exit, WithExit};

/// Takes values and keys of framed messages out of their frames, where the configuration names a
/// registry. What is wrong with one message is said of it alone.
///
/// # Errors
/// If the registry does not answer.
pub(super) fn open(config: &StageConfig, sampled: &mut [Sampled]) -> anyhow::Result<()> {
    let registry = SchemaRegistry::new(&config.source.registry);
    let Some(registry) = registry.map_err(refused)? else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reads_key = config.source.mapping.compile()?.reads_key();
    for message in sampled {
        let value = message.value.as_ref();
        let value = value.and_then(|value| Frame::of(value, &message.headers));
        let key = message.key.as_ref().filter(|_| reads_key);
        let key = key.and_then(|key| Frame::of_key(key, &message.headers));
        if let Some(Frame { id, value }) = value {
            let opened = asked(&runtime, &registry, id)?;
            match opened.and_then(|schema| told(id, schema.json_of(&value))) {
                Ok(json) => message.value = Some(json),
                Err(reason) => message.unreadable = Some(reason),
            }
        }
        if let Some(Frame { id, value }) = key {
            let opened = asked(&runtime, &registry, id)?;
            match opened.and_then(|schema| told(id, schema.text_of(&value))) {
                Ok(text) => message.key = Some(text),
                Err(reason) => message.unreadable = Some(format!("the key: {reason}")),
            }
        }
    }
    Ok(())
}

fn told(id: SchemaId, opened: Result<Bytes, MisfitError>) -> Result<Bytes, String> {
    opened.map_err(|error| format!("with schema {id}: {error}"))
}

/// What the registry says of a schema; or why the message cannot be read.
///
/// # Errors
/// If it does not answer.
fn asked(
    runtime: &tokio::runtime::Runtime,
    registry: &SchemaRegistry,
    id: SchemaId,
) -> anyhow::Result<Result<Arc<MessageSchema>, String>> {
    match runtime.block_on(registry.schema(id)) {
        Ok(schema) => Ok(Ok(schema)),
        Err(error @ SchemaRegistryError::UnknownId { .. }) => Ok(Err(error.to_string())),
        Err(error) => {
            let exit = match error {
                SchemaRegistryError::Unreachable { .. } => Exit::Temporary,
                _ => Exit::Usage,
            };
            let message = error.to_string();
            Err(WithExit { exit, message }.into())
        }
    }
}

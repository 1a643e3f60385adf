//! Messages that are framed for a schema registry, as the mapping sees them.

use super::sample::Sampled;
use crate::cli::config::refused;
use tagstream::stage::schemas::{Frame, SchemaRegistry, SchemaRegistryError};
use tagstream_core::config::StageConfig;
use tagstream_core::error::{Exit, WithExit};

/// Takes the values of framed messages out of their frames, where the configuration names a
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
    for message in sampled {
        let Some(value) = &message.value else {
            continue;
        };
        let Some(Frame { id, value }) = Frame::of(value, &message.headers) else {
            continue;
        };
        match runtime.block_on(registry.schema(id)) {
            Ok(schema) => match schema.json_of(&value) {
                Ok(json) => message.value = Some(json),
                Err(error) => message.unreadable = Some(format!("with schema {id}: {error}")),
            },
            Err(error @ SchemaRegistryError::UnknownId { .. }) => {
                message.unreadable = Some(error.to_string());
            }
            Err(error) => {
                let exit = match error {
                    SchemaRegistryError::Unreachable { .. } => Exit::Temporary,
                    _ => Exit::Usage,
                };
                let message = error.to_string();
                return Err(WithExit { exit, message }.into());
            }
        }
    }
    Ok(())
}

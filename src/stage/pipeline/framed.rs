//! Messages that are framed for a schema registry: their schemas are asked for before anything of
//! them is read. A registry that does not answer is nobody's fault here: messages wait for it.

use super::StageStatus;
use super::no_row::NoRow;
use crate::stage::row_maker::{Leave, MakeError};
use crate::stage::schemas::{Frame, MessageSchema, SchemaId, SchemaRegistry, SchemaRegistryError};
use crate::stage::source::SourceMessage;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::UnknownId;
use tagstream_core::events::DeadLetterKind;
use tokio::time::Instant;

/// First pause before a schema is asked for again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The schema registry, and how it is waited for.
#[derive(Debug, Clone)]
pub struct Framing {
    /// Gives the schema that a message's frame names.
    pub registry: Arc<SchemaRegistry>,
    /// What becomes of messages whose schema it does not know.
    pub unknown_id: UnknownId,
    /// How long it is waited for; `None`: as long as it takes.
    pub patience: Option<Duration>,
}

/// The schemas of a message's parts; `None` for what is read as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Framed {
    /// That of its value.
    pub value: Option<Arc<MessageSchema>>,
    /// That of its key, where the mapping reads it.
    pub key: Option<Arc<MessageSchema>>,
}

impl Framing {
    /// How a message is read; `None` if not all of its schemas were asked for yet.
    pub(super) fn known(&self, message: &SourceMessage, with_key: bool) -> Option<Framed> {
        let known = |id: Option<SchemaId>| match id {
            None => Some(None),
            Some(id) => self.registry.known(id).map(Some),
        };
        Some(Framed {
            value: known(id_of_value(message))?,
            key: known(id_of_key(message, with_key))?,
        })
    }

    /// How a message is read. Waits for the registry.
    pub(super) async fn of(
        &self,
        message: &SourceMessage,
        with_key: bool,
        status: &StageStatus,
        leave: &Leave,
    ) -> Result<Framed, NoRow> {
        let mut framed = Framed::default();
        if let Some(id) = id_of_value(message) {
            framed.value = Some(self.schema(id, status, leave).await?);
        }
        if let Some(id) = id_of_key(message, with_key) {
            framed.key = Some(self.schema(id, status, leave).await?);
        }
        Ok(framed)
    }

    /// The schema of this id. Waits for the registry.
    async fn schema(
        &self,
        id: SchemaId,
        status: &StageStatus,
        leave: &Leave,
    ) -> Result<Arc<MessageSchema>, NoRow> {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let asked = tokio::select! {
                asked = self.registry.schema(id) => asked,
                () = leave.asked() => return Err(NoRow::Left),
            };
            let error = match asked {
                Ok(schema) => {
                    if pause > FIRST_PAUSE && status.report(StageStatus::SCHEMAS_KNOWN, None) {
                        tracing::info!(schema = %id, "the schema registry answers");
                    }
                    return Ok(schema);
                }
                Err(error @ SchemaRegistryError::UnknownId { .. })
                    if self.unknown_id == UnknownId::DeadLetter =>
                {
                    let reason = error.to_string();
                    return Err(NoRow::DeadLetter(DeadLetterKind::BadMessage, reason));
                }
                Err(error) => error,
            };
            if status.report(StageStatus::SCHEMAS_KNOWN, Some(error.to_string())) {
                tracing::warn!(%error, "messages wait for their schema");
            }
            if self.patience.is_some_and(|most| began.elapsed() >= most) {
                return Err(NoRow::Fatal(MakeError::Lacking(error.to_string())));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = leave.asked() => return Err(NoRow::Left),
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

fn id_of_value(message: &SourceMessage) -> Option<SchemaId> {
    let payload = message.payload.as_ref()?;
    Frame::of(payload, &message.headers).map(|frame| frame.id)
}

fn id_of_key(message: &SourceMessage, with_key: bool) -> Option<SchemaId> {
    let key = message.key.as_ref().filter(|_| with_key)?;
    Frame::of_key(key, &message.headers).map(|frame| frame.id)
}

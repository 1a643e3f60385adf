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

/// How the value of a message is read.
#[derive(Debug, Clone)]
pub(super) enum Framed {
    /// As it is.
    Not,
    /// By this schema.
    By(Arc<MessageSchema>),
    /// By one that was not asked for yet.
    Unknown,
}

impl Framing {
    /// How a message's value is read, as far as that is known.
    pub(super) fn known(&self, message: &SourceMessage) -> Framed {
        match id_of(message) {
            None => Framed::Not,
            Some(id) => self.registry.known(id).map_or(Framed::Unknown, Framed::By),
        }
    }

    /// How a message's value is read. Waits for the registry.
    pub(super) async fn of(
        &self,
        message: &SourceMessage,
        status: &StageStatus,
        leave: &Leave,
    ) -> Result<Framed, NoRow> {
        let Some(id) = id_of(message) else {
            return Ok(Framed::Not);
        };
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
                    return Ok(Framed::By(schema));
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

fn id_of(message: &SourceMessage) -> Option<SchemaId> {
    let payload = message.payload.as_ref()?;
    Frame::of(payload, &message.headers).map(|frame| frame.id)
}

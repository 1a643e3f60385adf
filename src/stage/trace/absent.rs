//! Traces of a build without OpenTelemetry: there are none.

use super::{HeaderList, TraceError, TraceStep};
use crate::stage::source::SourceMessage;
use std::borrow::Cow;
use tagstream_core::config::TraceConfig;
use tagstream_core::events::DeadLetterKind;

/// Makes the spans of images.
#[derive(Debug, Clone, Default)]
pub struct NoTraces;

/// The span of an image.
#[derive(Debug, Clone, Default)]
pub struct NoImageTrace {}

impl NoTraces {
    /// Makes what the configuration says.
    ///
    /// # Errors
    /// [`TraceError::NotBuilt`] if it asks for traces.
    pub fn start(config: &TraceConfig) -> Result<Self, TraceError> {
        match super::flaw(config) {
            Some(flaw) => Err(TraceError::NotBuilt(flaw)),
            None => Ok(NoTraces),
        }
    }

    /// Begins the span of a message's record.
    pub fn image(&self, _message: &SourceMessage, _record: u32) -> NoImageTrace {
        NoImageTrace {}
    }

    /// Sends what waits, and ends.
    pub async fn finish(&self) {}
}

impl NoImageTrace {
    /// Notes what the image is called.
    pub fn named(&self, _image_id: &str) {}

    /// Notes that a step is done.
    pub fn reached(&self, _step: TraceStep) {}

    /// Ends it: the image is a dead letter.
    pub fn refused(&self, _kind: DeadLetterKind, _reason: &str) {}

    /// Ends it: its row is in this file.
    pub fn committed(&self, _file: &str, _model: &str) {}

    /// Ends it: its row is in another writer's file.
    pub fn overtaken(&self) {}

    /// The headers of the image's messages: those of the message that asked for it.
    pub fn headers<'a>(&self, of_message: &'a HeaderList) -> Cow<'a, HeaderList> {
        Cow::Borrowed(of_message)
    }
}

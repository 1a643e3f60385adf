//! The wire types: what crosses Kafka topics, and the offsets that order it. Depends on no other
//! room.
//!
//! `schemas/*.json` describe the same types as JSON Schema; a test proves that code and files
//! agree.

mod dead_letter;
pub(crate) mod fields;
mod image_reference;
pub(crate) mod json;
mod label_event;
mod label_question;
mod message_error;
mod notification;
mod offset;
mod prediction;
mod records;
mod time;

pub use dead_letter::{DeadLetterKind, header};
pub use image_reference::ImageReference;
pub use label_event::{AheadOfTime, LabelEvent, LabelState, not_ahead};
pub use label_question::{Asked, LabelQuestion, QuestionPurpose};
pub use message_error::MessageError;
pub use notification::{News, Notification, NotifiedModel};
pub use offset::{Offset, OffsetRange, PartitionId, RangeError, SourcePosition};
pub use prediction::{BoundingBox, Prediction, ShortenedField, Tag, TagBox};
pub use records::{listed_records, record_list};
pub use time::{read_time, readable_time};

//! A message on its way to a topic, and how large it is on the wire.

use bytes::Bytes;
use std::sync::Arc;

/// Smallest limit of a topic that a message of any form is made to fit into, bytes. Below it a
/// topic is of no use.
pub const LEAST_LIMIT: usize = 1_024;

/// Frame of a batch of records (format 2), bytes.
const BATCH_FRAME: usize = 61;
/// What librdkafka reckons for a record beside key, value and headers, bytes.
const CLIENT_OVERHEAD: usize = 36;

/// What a message is: this decides what is left out of it first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MessageForm {
    /// Anything; it cannot be made smaller.
    #[default]
    Whole,
    /// A prediction: see `predictions_topic`.
    Prediction,
    /// A dead letter: see `dead_letter_topic`.
    DeadLetter,
}

/// A message for a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: Arc<str>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub payload: Option<Bytes>,
    /// Headers; a value may be missing.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// What it is.
    pub form: MessageForm,
}

/// Bytes of a length as a signed variable-length integer.
fn varint(length: usize) -> usize {
    let bits = usize::BITS - (length << 1).leading_zeros();
    (bits.max(1) as usize).div_ceil(7)
}

fn length(bytes: &Option<Bytes>) -> usize {
    bytes.as_ref().map_or(0, Bytes::len)
}

impl Outgoing {
    /// Bytes of the uncompressed batch that holds this message and no other: what a broker compares
    /// with `max.message.bytes`.
    pub fn batch_bytes(&self) -> usize {
        let with_length = |n: usize| varint(n) + n;
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| with_length(name.len()) + with_length(length(value)))
            .sum();
        // Attributes and the differences of timestamp and offset take a byte each.
        let record = 3
            + with_length(length(&self.key))
            + with_length(length(&self.payload))
            + varint(self.headers.len())
            + headers;
        BATCH_FRAME + with_length(record)
    }

    /// Bytes of memory that it holds: its value, and what is only sent with it.
    pub fn held_bytes(&self) -> u64 {
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(k, v)| k.len() + length(v) + 64).sum();
        (length(&self.payload) + headers) as u64
    }

    /// Bytes as librdkafka reckons them before it takes a message (`message.max.bytes`).
    pub fn client_bytes(&self) -> usize {
        let headers = self.headers.iter();
        // It knows their exact size; two lengths take at most ten bytes.
        let headers: usize = headers.map(|(k, v)| k.len() + length(v) + 10).sum();
        CLIENT_OVERHEAD + length(&self.key) + length(&self.payload) + headers
    }
}

/// The beginning of `text`, at most `most` bytes, cut between two characters.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_in_kafka_s_format() {
        for (length, bytes) in [(0, 1), (63, 1), (64, 2), (8_191, 2), (8_192, 3)] {
            assert_eq!(varint(length), bytes, "{length}");
        }
        let message = Outgoing {
            key: Some(Bytes::from_static(b"k")),
            payload: Some(vec![b'x'; 100].into()),
            headers: vec![("h".into(), None)],
            ..Outgoing::default()
        };
        // Frame, length (2), three bytes, key (1 + 1), value (2 + 100), count, header (1 + 1 + 1).
        assert_eq!(message.batch_bytes(), 61 + 2 + 3 + 2 + 102 + 1 + 3);
        assert!(message.client_bytes() >= message.batch_bytes() - BATCH_FRAME);
    }

    #[test]
    fn a_beginning_is_cut_between_characters() {
        assert_eq!(beginning("aé", 2), "a");
        assert_eq!(beginning("aé", 3), "aé");
    }
}

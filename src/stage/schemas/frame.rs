//! How a message says which schema its value is of: before the value, as Confluent's serializers do
//! it by default (a zero byte, and the schema's number in four), or in a header, as the newer ones
//! may (a one, and the schema's GUID; or the same as before a value).

use bytes::Bytes;
use std::fmt;

/// The headers that name the schemas of value and key.
const HEADER: &str = "__value_schema_id";
const KEY_HEADER: &str = "__key_schema_id";
/// What stands before a number, and how long both are.
const NUMBER: (u8, usize) = (0, 5);
/// What stands before a GUID, and how long both are.
const GUID: (u8, usize) = (1, 17);
/// What messages for AWS Glue's registry begin with: a version, whether the value is compressed
/// (by zlib), and the schema's version as a UUID.
const GLUE: (u8, [u8; 2], usize) = (3, [0, 5], 18);

/// What a registry knows a schema by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaId {
    /// A number, which is the registry's own.
    Number(u32),
    /// A GUID, which is the same in every registry.
    Guid([u8; 16]),
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaId::Number(number) => number.fmt(f),
            SchemaId::Guid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    if [4, 6, 8, 10].contains(&at) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl SchemaId {
    /// The id at the beginning of some bytes, and what follows it.
    fn before(bytes: &[u8]) -> Option<(Self, usize)> {
        let id = |length| bytes.get(1..length);
        match bytes.first()? {
            0 => {
                let number = id(NUMBER.1)?.try_into().ok()?;
                Some((SchemaId::Number(u32::from_be_bytes(number)), NUMBER.1))
            }
            1 => Some((SchemaId::Guid(id(GUID.1)?.try_into().ok()?), GUID.1)),
            _ => None,
        }
    }
}

/// A value with the schema that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The schema.
    pub id: SchemaId,
    /// The value; of Protobuf with which message of its schema it is, as before a value.
    pub value: Bytes,
}

impl Frame {
    /// What the frame of a message says; `None` if it has none.
    pub fn of(payload: &Bytes, headers: &[(String, Option<Bytes>)]) -> Option<Self> {
        Frame::told_by(HEADER, payload, headers)
    }

    /// What the frame of a message's key says; `None` if it has none. No text begins as one does.
    pub fn of_key(key: &Bytes, headers: &[(String, Option<Bytes>)]) -> Option<Self> {
        Frame::told_by(KEY_HEADER, key, headers)
    }

    fn told_by(header: &str, payload: &Bytes, headers: &[(String, Option<Bytes>)]) -> Option<Self> {
        let said = headers.iter().rev().find(|(name, _)| name == header);
        let said = said.and_then(|(_, said)| said.as_ref());
        if let Some(said) = said
            && let Some((id, length)) = SchemaId::before(said)
        {
            // Of Protobuf the message's place in its schema follows the id, wherever that stands.
            let value = match said.len() {
                all if all == length => payload.clone(),
                _ => [&said[length..], payload].concat().into(),
            };
            return Some(Frame { id, value });
        }
        match SchemaId::before(payload)? {
            (id @ SchemaId::Number(_), length) => Some(Frame {
                id,
                value: payload.slice(length..),
            }),
            // Before a value there are numbers only.
            (SchemaId::Guid(_), _) => None,
        }
    }

    /// What makes a message that has no frame here look as if it had one, for people.
    pub fn alike(payload: &[u8], headers: &[(String, Option<Bytes>)]) -> Option<&'static str> {
        let (version, compressions, length) = GLUE;
        if payload.len() > length && payload[0] == version && compressions.contains(&payload[1]) {
            return Some(
                "it begins as messages framed for AWS Glue's schema registry do, which is not \
                 read: Confluent's framing is, and JSON",
            );
        }
        headers.iter().any(|(name, _)| name == HEADER).then_some(
            "its header `__value_schema_id` says that it is framed for a schema registry, which \
             `source.registry.url` names",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(said: &[u8]) -> Vec<(String, Option<Bytes>)> {
        vec![(HEADER.to_owned(), Some(Bytes::copy_from_slice(said)))]
    }

    #[test]
    fn a_schema_stands_before_a_value_or_in_a_header() {
        let number = |number, value: &'static [u8]| {
            Some(Frame {
                id: SchemaId::Number(number),
                value: Bytes::from_static(value),
            })
        };
        let of = |payload: &'static [u8], headers: &[_]| {
            Frame::of(&Bytes::from_static(payload), headers)
        };
        assert_eq!(of(&[0, 0, 0, 1, 2, 9], &[]), number(258, &[9]));
        assert_eq!(of(b"{\"image_id\":1}", &[]), None);
        assert_eq!(of(&[0, 0, 0, 1], &[]), None);
        // A value is no GUID's because it begins with a one.
        assert_eq!(of(&[1; 30], &[]), None);

        let guid: Vec<u8> = (0..17).map(|byte| byte.max(1)).collect();
        let found = of(b"\x02ab", &header(&guid)).unwrap();
        assert_eq!(found.value, "\x02ab");
        assert_eq!(found.id.to_string(), "01020304-0506-0708-090a-0b0c0d0e0f10");
        // The header counts, also where the value looks framed; of Protobuf more follows.
        let more = [&guid[..], &[2, 4]].concat();
        let found = of(&[0, 0, 0, 0, 7, 1], &header(&more)).unwrap();
        assert_eq!(&found.value[..], [2, 4, 0, 0, 0, 0, 7, 1]);
        assert_eq!(of(b"{}", &header(&[0, 0, 0, 0, 3])), number(3, b"{}"));
        // A header of something else is none.
        assert_eq!(of(b"{}", &header(b"7")), None);
        assert_eq!(of(&[0, 0, 0, 0, 7], &header(&guid[..9])), number(7, b""));
    }

    #[test]
    fn a_key_has_a_frame_and_a_header_of_its_own() {
        let key = Bytes::from_static(&[0, 0, 0, 1, 2, 9]);
        let of_value = header(&[0, 0, 0, 0, 3]);
        assert_eq!(
            Frame::of_key(&key, &of_value).unwrap().id,
            SchemaId::Number(258)
        );
        let of_key = vec![(
            KEY_HEADER.to_owned(),
            Some(Bytes::from_static(&[0, 0, 0, 0, 4])),
        )];
        let found = Frame::of_key(&key, &of_key).unwrap();
        assert_eq!((found.id, found.value), (SchemaId::Number(4), key));
        assert_eq!(Frame::of_key(&Bytes::from_static(b"photo-1"), &[]), None);
    }

    #[test]
    fn other_frames_are_named() {
        let glue = [&[3, 5][..], &[7; 30]].concat();
        assert!(Frame::alike(&glue, &[]).unwrap().contains("Glue"));
        assert_eq!(Frame::alike(b"{}", &[]), None);
        assert!(
            Frame::alike(b"\x02", &header(b"x"))
                .unwrap()
                .contains("source.registry.url")
        );
    }
}

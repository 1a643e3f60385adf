//! Avro values into JSON, by the schema that they were written with.
//!
//! Own code, because the crate for Avro reads a value that was cut off as if it ended in nulls, and
//! nests as deep as the bytes say. What is read was written by others, so nothing of it is
//! believed: depth and length of the JSON are bounded, and nothing is reserved that is not there.

use super::MisfitError;
use super::avro_schema::{AvroSchema, Logical, Node};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};

/// Deepest nesting of a value.
const DEPTH: usize = 128;
/// Longest JSON that a value may become, bytes. A byte may stand for a long name.
const LONGEST: usize = 16 << 20;

/// The value as a mapping takes it: of a schema that is text or bytes alone these, else its JSON.
/// Unions are what they hold; bytes are Base64, times RFC 3339, decimals text.
///
/// # Errors
/// [`MisfitError`].
pub(super) fn value_of(schema: &AvroSchema, bytes: &[u8]) -> Result<Vec<u8>, MisfitError> {
    let mut reader = Reader {
        schema,
        rest: bytes,
        json: Vec::new(),
    };
    match schema.node(schema.root()) {
        Node::String => reader.json = reader.text()?.as_bytes().to_vec(),
        Node::Bytes => reader.json = reader.counted()?.to_vec(),
        _ => reader.value(schema.root(), 0)?,
    }
    match reader.rest.len() {
        0 => Ok(reader.json),
        more => Err(MisfitError::Longer(more)),
    }
}

struct Reader<'a> {
    schema: &'a AvroSchema,
    rest: &'a [u8],
    json: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn value(&mut self, node: usize, depth: usize) -> Result<(), MisfitError> {
        if depth > DEPTH {
            return Err(MisfitError::Unfit("it is nested too deep"));
        }
        if self.json.len() > LONGEST {
            return Err(MisfitError::Unfit("its JSON would be too long"));
        }
        let schema = self.schema;
        match schema.node(node) {
            Node::Null => self.push("null"),
            Node::Boolean => match self.take(1)? {
                [0] => self.push("false"),
                [1] => self.push("true"),
                _ => return Err(MisfitError::Unfit("a boolean is neither 0 nor 1")),
            },
            Node::Int => {
                let number = i32::try_from(self.long()?);
                let number =
                    number.map_err(|_| MisfitError::Unfit("an int of more than 32 bits"))?;
                self.push(&number.to_string());
            }
            Node::Long => {
                let number = self.long()?;
                self.push(&number.to_string());
            }
            Node::Float => {
                let number = f32::from_le_bytes(self.array()?);
                self.number(number.is_finite(), number.to_string());
            }
            Node::Double => {
                let number = f64::from_le_bytes(self.array()?);
                self.number(number.is_finite(), number.to_string());
            }
            Node::Bytes => {
                let bytes = self.counted()?;
                self.string(&BASE64.encode(bytes));
            }
            Node::Fixed(size) => {
                let bytes = self.take(*size)?;
                self.string(&BASE64.encode(bytes));
            }
            Node::String => {
                let text = self.text()?;
                self.string(text);
            }
            Node::Enum(symbols) => {
                let symbol = self.choice(symbols, "an enum has no such symbol")?;
                self.string(symbol);
            }
            Node::Union(branches) => {
                let branch = *self.choice(branches, "a union has no such branch")?;
                self.value(branch, depth + 1)?;
            }
            Node::Record(fields) => self.record(fields, depth)?,
            Node::Array(items) => {
                self.push("[");
                self.blocks(|reader| reader.value(*items, depth + 1))?;
                self.push("]");
            }
            Node::Map(values) => {
                self.push("{");
                self.blocks(|reader| {
                    let name = reader.text()?;
                    reader.string(name);
                    reader.push(":");
                    reader.value(*values, depth + 1)
                })?;
                self.push("}");
            }
            Node::Logical(logical, base) => self.logical(logical, *base, depth)?,
        }
        Ok(())
    }

    fn record(&mut self, fields: &[(String, usize)], depth: usize) -> Result<(), MisfitError> {
        self.push("{");
        for (index, (name, node)) in fields.iter().enumerate() {
            if index > 0 {
                self.push(",");
            }
            self.string(name);
            self.push(":");
            self.value(*node, depth + 1)?;
        }
        self.push("}");
        Ok(())
    }

    fn push(&mut self, text: &str) {
        self.json.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &str) {
        self.push(&serde_json::Value::from(text).to_string());
    }

    /// JSON has no infinity.
    fn number(&mut self, is_finite: bool, written: String) {
        match is_finite {
            true => self.push(&written),
            false => self.string(&written),
        }
    }

    fn choice<T>(&mut self, all: &'a [T], otherwise: &'static str) -> Result<&'a T, MisfitError> {
        let index = usize::try_from(self.long()?).ok();
        let found = index.and_then(|index| all.get(index));
        found.ok_or(MisfitError::Unfit(otherwise))
    }

    /// The items of an array or map, which come in blocks.
    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), MisfitError>,
    ) -> Result<(), MisfitError> {
        const LENGTH: MisfitError = MisfitError::Unfit("a block's length cannot be");
        let mut is_first = true;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The block's length in bytes, for readers that pass over it.
                self.long()?;
                count = count.checked_neg().ok_or(LENGTH)?;
            }
            for _ in 0..count {
                if !std::mem::take(&mut is_first) {
                    self.push(",");
                }
                item(self)?;
            }
        }
    }

    fn logical(&mut self, logical: &Logical, base: usize, depth: usize) -> Result<(), MisfitError> {
        const TIME: MisfitError = MisfitError::Unfit("a time that no calendar has");
        match logical {
            Logical::Timestamp { per_second, zone } => {
                let number = self.long()?;
                let nanos = number.rem_euclid(*per_second) * (1_000_000_000 / per_second);
                let seconds = number.div_euclid(*per_second);
                let nanos = u32::try_from(nanos).map_err(|_| TIME)?;
                let time = DateTime::<Utc>::from_timestamp(seconds, nanos).ok_or(TIME)?;
                let text = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                // A local time names no zone.
                let end = if *zone { text.len() } else { text.len() - 1 };
                self.string(&text[..end]);
            }
            Logical::Date => {
                let days = TimeDelta::try_days(self.long()?).ok_or(TIME)?;
                let epoch = NaiveDate::from_ymd_opt(1970, 1, 1);
                let date = epoch.and_then(|epoch| epoch.checked_add_signed(days));
                self.string(&date.ok_or(TIME)?.to_string());
            }
            Logical::Decimal { scale } => {
                let bytes = match self.schema.node(base) {
                    Node::Fixed(size) => self.take(*size)?,
                    _ => self.counted()?,
                };
                self.string(&decimal(bytes, *scale));
            }
            Logical::Uuid => match self.schema.node(base) {
                Node::Fixed(size) => {
                    let bytes = self.take(*size)?;
                    self.string(&uuid(bytes));
                }
                _ => self.value(base, depth + 1)?,
            },
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], MisfitError> {
        let split = self.rest.split_at_checked(count);
        let (taken, rest) = split.ok_or(MisfitError::Shorter)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MisfitError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| MisfitError::Shorter)
    }

    /// Bytes behind their number.
    fn counted(&mut self) -> Result<&'a [u8], MisfitError> {
        let count = usize::try_from(self.long()?);
        self.take(count.map_err(|_| MisfitError::Unfit("a length is negative"))?)
    }

    fn text(&mut self) -> Result<&'a str, MisfitError> {
        let text = std::str::from_utf8(self.counted()?);
        text.map_err(|_| MisfitError::Unfit("a string is not UTF-8"))
    }

    /// A number of up to 64 bits, seven of them a byte, the sign in the lowest.
    fn long(&mut self) -> Result<i64, MisfitError> {
        let mut bits = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            bits |= part << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1) as i64 ^ -((bits & 1) as i64));
            }
        }
        Err(MisfitError::Unfit("a number of more than 64 bits"))
    }
}

/// An unscaled number in two's complement, most significant byte first. What is longer than 16
/// bytes is told as it is.
fn decimal(bytes: &[u8], scale: usize) -> String {
    if bytes.is_empty() || bytes.len() > 16 {
        return BASE64.encode(bytes);
    }
    let negative = bytes[0] & 0x80 != 0;
    let start = if negative { -1i128 } else { 0 };
    let shifted = |n: i128, byte: &u8| n << 8 | i128::from(*byte);
    let unscaled = bytes.iter().fold(start, shifted);
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    match scale {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

fn uuid(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match hex.len() {
        32 => [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-"),
        _ => hex,
    }
}

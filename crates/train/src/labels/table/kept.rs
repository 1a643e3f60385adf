//! A table as bytes, to be kept and gone on with.
//!
//! ```text
//! magic, version
//! strings: images, categories, annotators, topics, forms of addresses; of each where its strings
//!          end, and the text
//! columns: uris, uri_events, starts, codes, row events, times, offsets, origins of events,
//!          annotators, topics, partitions and upper halves of origins
//! SHA-256 of all before it
//! ```
//!
//! Numbers are little-endian, and every column is its count and its values. What a later build
//! writes in another way has another version, and is not read.

use super::LabelTable;
use super::gathering::{Addresses, Events, NONE, Origin, Origins, Row};
use super::strings::Strings;
use sha2::{Digest, Sha256};
use std::io;
use std::io::{Read, Write};

const MAGIC: &[u8; 8] = b"tslabels";
const VERSION: u32 = 1;
/// Values that are read and written at once.
const CHUNK: usize = 1 << 13;

/// Why bytes are no table.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Another version wrote them.
    #[error("it is of version {found}, this build reads {VERSION}")]
    Version {
        /// Which.
        found: u32,
    },
    /// They are damaged, or something else.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// They cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl LabelTable {
    /// Writes the whole table, retractions and stamps included.
    ///
    /// # Errors
    /// If `output` cannot be written.
    pub fn write_to(&self, output: impl Write) -> io::Result<()> {
        let mut out = Writer {
            output,
            hash: Sha256::new(),
        };
        out.write(MAGIC)?;
        out.write(&VERSION.to_le_bytes())?;
        let (events, origins) = (&self.events, &self.origins);
        for strings in [
            &self.images,
            &self.categories,
            origins.annotators.strings(),
            origins.topics.strings(),
            self.addresses.strings(),
        ] {
            let (text, ends) = strings.parts();
            out.column(ends.iter().map(|end| (*end as u64).to_le_bytes()))?;
            out.write(text.as_bytes())?;
        }
        out.singles(self.uris.iter().copied())?;
        out.singles(self.uri_events.iter().copied())?;
        out.column(self.starts.iter().map(|n| (*n as u64).to_le_bytes()))?;
        out.singles(self.rows.iter().map(|row| row.code))?;
        out.singles(self.rows.iter().map(|row| row.event))?;
        out.column(events.times.iter().map(|time| time.to_le_bytes()))?;
        out.singles(events.offsets.iter().copied())?;
        out.singles(events.origins.iter().copied())?;
        out.singles(origins.all.iter().map(|origin| origin.annotator))?;
        out.singles(origins.all.iter().map(|origin| origin.topic))?;
        out.singles(origins.all.iter().map(|o| o.partition as u32))?;
        out.singles(origins.all.iter().map(|origin| origin.above as u32))?;
        let Writer { mut output, hash } = out;
        output.write_all(&hash.finalize())
    }

    /// Reads what [`LabelTable::write_to`] wrote.
    ///
    /// # Errors
    /// [`KeptError`].
    pub fn read_from(input: impl Read) -> Result<Self, KeptError> {
        let mut reader = Reader {
            input,
            hash: Sha256::new(),
        };
        if reader.array::<8>()? != *MAGIC {
            return Err(KeptError::Damaged("it begins otherwise"));
        }
        match u32::from_le_bytes(reader.array()?) {
            VERSION => {}
            found => return Err(KeptError::Version { found }),
        }
        let images = reader.strings()?;
        let categories = reader.strings()?;
        let (annotators, topics) = (reader.strings()?, reader.strings()?);
        let addresses = Addresses::from(reader.strings()?);
        let (uris, uri_events) = (reader.singles()?, reader.singles()?);
        let starts = reader.lengths()?;
        let codes = reader.singles()?;
        let mut events = codes.iter();
        let rows = reader.column(|bytes| Row {
            code: events.next().copied().unwrap_or_default(),
            event: u32::from_le_bytes(bytes),
        })?;
        let events = Events {
            times: reader.column(i64::from_le_bytes)?,
            offsets: reader.singles()?,
            origins: reader.singles()?,
        };
        let (by, of) = (reader.singles()?, reader.singles()?);
        let (partitions, above) = (reader.singles()?, reader.singles()?);
        let count = by.len();
        let alike = [of.len(), partitions.len(), above.len()] == [count; 3]
            && codes.len() == rows.len()
            && [events.offsets.len(), events.origins.len()] == [events.len(); 2];
        if !alike {
            return Err(KeptError::Damaged("its columns do not fit"));
        }
        reader.finish()?;
        let all = (0..count).map(|at| Origin {
            annotator: by[at],
            topic: of[at],
            partition: partitions[at] as i32,
            above: above[at] as i32,
        });
        let table = LabelTable {
            origins: Origins::from_parts(all.collect(), annotators, topics),
            rows,
            images,
            categories,
            addresses,
            uris,
            uri_events,
            tagged: Vec::new(),
            starts,
            events,
        };
        match table.is_sound() {
            true => Ok(table),
            false => Err(KeptError::Damaged("its numbers do not fit")),
        }
    }

    /// Whether every number leads to something.
    fn is_sound(&self) -> bool {
        let images = self.images.len();
        let (events, forms) = (self.events.len(), self.addresses.strings().len().max(1));
        let starts = match images {
            0 => self.starts.len() <= 1 && self.rows.is_empty(),
            _ => {
                self.starts.len() == images + 1
                    && self.starts.is_sorted()
                    && self.starts.first() == Some(&0)
                    && self.starts.last() == Some(&self.rows.len())
            }
        };
        let origins = &self.origins;
        let (annotators, topics) = (
            origins.annotators.strings().len(),
            origins.topics.strings().len(),
        );
        starts
            && [self.uris.len(), self.uri_events.len()] == [images; 2]
            && self.uris.iter().all(|uri| (*uri as usize) < forms)
            && self
                .uri_events
                .iter()
                .all(|e| *e == NONE || (*e as usize) < events)
            && self.rows.iter().all(|row| {
                (row.category() as usize) < self.categories.len() && (row.event as usize) < events
            })
            && self
                .events
                .origins
                .iter()
                .all(|o| (*o as usize) < origins.all.len())
            && origins
                .all
                .iter()
                .all(|o| (o.annotator as usize) < annotators && (o.topic as usize) < topics)
    }
}

struct Writer<W> {
    output: W,
    hash: Sha256,
}

impl<W: Write> Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.output.write_all(bytes)
    }

    fn column<const N: usize>(
        &mut self,
        mut values: impl ExactSizeIterator<Item = [u8; N]>,
    ) -> io::Result<()> {
        self.write(&(values.len() as u64).to_le_bytes())?;
        let mut chunk = Vec::with_capacity(CHUNK * N);
        while values.len() > 0 {
            chunk.clear();
            chunk.extend(values.by_ref().take(CHUNK).flatten());
            self.write(&chunk)?;
        }
        Ok(())
    }

    fn singles(&mut self, values: impl ExactSizeIterator<Item = u32>) -> io::Result<()> {
        self.column(values.map(u32::to_le_bytes))
    }
}

struct Reader<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Reader<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), KeptError> {
        self.input.read_exact(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], KeptError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The hash must follow, and nothing after it.
    fn finish(mut self) -> Result<(), KeptError> {
        let mut hash = [0; 32];
        self.input.read_exact(&mut hash)?;
        if self.hash.finalize()[..] != hash {
            return Err(KeptError::Damaged("its hash differs"));
        }
        match self.input.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(KeptError::Damaged("it goes on behind its end")),
        }
    }

    /// A damaged length must not take memory: what is read is bounded by what is there.
    fn column<const N: usize, T>(
        &mut self,
        mut value: impl FnMut([u8; N]) -> T,
    ) -> Result<Vec<T>, KeptError> {
        let mut left = u64::from_le_bytes(self.array()?);
        let mut values = Vec::new();
        let mut chunk = vec![0; CHUNK * N];
        while left > 0 {
            let next = left.min(CHUNK as u64) as usize;
            self.fill(&mut chunk[..next * N])?;
            let (arrays, _) = chunk[..next * N].as_chunks::<N>();
            values.extend(arrays.iter().copied().map(&mut value));
            left -= next as u64;
        }
        Ok(values)
    }

    fn singles(&mut self) -> Result<Vec<u32>, KeptError> {
        self.column(u32::from_le_bytes)
    }

    fn lengths(&mut self) -> Result<Vec<usize>, KeptError> {
        self.column(|bytes| u64::from_le_bytes(bytes) as usize)
    }

    fn strings(&mut self) -> Result<Strings, KeptError> {
        let ends = self.lengths()?;
        let mut left = ends.last().copied().unwrap_or(0);
        let mut text = Vec::new();
        let mut chunk = vec![0; CHUNK];
        while left > 0 {
            let next = left.min(CHUNK);
            self.fill(&mut chunk[..next])?;
            text.extend_from_slice(&chunk[..next]);
            left -= next;
        }
        let text = String::from_utf8(text).ok();
        text.and_then(|text| Strings::from_parts(text, ends))
            .ok_or(KeptError::Damaged("a list of strings does not fit"))
    }
}

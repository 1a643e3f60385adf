//! Dead letters of a list of images, in a file of JSON lines, each once however often the work on
//! the list was broken off.
//!
//! A letter is in the file before the table's file that covers its position is put. So what it
//! tells of positions behind the table's end is of work that is done again, and is dropped when
//! the work goes on.

use super::producer::{Ack, Outgoing, ProduceError, Topics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tagstream_core::events::{ImageReference, Offset, header};
use tagstream_core::storage::atomic;

/// Why there is no file of letters.
#[derive(Debug, thiserror::Error)]
#[error("dead letters cannot be written to {path}: {source}")]
pub struct LetterFileError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// An image that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The list's own id.
    pub list: String,
    /// Its position in the list.
    pub position: Offset,
    /// Its name.
    pub image_id: String,
    /// Its address.
    pub uri: String,
    /// The kind of failure.
    pub kind: String,
    /// What went wrong, for people.
    pub reason: String,
}

/// Dead letters of a listing, a JSON object a line.
#[derive(Debug)]
pub struct LetterFile {
    path: PathBuf,
    list: String,
    file: Mutex<Option<File>>,
}

impl LetterFile {
    /// The file at `path`, which need not be there yet, for the list with this id.
    pub fn at(path: impl Into<PathBuf>, list: impl Into<String>) -> Self {
        LetterFile {
            path: path.into(),
            list: list.into(),
            file: Mutex::default(),
        }
    }

    fn failed(&self, source: std::io::Error) -> LetterFileError {
        LetterFileError {
            path: self.path.clone(),
            source,
        }
    }

    /// The letters. A line that was cut off is none.
    fn read(&self) -> std::io::Result<Vec<Letter>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let read = lines
            .map(serde_json::from_slice::<Letter>)
            .collect::<Vec<_>>();
        let others = read.iter().flatten().any(|letter| letter.list != self.list);
        let is_another = read.first().is_some_and(Result::is_err) && read.len() > 1;
        if others || is_another {
            let reason = "it holds something else than dead letters of this list: name another";
            return Err(std::io::Error::other(reason));
        }
        Ok(read.into_iter().flatten().collect())
    }

    /// Goes on with the letters before `end`.
    ///
    /// # Errors
    /// [`LetterFileError`].
    pub fn go_on_at(&self, end: Offset) -> Result<(), LetterFileError> {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let go_on = || {
            let mut kept = self.read()?;
            kept.retain(|letter| letter.position < end);
            let mut text = Vec::new();
            for letter in &kept {
                serde_json::to_writer(&mut text, letter)?;
                text.push(b'\n');
            }
            atomic::write_file(&self.path, text)?;
            OpenOptions::new().append(true).open(&self.path)
        };
        *open = Some(go_on().map_err(|e| self.failed(e))?);
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many letters there are of each kind.
    ///
    /// # Errors
    /// [`LetterFileError`].
    pub fn kinds(&self) -> Result<BTreeMap<String, u64>, LetterFileError> {
        let mut kinds = BTreeMap::new();
        for letter in self.read().map_err(|e| self.failed(e))? {
            *kinds.entry(letter.kind).or_default() += 1;
        }
        Ok(kinds)
    }

    fn write(&self, letter: &Outgoing) -> std::io::Result<()> {
        let of = |name: &str| {
            let found = letter.headers.iter().rev().find(|(key, _)| key == name);
            let value = found.and_then(|(_, value)| value.as_deref());
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        let image = letter.payload.as_deref().unwrap_or_default();
        let image = ImageReference::from_json(image).map_err(std::io::Error::other)?;
        let position = of(header::SOURCE_OFFSET).parse();
        let letter = Letter {
            list: self.list.clone(),
            position: Offset(position.map_err(std::io::Error::other)?),
            image_id: image.image_id,
            uri: image.uri,
            kind: of(header::ERROR_KIND),
            reason: of(header::ERROR_MESSAGE),
        };
        let mut line = serde_json::to_vec(&letter)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = || std::io::Error::other("it was not opened");
        file.as_mut().ok_or_else(closed)?.write_all(&line)
    }
}

impl Topics for LetterFile {
    fn send(&self, message: Outgoing) -> Ack {
        match self.write(&message) {
            Ok(()) => Ack::acknowledged(),
            Err(error) => Ack::failed(ProduceError::LetterFile {
                path: self.path.display().to_string(),
                reason: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::dead_letter_topic::{RecordsRefused, message};
    use crate::stage::source::SourceMessage;
    use tagstream_core::events::{DeadLetterKind, PartitionId};

    fn letter(position: i64) -> Outgoing {
        let refused = RecordsRefused {
            records: Vec::new(),
            kind: DeadLetterKind::NotFound,
            reason: "gone".into(),
        };
        let value = format!(r#"{{"image_id":"i{position}","uri":"file:///{position}"}}"#);
        let source = SourceMessage {
            partition: PartitionId::new("listing", 0),
            offset: Offset(position),
            leader_epoch: None,
            key: None,
            payload: Some(value.into()),
            headers: Vec::new(),
            timestamp: None,
        };
        message(&"".into(), &source, &refused)
    }

    #[tokio::test]
    async fn letters_of_work_that_is_done_again_are_dropped_and_a_line_that_was_cut_off_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.jsonl");
        let file = LetterFile::at(&path, "l");
        assert!(file.send(letter(0)).wait().await.is_err());
        file.go_on_at(Offset(0)).unwrap();
        for position in [1, 4, 2, 7] {
            file.send(letter(position)).wait().await.unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let again = LetterFile::at(&path, "l");
        again.go_on_at(Offset(3)).unwrap();
        again.send(letter(5)).wait().await.unwrap();
        let kept = again.read().unwrap();
        let positions: Vec<i64> = kept.iter().map(|l| l.position.0).collect();
        assert_eq!(positions, [1, 2, 5]);
        assert_eq!((&*kept[2].image_id, &*kept[2].reason), ("i5", "gone"));
        assert_eq!(again.kinds().unwrap()["not_found"], 3);
        let other = LetterFile::at(&path, "another");
        assert!(other.go_on_at(Offset(0)).is_err());
        assert_eq!(again.read().unwrap().len(), 3);
    }
}

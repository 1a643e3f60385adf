//! An image's bytes, or the open file that holds them.

use super::buffers::{Buffer, Buffers};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// An image's bytes, unchecked: perhaps no image at all.
#[derive(Debug)]
pub struct Body(Content);

/// Where the bytes are.
#[derive(Debug)]
enum Content {
    Held(Bytes),
    Cached(CachedFile),
}

impl Body {
    pub(super) fn held(bytes: Bytes) -> Self {
        Body(Content::Held(bytes))
    }

    pub(super) fn cached(file: CachedFile) -> Self {
        Body(Content::Cached(file))
    }

    /// The bytes. A local file that lies in the system's memory is copied only now, by whoever
    /// wants it: into a buffer that was used a moment ago, so that the bytes are near when they are
    /// looked at.
    ///
    /// # Errors
    /// What the system says when the file cannot be read any more.
    pub fn load(self) -> io::Result<Bytes> {
        match self.0 {
            Content::Held(bytes) => Ok(bytes),
            Content::Cached(file) => file.load().map(Bytes::from_owner),
        }
    }
}

/// An open file that lies in the system's memory: reading it waits for no disk.
#[derive(Debug)]
pub(super) struct CachedFile {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) buffers: Arc<Buffers>,
}

impl CachedFile {
    /// Copies it. A file that grows meanwhile is read up to the size that was checked.
    pub(super) fn load(self) -> io::Result<Buffer> {
        let mut buffer = self.buffers.take(self.size as usize);
        buffer.fill(&self.file, self.size as usize)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it was when it was opened, but for what was cut off since; never more than was checked.
    #[test]
    fn a_file_left_where_it_is_loads_as_it_is_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let cached = || CachedFile {
            file: File::open(&path).unwrap(),
            size: bytes.len() as u64,
            buffers: Arc::default(),
        };
        let (before, after) = (cached(), cached());
        let file = File::options().append(true).open(&path).unwrap();
        io::Write::write_all(&mut &file, b"more").unwrap();
        assert_eq!(before.load().unwrap().as_ref(), bytes);
        file.set_len(1_000).unwrap();
        assert_eq!(after.load().unwrap().as_ref(), &bytes[..1_000]);
    }
}

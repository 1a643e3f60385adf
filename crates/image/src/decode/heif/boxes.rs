//! Boxes of ISO's base media format (ISO/IEC 14496-12), and the numbers in them.

use super::fault::{ENDS_EARLY, Fault};

/// What is left to read of some bytes; all numbers are big-endian.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number of this many bytes, at most eight; none are 0.
    pub(super) fn number(&mut self, bytes: usize) -> Result<u64, Fault> {
        let taken = self.take(bytes)?.iter();
        Ok(taken.fold(0, |number, &byte| (number << 8) | u64::from(byte)))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.number(1)? as u8)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        Ok(self.number(2)? as u16)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(self.number(4)? as u32)
    }

    pub(super) fn kind(&mut self) -> Result<[u8; 4], Fault> {
        Ok(self.u32()?.to_be_bytes())
    }

    /// Version and flags of a full box.
    pub(super) fn version(&mut self) -> Result<(u8, u32), Fault> {
        let both = self.u32()?;
        Ok(((both >> 24) as u8, both & 0xff_ffff))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next box, which must be there as a whole.
    pub(super) fn next_box(&mut self) -> Result<BmffBox<'a>, Fault> {
        let (short, kind) = (self.u32()?, self.kind()?);
        let content = match short {
            // To the end of the file.
            0 => std::mem::take(&mut self.rest),
            1 => {
                let length = self.number(8)?.checked_sub(16).ok_or(NO_BOX)?;
                self.take(usize::try_from(length).map_err(|_| ENDS_EARLY)?)?
            }
            length => self.take(length.checked_sub(8).ok_or(NO_BOX)? as usize)?,
        };
        Ok(BmffBox { kind, content })
    }
}

const NO_BOX: Fault = Fault::Damaged("a box says that it is shorter than its own beginning");

/// A box and what is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BmffBox<'a> {
    pub kind: [u8; 4],
    pub content: &'a [u8],
}

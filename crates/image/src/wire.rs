//! What a stage and its decoding helper say to each other, over one local socket.
//!
//! A helper greets once, when its limits are set. Then every request is a head of [`REQUEST`] bytes
//! and the image file, and every answer a head of [`ANSWER`] bytes and the pixels or the words of
//! an error. Numbers are little-endian. Both ends are the same version of this program, which the
//! greeting makes sure of; the side that asks believes the other nothing all the same, because what
//! answers may be what a hostile picture made of it.

use crate::decode::{DecodeError, DecodeLimits, ImageInfo, ImageSize, Orientation};
use crate::decode::{index_of_name, name_at};
use crate::preprocessing::{Filter, Fit, Preprocessing};
use std::io::{self, Read, Write};

/// The first bytes from a helper that is ready; the digits are the version of this exchange.
pub(crate) const GREETING: [u8; 8] = *b"TAGDEC03";
/// Bytes of a request's head.
const REQUEST: usize = 20;
/// Bytes of an answer's head.
const ANSWER: usize = 20;
/// Longest text of an error that is sent or believed.
const TEXT: usize = 1024;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// The pixels that a model takes.
    Fit(Preprocessing),
    /// All pixels, upright.
    Whole,
    /// What the header says.
    Probe,
}

/// What is answered, before the pixels.
pub(crate) type Answer = Result<ImageInfo, DecodeError>;

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// A request's head, for a file of `length` bytes.
pub(crate) fn request(task: &Task, length: usize) -> io::Result<[u8; REQUEST]> {
    let mut head = [0; REQUEST];
    let side = |side: usize| u32::try_from(side).map_err(|_| invalid("a size beyond 32 bits"));
    head[0] = match task {
        Task::Fit(preprocessing) => {
            head[1] = (preprocessing.fit == Fit::CenterCrop).into();
            head[2] = (preprocessing.filter == Filter::Bilinear).into();
            head[4..8].copy_from_slice(&side(preprocessing.height)?.to_le_bytes());
            head[8..12].copy_from_slice(&side(preprocessing.width)?.to_le_bytes());
            1
        }
        Task::Whole => 2,
        Task::Probe => 3,
    };
    head[12..].copy_from_slice(&(length as u64).to_le_bytes());
    Ok(head)
}

/// The next request: the task, and the length of the file that follows. `None`: nobody asks any
/// more.
pub(crate) fn read_request(from: &mut impl Read) -> io::Result<Option<(Task, usize)>> {
    let mut head = [0; REQUEST];
    if from.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let task = match head[0] {
        1 => Task::Fit(Preprocessing {
            height: number(&head, 4) as usize,
            width: number(&head, 8) as usize,
            fit: if head[1] == 0 {
                Fit::Squash
            } else {
                Fit::CenterCrop
            },
            filter: if head[2] == 0 {
                Filter::Bicubic
            } else {
                Filter::Bilinear
            },
        }),
        2 => Task::Whole,
        3 => Task::Probe,
        _ => return Err(invalid("no task")),
    };
    let length = u64::from(number(&head, 12)) | u64::from(number(&head, 16)) << 32;
    let length = usize::try_from(length).map_err(|_| invalid("a file beyond the memory"))?;
    Ok(Some((task, length)))
}

/// The kinds of errors, as they are numbered here.
mod code {
    pub(super) const FINE: u8 = 0;
    pub(super) const EMPTY: u8 = 1;
    pub(super) const UNKNOWN: u8 = 2;
    pub(super) const UNSUPPORTED: u8 = 3;
    pub(super) const DAMAGED: u8 = 4;
    pub(super) const PIXELS: u8 = 5;
    pub(super) const MEMORY: u8 = 6;
}

/// Writes an answer, with the pixels of a fine one.
pub(crate) fn write_answer(to: &mut impl Write, answer: &Answer, pixels: &[u8]) -> io::Result<()> {
    let mut head = [0; ANSWER];
    let mut text: &str = "";
    let mut sides = (0, 0);
    match answer {
        Ok(info) => {
            head[0] = code::FINE;
            head[1] = index_of_name(info.format);
            head[2] = info.orientation.to_exif();
            head[3] = info.damaged_percent;
            sides = (info.size.width, info.size.height);
        }
        Err(DecodeError::Empty) => head[0] = code::EMPTY,
        Err(DecodeError::UnknownFormat { looks_like }) => {
            head[0] = code::UNKNOWN;
            text = looks_like;
        }
        Err(DecodeError::UnsupportedFeature { format, reason }) => {
            (head[0], head[1]) = (code::UNSUPPORTED, index_of_name(format));
            text = reason;
        }
        Err(DecodeError::Damaged { format, reason }) => {
            (head[0], head[1]) = (code::DAMAGED, index_of_name(format));
            text = reason;
        }
        Err(DecodeError::TooManyPixels { width, height, .. }) => {
            head[0] = code::PIXELS;
            sides = (*width, *height);
        }
        Err(DecodeError::TooMuchMemory { .. }) => head[0] = code::MEMORY,
        // Said of a helper, never by one.
        Err(other) => return Err(invalid(&other.to_string())),
    }
    let text = &text[..text.floor_char_boundary(TEXT)];
    head[4..8].copy_from_slice(&sides.0.to_le_bytes());
    head[8..12].copy_from_slice(&sides.1.to_le_bytes());
    head[12..].copy_from_slice(&(text.len().max(pixels.len()) as u64).to_le_bytes());
    to.write_all(&head)?;
    to.write_all(text.as_bytes())?;
    to.write_all(pixels)
}

/// Reads an answer; the pixels of a fine one follow, as many as `length` says.
pub(crate) fn read_answer(
    from: &mut impl Read,
    limits: &DecodeLimits,
) -> io::Result<(Answer, usize)> {
    let mut head = [0; ANSWER];
    from.read_exact(&mut head)?;
    let (width, height) = (number(&head, 4), number(&head, 8));
    let length = u64::from(number(&head, 12)) | u64::from(number(&head, 16)) << 32;
    let length = usize::try_from(length).map_err(|_| invalid("an answer beyond the memory"))?;
    let format = name_at(head[1]);
    if head[0] == code::FINE {
        let size = ImageSize { width, height };
        limits.check_pixels(size).map_err(io::Error::other)?;
        let info = ImageInfo {
            format,
            size,
            orientation: Orientation::from_exif(head[2]),
            damaged_percent: head[3],
        };
        return Ok((Ok(info), length));
    }
    if length > TEXT {
        return Err(invalid("an error of too many words"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    let reason = String::from_utf8_lossy(&text).into_owned();
    let error = match head[0] {
        code::EMPTY => DecodeError::Empty,
        code::UNKNOWN => DecodeError::UnknownFormat { looks_like: reason },
        code::UNSUPPORTED => DecodeError::UnsupportedFeature { format, reason },
        code::DAMAGED => DecodeError::Damaged { format, reason },
        code::PIXELS => DecodeError::TooManyPixels {
            width,
            height,
            max_pixels: limits.max_pixels,
        },
        code::MEMORY => DecodeError::TooMuchMemory {
            max_alloc_bytes: limits.max_alloc_bytes,
        },
        _ => return Err(invalid("no kind of answer")),
    };
    Ok((Err(error), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_were() {
        let fit = Task::Fit(Preprocessing {
            height: 224,
            width: 336,
            fit: Fit::CenterCrop,
            filter: Filter::Bilinear,
        });
        for task in [fit, Task::Whole, Task::Probe] {
            let head = request(&task, 5_000_000_000).unwrap();
            let read = read_request(&mut &head[..]).unwrap();
            assert_eq!(read, Some((task, 5_000_000_000)));
        }
        assert_eq!(read_request(&mut &b""[..]).unwrap(), None);
        assert!(read_request(&mut &[9; REQUEST][..]).is_err());
        assert!(read_request(&mut &[1; REQUEST - 1][..]).is_err());
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let limits = DecodeLimits::default();
        let answers: [Answer; 7] = [
            Ok(ImageInfo {
                format: "tiff",
                size: ImageSize {
                    width: 640,
                    height: 480,
                },
                orientation: Orientation::Turn270,
                damaged_percent: 12,
            }),
            Err(DecodeError::Empty),
            Err(DecodeError::UnknownFormat {
                looks_like: "it looks like SVG".into(),
            }),
            Err(DecodeError::UnsupportedFeature {
                format: "webp",
                reason: "no".into(),
            }),
            Err(DecodeError::Damaged {
                format: "gif",
                reason: String::new(),
            }),
            Err(DecodeError::TooManyPixels {
                width: 70_000,
                height: 1,
                max_pixels: limits.max_pixels,
            }),
            Err(DecodeError::TooMuchMemory {
                max_alloc_bytes: limits.max_alloc_bytes,
            }),
        ];
        for answer in answers {
            let pixels: &[u8] = if answer.is_ok() { &[7; 12] } else { &[] };
            let mut wire = Vec::new();
            write_answer(&mut wire, &answer, pixels).unwrap();
            let mut rest = &wire[..];
            assert_eq!(
                read_answer(&mut rest, &limits).unwrap(),
                (answer, pixels.len())
            );
            assert_eq!(rest, pixels);
        }
    }

    #[test]
    fn a_hostile_answer_is_not_believed() {
        let limits = DecodeLimits::default();
        let mut wire = Vec::new();
        let long = Err(DecodeError::Damaged {
            format: "png",
            reason: "x".repeat(1 << 20),
        });
        write_answer(&mut wire, &long, &[]).unwrap();
        assert!(wire.len() <= ANSWER + TEXT);
        let mut head = [0; ANSWER];
        head[4..12].fill(0xff);
        assert!(read_answer(&mut &head[..], &limits).is_err());
        head[0] = code::DAMAGED;
        head[12..].fill(0xff);
        assert!(read_answer(&mut &head[..], &limits).is_err());
        head[0] = 77;
        head[12..].fill(0);
        assert!(read_answer(&mut &head[..], &limits).is_err());
    }
}

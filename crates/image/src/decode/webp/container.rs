//! The container: which bytes hold the picture, and where on the canvas it lies.

use super::super::size::ImageSize;

/// Longest side that either way of coding has.
const SIDE: u32 = 16_384;

/// The picture of a file: the only one, or an animation's first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Picture<'a> {
    /// Size of all of it.
    pub canvas: ImageSize,
    /// The columns left of what is coded; nothing but an animation's first frame has some.
    pub left: u32,
    /// The rows above it.
    pub top: u32,
    /// Size of what is coded.
    pub size: ImageSize,
    /// What is coded, with the header of its way of coding and without any container.
    pub coded: &'a [u8],
    /// Whether it is coded without loss, which is another way altogether.
    pub lossless: bool,
}

impl<'a> Picture<'a> {
    /// Reads the chunks up to the picture, without its transparency, which nobody here wants.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut rest = bytes.get(12..).unwrap_or_default();
        let first = next_chunk(&mut rest)?;
        if &first.kind != b"VP8X" {
            return Coded::of(&first)
                .ok_or("its first chunk is no picture")?
                .into_picture(None);
        }
        let &[flags, _, _, _, ref sides @ ..] = first.data else {
            return Err(ENDS_EARLY);
        };
        let canvas = size(sides).ok_or(ENDS_EARLY)?;
        if flags & ANIMATED == 0 {
            return first_coded(&mut rest)?.into_picture(Some(canvas));
        }
        loop {
            let chunk = next_chunk(&mut rest)?;
            if &chunk.kind == b"ANMF" {
                return frame(canvas, chunk.data);
            }
        }
    }

    /// Whether what is coded is all of the picture.
    pub(super) fn is_whole(&self) -> bool {
        self.size == self.canvas
    }

    fn is_inside(&self) -> bool {
        let inside = |at: u32, length: u32, limit| {
            let end = at.checked_add(length);
            end.is_some_and(|end| end <= limit)
        };
        inside(self.left, self.size.width, self.canvas.width)
            && inside(self.top, self.size.height, self.canvas.height)
    }
}

/// The flag of an animation, in the header of an extended file.
const ANIMATED: u8 = 2;

const ENDS_EARLY: &str = "it ends early";

/// A frame of an animation.
fn frame(canvas: ImageSize, data: &[u8]) -> Result<Picture<'_>, &'static str> {
    let place = data.split_first_chunk::<16>();
    let (&[l0, l1, l2, t0, t1, t2, ref sides @ ..], mut rest) = place.ok_or(ENDS_EARLY)?;
    let declared = size(&sides[..6]).ok_or(ENDS_EARLY)?;
    let picture = Picture {
        canvas,
        left: 2 * u32::from_le_bytes([l0, l1, l2, 0]),
        top: 2 * u32::from_le_bytes([t0, t1, t2, 0]),
        ..first_coded(&mut rest)?.into_picture(Some(declared))?
    };
    if picture.is_inside() {
        Ok(picture)
    } else {
        Err("its first frame lies outside of its canvas")
    }
}

/// Two sides, each less one, of three bytes.
fn size(sides: &[u8]) -> Option<ImageSize> {
    let &[w0, w1, w2, h0, h1, h2] = sides.first_chunk()?;
    Some(ImageSize {
        width: u32::from_le_bytes([w0, w1, w2, 0]) + 1,
        height: u32::from_le_bytes([h0, h1, h2, 0]) + 1,
    })
}

struct Chunk<'a> {
    kind: [u8; 4],
    data: &'a [u8],
}

/// A chunk that is there as far as it says. A byte that makes its length even may be missing.
fn next_chunk<'a>(rest: &mut &'a [u8]) -> Result<Chunk<'a>, &'static str> {
    let (&[k, l, m, n, a, b, c, d], behind) = rest.split_first_chunk().ok_or(ENDS_EARLY)?;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let data = behind.get(..length).ok_or(ENDS_EARLY)?;
    let next = length.saturating_add(length % 2);
    *rest = behind.get(next..).unwrap_or_default();
    Ok(Chunk {
        kind: [k, l, m, n],
        data,
    })
}

/// The first chunk that is a picture.
fn first_coded<'a>(rest: &mut &'a [u8]) -> Result<Coded<'a>, &'static str> {
    loop {
        if let Some(coded) = Coded::of(&next_chunk(rest)?) {
            return Ok(coded);
        }
    }
}

/// A chunk that is a picture.
struct Coded<'a> {
    data: &'a [u8],
    lossless: bool,
}

impl<'a> Coded<'a> {
    fn of(chunk: &Chunk<'a>) -> Option<Self> {
        let lossless = match &chunk.kind {
            b"VP8 " => false,
            b"VP8L" => true,
            _ => return None,
        };
        Some(Coded {
            data: chunk.data,
            lossless,
        })
    }

    /// Alone on its canvas, of the size that its container declares.
    fn into_picture(self, declared: Option<ImageSize>) -> Result<Picture<'a>, &'static str> {
        let size = if self.lossless {
            lossless_size(self.data)
        } else {
            lossy_size(self.data)
        };
        let size = size.ok_or("its picture has no header")?;
        if size.width == 0 || size.height == 0 || size.width.max(size.height) > SIDE {
            return Err("its picture has no size that there is");
        }
        if declared.is_some_and(|declared| declared != size) {
            return Err("its picture is of another size than it declares");
        }
        Ok(Picture {
            canvas: size,
            left: 0,
            top: 0,
            size,
            coded: self.data,
            lossless: self.lossless,
        })
    }
}

/// Of a key frame (RFC 6386, 9.1).
fn lossy_size(data: &[u8]) -> Option<ImageSize> {
    let &[tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = data.first_chunk()? else {
        return None;
    };
    // The upper two bits say how a player might enlarge it.
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    (tag & 1 == 0).then(|| ImageSize {
        width: side(w0, w1),
        height: side(h0, h1),
    })
}

/// Of a lossless bit stream (RFC 9649, 3.4).
fn lossless_size(data: &[u8]) -> Option<ImageSize> {
    let &[0x2f, a, b, c, d] = data.first_chunk()? else {
        return None;
    };
    let bits = u32::from_le_bytes([a, b, c, d]);
    Some(ImageSize {
        width: (bits & 0x3fff) + 1,
        height: (bits >> 14 & 0x3fff) + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_vec();
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes.extend(vec![0; data.len() % 2]);
        bytes
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [&b"RIFF\0\0\0\0WEBP"[..], &chunks.concat()].concat()
    }

    /// Lossy, of so many columns and 5 rows.
    fn lossy(width: u8) -> Vec<u8> {
        chunk(b"VP8 ", &[0x10, 0, 0, 0x9d, 1, 0x2a, width, 0, 5, 0, 77])
    }

    fn extended(flags: u8, width: u8, height: u8) -> Vec<u8> {
        let sides = [flags, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0];
        chunk(b"VP8X", &sides)
    }

    /// A frame at 2 columns, 4 rows.
    fn framed(width: u8, height: u8, picture: &[u8]) -> Vec<u8> {
        let place = [1, 0, 0, 2, 0, 0, width - 1, 0, 0, height - 1, 0, 0];
        chunk(b"ANMF", &[&place[..], &[0; 4], picture].concat())
    }

    const fn sized(width: u32, height: u32) -> ImageSize {
        ImageSize { width, height }
    }

    #[test]
    fn the_picture_is_found_behind_other_chunks() {
        let simple = file(&[lossy(9)]);
        let picture = Picture::of(&simple).unwrap();
        assert_eq!((picture.canvas, picture.lossless), (sized(9, 5), false));
        assert_eq!(picture.coded.len(), 11);
        let clear = chunk(b"ALPH", b"abc");
        let behind = file(&[extended(16, 9, 5), chunk(b"ICCP", b"x"), clear, lossy(9)]);
        assert_eq!(Picture::of(&behind).unwrap(), picture);
        let lossless = chunk(b"VP8L", &[0x2f, 8, 0, 1, 0]);
        let lossless = file(&[lossless]);
        let picture = Picture::of(&lossless).unwrap();
        assert_eq!((picture.canvas, picture.lossless), (sized(9, 5), true));
    }

    #[test]
    fn an_animation_is_its_first_frame() {
        let head = [extended(2, 20, 9), chunk(b"ANIM", &[0; 6])];
        let frames = [framed(9, 5, &lossy(9)), framed(9, 5, &lossy(3))];
        let moving = file(&[head.concat(), frames.concat()]);
        let picture = Picture::of(&moving).unwrap();
        assert_eq!((picture.canvas, picture.size), (sized(20, 9), sized(9, 5)));
        assert_eq!((picture.left, picture.top), (2, 4));
        assert!(!picture.is_whole());
        for wrong in [framed(9, 5, &lossy(19)), framed(8, 5, &lossy(9))] {
            assert!(Picture::of(&file(&[head.concat(), wrong])).is_err());
        }
        let outside = file(&[extended(2, 10, 9), framed(9, 5, &lossy(9))]);
        assert!(Picture::of(&outside).unwrap_err().contains("outside"));
        for length in 0..moving.len() - frames[1].len() {
            assert!(Picture::of(&moving[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        let other = file(&[extended(0, 9, 6), lossy(9)]);
        assert!(Picture::of(&other).unwrap_err().contains("another size"));
        assert!(Picture::of(&file(&[lossy(0)])).is_err());
        // No key frame, another signature, and a chunk that is none.
        for at in [20, 24, 12] {
            let mut odd = file(&[lossy(9)]);
            odd[at] |= 1;
            odd[at] ^= 2;
            assert!(Picture::of(&odd).is_err(), "{at}");
        }
    }
}

//! What a GIF's first frame leaves free of its screen, and in which colour Pillow has that.

/// The first frame's place on the screen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FirstFrame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    /// The transparent colour, or the first one, of the frame's palette.
    around: [u8; 3],
}

const EXTENSION: u8 = 0x21;
const GRAPHIC_CONTROL: u8 = 0xf9;
const IMAGE: u8 = 0x2c;

impl FirstFrame {
    /// `None` where the file makes no sense, or has no palette.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<13>()?;
        let mut palette = take_palette(header[10], &mut rest)?;
        let mut transparent = 0;
        loop {
            match *rest {
                [EXTENSION, GRAPHIC_CONTROL, 4, flags, _, _, index, ..] => {
                    transparent = if flags & 1 == 1 {
                        usize::from(index)
                    } else {
                        0
                    };
                    rest = after_blocks(&rest[2..])?;
                }
                [EXTENSION, _, ..] => rest = after_blocks(&rest[2..])?,
                [IMAGE, ..] => {
                    let (frame, mut behind) = rest.split_first_chunk::<10>()?;
                    let own = take_palette(frame[9], &mut behind)?;
                    if !own.is_empty() {
                        palette = own;
                    }
                    let number = |at| usize::from(u16::from_le_bytes([frame[at], frame[at + 1]]));
                    let colour = palette.get(3 * transparent..3 * transparent + 3)?;
                    return Some(FirstFrame {
                        left: number(1),
                        top: number(3),
                        width: number(5),
                        height: number(7),
                        around: colour.try_into().ok()?,
                    });
                }
                _ => return None,
            }
        }
    }

    /// Paints what the frame leaves free of rows of `width` pixels.
    pub(super) fn paint_around(&self, width: usize, rgb: &mut [u8]) {
        let (right, bottom) = (self.left + self.width, self.top + self.height);
        for (y, row) in rgb.chunks_exact_mut(3 * width).enumerate() {
            let inside = (self.top..bottom).contains(&y);
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                if !inside || !(self.left..right).contains(&x) {
                    pixel.copy_from_slice(&self.around);
                }
            }
        }
    }

    /// Whether it covers a screen of this size.
    pub(super) fn covers(&self, width: usize, height: usize) -> bool {
        (self.left, self.top) == (0, 0) && self.width >= width && self.height >= height
    }
}

/// The palette that flags announce; empty if they announce none.
fn take_palette<'a>(flags: u8, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if flags & 0x80 == 0 {
        return Some(&[]);
    }
    let (palette, behind) = rest.split_at_checked(3 << ((flags & 7) + 1))?;
    *rest = behind;
    Some(palette)
}

/// What follows blocks of data, the last of which is empty.
fn after_blocks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, behind) = rest.split_first()?;
        rest = behind.get(usize::from(length)..)?;
        if length == 0 {
            return Some(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_and_the_colour_are_found_behind_extensions() {
        let mut file = b"GIF89a\x09\0\x08\0\x80\0\0\x01\x02\x03\x04\x05\x06".to_vec();
        file.extend(b"\x21\xfe\x03abc\0\x21\xf9\x04\x01\0\0\x01\0");
        file.extend(b"\x2c\x02\0\x03\0\x04\0\x02\0\0");
        let frame = FirstFrame::of(&file).unwrap();
        assert_eq!((frame.left, frame.top), (2, 3));
        assert_eq!(frame.around, [4, 5, 6]);
        assert!(!frame.covers(9, 8));
        let mut rgb = vec![0; 3 * 9 * 8];
        frame.paint_around(9, &mut rgb);
        let inside = rgb.chunks(3).filter(|pixel| *pixel == [0; 3]).count();
        assert_eq!(inside, 4 * 2);
        for length in 0..file.len() {
            assert_eq!(FirstFrame::of(&file[..length]), None);
        }
    }
}

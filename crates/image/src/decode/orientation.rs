//! The eight EXIF orientations.

use super::size::ImageSize;

/// How a stored picture must be turned to be upright (EXIF tag 0x0112).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// 1: as stored.
    #[default]
    Upright,
    /// 2: mirrored left to right.
    MirrorHorizontal,
    /// 3: turned by 180 degrees.
    Turn180,
    /// 4: mirrored top to bottom.
    MirrorVertical,
    /// 5: mirrored at the main diagonal.
    Transpose,
    /// 6: to be turned clockwise by 90 degrees.
    Turn90,
    /// 7: mirrored at the other diagonal.
    Transverse,
    /// 8: to be turned clockwise by 270 degrees.
    Turn270,
}

impl Orientation {
    /// Values that EXIF does not know mean upright, as most readers take them.
    pub fn from_exif(value: u8) -> Self {
        match value {
            2 => Orientation::MirrorHorizontal,
            3 => Orientation::Turn180,
            4 => Orientation::MirrorVertical,
            5 => Orientation::Transpose,
            6 => Orientation::Turn90,
            7 => Orientation::Transverse,
            8 => Orientation::Turn270,
            _ => Orientation::Upright,
        }
    }

    /// The value that EXIF gives it.
    pub(crate) fn to_exif(self) -> u8 {
        match self {
            Orientation::Upright => 1,
            Orientation::MirrorHorizontal => 2,
            Orientation::Turn180 => 3,
            Orientation::MirrorVertical => 4,
            Orientation::Transpose => 5,
            Orientation::Turn90 => 6,
            Orientation::Transverse => 7,
            Orientation::Turn270 => 8,
        }
    }

    /// Whether width and height change places.
    pub fn swaps_sides(self) -> bool {
        self.swap_and_mirrors().0
    }

    /// The upright size of a picture stored with size `stored` (and the reverse).
    pub fn upright(self, stored: ImageSize) -> ImageSize {
        if self.swaps_sides() {
            ImageSize {
                width: stored.height,
                height: stored.width,
            }
        } else {
            stored
        }
    }

    /// (swap, mirror x, mirror y): the upright pixel (x, y) is stored at (y, x) if swapped, else at
    /// (x, y), and then mirrored along the stored axes.
    pub(super) fn swap_and_mirrors(self) -> (bool, bool, bool) {
        match self {
            Orientation::Upright => (false, false, false),
            Orientation::MirrorHorizontal => (false, true, false),
            Orientation::Turn180 => (false, true, true),
            Orientation::MirrorVertical => (false, false, true),
            Orientation::Transpose => (true, false, false),
            Orientation::Turn90 => (true, false, true),
            Orientation::Transverse => (true, true, true),
            Orientation::Turn270 => (true, true, false),
        }
    }
}

/// Turns `stored` (RGB) upright into `upright`, which has size `size`.
pub(super) fn turn(orientation: Orientation, stored: &[u8], size: ImageSize, upright: &mut [u8]) {
    debug_assert_eq!(stored.len(), upright.len());
    if orientation == Orientation::Upright {
        upright.copy_from_slice(stored);
        return;
    }
    let (swap, mirror_x, mirror_y) = orientation.swap_and_mirrors();
    let (width, height) = (size.width as usize, size.height as usize);
    let (stored_width, stored_height) = if swap {
        (height, width)
    } else {
        (width, height)
    };
    for (y, row) in upright.chunks_exact_mut(width * 3).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let (mut sx, mut sy) = if swap { (y, x) } else { (x, y) };
            if mirror_x {
                sx = stored_width - 1 - sx;
            }
            if mirror_y {
                sy = stored_height - 1 - sy;
            }
            let at = (sy * stored_width + sx) * 3;
            pixel.copy_from_slice(&stored[at..at + 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight ways to store the picture `a b c / d e f`, written down by hand from the EXIF
    /// standard's figure: row 0 and column 0 of the stored picture are the named sides of the
    /// upright one.
    #[test]
    fn every_orientation_of_a_two_by_three_picture() {
        let cases: [(u8, [&str; 3], u32); 8] = [
            (1, ["abc", "def", ""], 3),
            (2, ["cba", "fed", ""], 3),
            (3, ["fed", "cba", ""], 3),
            (4, ["def", "abc", ""], 3),
            (5, ["ad", "be", "cf"], 2),
            (6, ["cf", "be", "ad"], 2),
            (7, ["fc", "eb", "da"], 2),
            (8, ["da", "eb", "fc"], 2),
        ];
        for (exif, rows, stored_width) in cases {
            let stored: Vec<u8> = rows.concat().bytes().flat_map(|b| [b; 3]).collect();
            let orientation = Orientation::from_exif(exif);
            let size = orientation.upright(ImageSize {
                width: stored_width,
                height: 6 / stored_width,
            });
            assert_eq!((size.width, size.height), (3, 2), "orientation {exif}");
            let mut upright = vec![0; 18];
            turn(orientation, &stored, size, &mut upright);
            let got: String = upright.chunks(3).map(|p| p[0] as char).collect();
            assert_eq!(got, "abcdef", "orientation {exif}");
        }
    }

    #[test]
    fn every_value_comes_back_as_it_was() {
        for value in 1..=8 {
            assert_eq!(Orientation::from_exif(value).to_exif(), value);
        }
    }

    #[test]
    fn unknown_values_mean_upright() {
        for value in [0, 9, 255] {
            assert_eq!(Orientation::from_exif(value), Orientation::Upright);
        }
    }
}

//! The picture that a file is about: one coded picture or a grid of them, how it is turned, and
//! whether its colours were multiplied with its alpha.

use super::super::orientation::Orientation;
use super::super::size::ImageSize;
use super::boxes::Reader;
use super::coded::{Chroma, Codec, Coded};
use super::fault::Fault;
use super::items::{ItemId, Items};
use super::part::{Part, Planes};

/// What is known before anything is decoded.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    /// Of what is coded.
    pub size: ImageSize,
    /// The part of it that is the picture.
    pub aperture: Aperture,
    pub orientation: Orientation,
    pub colour: Layout<'a>,
    /// Where colours have to be divided by it.
    pub alpha: Option<Layout<'a>>,
}

impl<'a> Picture<'a> {
    /// Reads what a file says of its picture.
    ///
    /// # Errors
    /// If it contradicts itself, or is of a kind that is not read here.
    pub(super) fn of(items: &Items<'a>) -> Result<Self, Fault> {
        let said = Said::of(items, items.primary)?;
        let colour = Layout::of(items, items.primary, &said)?;
        let mut of_alpha = items.referred(items.primary, b"prem").iter();
        let alpha = match of_alpha.next() {
            None => None,
            Some(&item) => {
                let linked = items
                    .referring(items.primary, b"auxl")
                    .any(|aux| aux == item);
                let said = Said::of(items, item)?;
                if !linked || said.size != Some(colour.size) {
                    return Err(Fault::Damaged("its alpha is not that of its picture"));
                }
                Some(Layout::of(items, item, &said)?)
            }
        };
        // Where libheif reads for Pillow it is minded, where libavif does it is not.
        let aperture = match said.aperture {
            Some(numbers) if colour.tiles[0].codec == Codec::Hevc => {
                Aperture::of(numbers, colour.size)?
            }
            _ => Aperture::whole(colour.size),
        };
        Ok(Picture {
            size: colour.size,
            aperture,
            orientation: said.orientation(),
            colour,
            alpha,
        })
    }
}

/// A part of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aperture {
    pub left: u32,
    pub top: u32,
    pub size: ImageSize,
}

impl Aperture {
    fn whole(size: ImageSize) -> Self {
        Aperture {
            left: 0,
            top: 0,
            size,
        }
    }

    /// By the property `clap` (ISO/IEC 14496-12, 12.1.4): width, height and how far the middle lies
    /// from that of the whole, each with what it is divided by.
    fn of(numbers: [u32; 8], whole: ImageSize) -> Result<Self, Fault> {
        const OUTSIDE: Fault = Fault::Damaged("the part of it that is the picture lies outside");
        let [width, by, height, and_by, x, x_by, y, y_by] = numbers;
        let side = |side: u32, by: u32, offset: u32, offset_by: u32, whole: u32| {
            let size = side.checked_div(by).filter(|size| *size > 0)?;
            let offset = f64::from(offset as i32) / f64::from(offset_by);
            let start = f64::from(whole - 1) / 2.0 + offset - f64::from(size - 1) / 2.0;
            let start = start.round();
            let inside = start >= 0.0 && start + f64::from(size) <= f64::from(whole);
            inside.then_some((start as u32, size))
        };
        let (left, width) = side(width, by, x, x_by, whole.width).ok_or(OUTSIDE)?;
        let (top, height) = side(height, and_by, y, y_by, whole.height).ok_or(OUTSIDE)?;
        Ok(Aperture {
            left,
            top,
            size: ImageSize { width, height },
        })
    }
}

/// What is said of an item.
#[derive(Debug, Default)]
struct Said<'a> {
    size: Option<ImageSize>,
    /// Quarters that it is turned to the left by.
    turned: u8,
    /// Whether it is mirrored then, left to right or else top to bottom.
    mirrored: Option<bool>,
    /// Matrix coefficients and whether samples use their whole range.
    colour: Option<(u16, bool)>,
    /// The property `hvcC`.
    hevc: Option<&'a [u8]>,
    /// The numbers of the property `clap`.
    aperture: Option<[u32; 8]>,
}

impl<'a> Said<'a> {
    fn of(items: &Items<'a>, item: ItemId) -> Result<Self, Fault> {
        let mut said = Said::default();
        for property in items.properties(item) {
            let (property, essential) = property?;
            let mut content = Reader::new(property.content);
            match &property.kind {
                b"ispe" => {
                    content.version()?;
                    said.size = Some(ImageSize {
                        width: content.u32()?,
                        height: content.u32()?,
                    });
                }
                b"irot" => said.turned = content.u8()? & 3,
                b"imir" => said.mirrored = Some(content.u8()? & 1 == 1),
                b"colr" if &content.kind()? == b"nclx" => {
                    content.u32()?;
                    let matrix = content.u16()?;
                    said.colour = Some((matrix, content.u8()? & 0x80 != 0));
                }
                b"clap" => {
                    let mut numbers = [0; 8];
                    for number in &mut numbers {
                        *number = content.u32()?;
                    }
                    said.aperture = Some(numbers);
                }
                b"hvcC" => said.hevc = Some(property.content),
                b"a1op" if content.u8()? != 0 => {
                    return Err(Fault::Unsupported("an operating point of its own".into()));
                }
                b"lsel" if content.u16()? != u16::MAX => {
                    return Err(Fault::Unsupported("a layer of its own".into()));
                }
                b"colr" | b"a1op" | b"lsel" | b"av1C" | b"pixi" | b"pasp" | b"auxC" => {}
                kind if essential => {
                    let name = String::from_utf8_lossy(kind);
                    let reason = format!("a property that must be known and is not: {name}");
                    return Err(Fault::Unsupported(reason));
                }
                _ => {}
            }
        }
        Ok(said)
    }

    /// Turned first, then mirrored (ISO/IEC 23000-22, 7.3.6.7), in EXIF's numbers.
    fn orientation(&self) -> Orientation {
        Orientation::from_exif(match (self.turned, self.mirrored) {
            (0, None) => 1,
            (1, None) => 8,
            (2, None) => 3,
            (_, None) => 6,
            (0, Some(false)) | (2, Some(true)) => 4,
            (0, Some(true)) | (2, Some(false)) => 2,
            (1, Some(false)) | (3, Some(true)) => 5,
            (_, Some(_)) => 7,
        })
    }
}

/// The coded pictures that make one.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// Size of the whole.
    pub size: ImageSize,
    columns: u32,
    tiles: Vec<Tile<'a>>,
    /// Said of the whole.
    colour: Option<(u16, bool)>,
}

/// One coded picture of it.
#[derive(Debug, Clone, Copy)]
struct Tile<'a> {
    item: ItemId,
    codec: Codec,
    /// The size that is said of it.
    size: ImageSize,
    /// Its property `hvcC`.
    hevc: Option<&'a [u8]>,
}

impl<'a> Layout<'a> {
    fn of(items: &Items<'a>, item: ItemId, said: &Said<'a>) -> Result<Self, Fault> {
        let size = sound(said.size)?;
        let layout = |columns, tiles| Layout {
            size,
            columns,
            tiles,
            colour: said.colour,
        };
        let kind = items.kind(item)?;
        match (Codec::of(&kind), &kind) {
            (Some(codec), _) => {
                let hevc = said.hevc;
                Ok(layout(
                    1,
                    vec![Tile {
                        item,
                        codec,
                        size,
                        hevc,
                    }],
                ))
            }
            (None, b"grid") => {
                let data = items.data(item)?;
                let (rows, columns) = grid(&data, size)?;
                let tiles = items.referred(item, b"dimg");
                if tiles.len() as u64 != u64::from(rows) * u64::from(columns) {
                    return Err(Fault::Damaged("its grid has not as many parts as it says"));
                }
                let tile = |&item: &ItemId| {
                    let codec = Codec::of(&items.kind(item)?)
                        .ok_or_else(|| Fault::Unsupported("a grid of something else".into()))?;
                    let said = Said::of(items, item)?;
                    Ok(Tile {
                        item,
                        codec,
                        size: sound(said.size)?,
                        hevc: said.hevc,
                    })
                };
                let tiles = tiles.iter().map(tile).collect::<Result<Vec<_>, Fault>>()?;
                let covers = |tile: u32, count: u32, whole: u32| {
                    let all = u64::from(tile) * u64::from(count);
                    all >= u64::from(whole) && all - u64::from(tile) < u64::from(whole)
                };
                let first = tiles[0].size;
                // Else very many of them could stand for few pixels (ISO/IEC 23000-22, 7.3.11.4.2).
                if tiles.len() > 1 && first.width.min(first.height) < 64 {
                    return Err(Fault::Unsupported("a grid of parts below 64 pixels".into()));
                }
                let even = tiles.iter().all(|tile| tile.size == first);
                if !even
                    || !covers(first.width, columns, size.width)
                    || !covers(first.height, rows, size.height)
                {
                    return Err(Fault::Damaged("the parts of its grid do not make its size"));
                }
                Ok(layout(columns, tiles))
            }
            (None, kind) => {
                let name = String::from_utf8_lossy(kind);
                Err(Fault::Unsupported(format!("a picture of the kind {name}")))
            }
        }
    }

    /// Finds the coded data and reads their headers.
    pub(super) fn prepare(&self, items: &Items<'a>) -> Result<Prepared<'a>, Fault> {
        let part = |tile: &Tile<'a>| {
            let part = Part::of(tile.codec, items.data(tile.item)?, tile.hevc)?;
            match part.coded.size == tile.size {
                true => Ok(part),
                false => Err(Fault::Damaged(
                    "its coded picture is not of the size that it says",
                )),
            }
        };
        let parts = self.tiles.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        let first = parts[0].coded;
        if parts.iter().any(|part| part.coded != first) {
            return Err(Fault::Damaged("the parts of its grid differ"));
        }
        let (x, y) = first.chroma.shifts();
        let odd = |side: u32, shift: u32| shift > 0 && side % 2 == 1;
        if parts.len() > 1 && (odd(first.size.width, x) || odd(first.size.height, y)) {
            return Err(Fault::Unsupported("a grid of parts with odd sides".into()));
        }
        Ok(Prepared {
            columns: self.columns as usize,
            colour: self.colour,
            parts,
        })
    }
}

/// Rows and columns of a grid (ISO/IEC 23008-12, 6.6.2.3).
fn grid(data: &[u8], size: ImageSize) -> Result<(u32, u32), Fault> {
    let mut reader = Reader::new(data);
    let (_version, flags) = (reader.u8()?, reader.u8()?);
    let rows = u32::from(reader.u8()?) + 1;
    let columns = u32::from(reader.u8()?) + 1;
    let bytes = if flags & 1 == 0 { 2 } else { 4 };
    let declared = ImageSize {
        width: reader.number(bytes)? as u32,
        height: reader.number(bytes)? as u32,
    };
    match declared == size {
        true => Ok((rows, columns)),
        false => Err(Fault::Damaged("its grid is not of the size that it says")),
    }
}

fn sound(size: Option<ImageSize>) -> Result<ImageSize, Fault> {
    match size {
        Some(size) if size.width > 0 && size.height > 0 => Ok(size),
        _ => Err(Fault::Damaged("it does not say how large a picture is")),
    }
}

/// A layout with its coded data, whose headers are what is said of them.
pub(super) struct Prepared<'a> {
    columns: usize,
    colour: Option<(u16, bool)>,
    parts: Vec<Part<'a>>,
}

impl Prepared<'_> {
    /// What decoding will take at most, coded data that had to be joined included.
    pub(super) fn bytes(&self) -> u64 {
        let planes: u64 = self.parts.iter().map(Part::bytes).sum();
        planes.saturating_add(self.parts[0].working_bytes())
    }

    /// Decodes all parts.
    pub(super) fn decode(self) -> Result<Grid, Fault> {
        let tiles = self.parts.iter().map(Part::decode);
        let tiles = tiles.collect::<Result<Vec<_>, _>>()?;
        let mut coded = tiles[0].coded();
        if tiles.iter().any(|tile| tile.coded() != coded) {
            return Err(Fault::Damaged("the parts of its grid differ"));
        }
        if let Some((matrix, full_range)) = self.colour {
            (coded.matrix, coded.full_range) = (matrix, full_range);
        }
        Ok(Grid {
            columns: self.columns,
            coded,
            tiles,
        })
    }
}

/// Decoded pictures that make one.
pub(super) struct Grid {
    columns: usize,
    /// What is known of each, with the colours that are said of the whole.
    pub coded: Coded,
    tiles: Vec<Planes>,
}

impl Grid {
    pub(super) fn has_colour(&self) -> bool {
        self.coded.chroma != Chroma::None
    }

    /// Whether colour between samples lies between them, too.
    pub(super) fn is_smooth(&self) -> bool {
        matches!(self.tiles[0], Planes::Av1(_))
    }

    /// Copies a row of a plane of the whole, as far as `out` goes.
    pub(super) fn copy_row(&self, plane: usize, row: usize, out: &mut [u16]) {
        let coded = self.coded;
        let (x, y) = match plane {
            0 => (0, 0),
            _ => coded.chroma.shifts(),
        };
        let columns = coded.size.width.div_ceil(1 << x) as usize;
        let rows = coded.size.height.div_ceil(1 << y) as usize;
        let tiles = &self.tiles[row / rows * self.columns..];
        for (tile, out) in tiles.iter().zip(out.chunks_mut(columns)) {
            tile.copy_row(plane, row % rows, out);
        }
    }
}

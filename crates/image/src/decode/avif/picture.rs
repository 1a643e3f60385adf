//! The picture that a file is about: one coded picture or a grid of them, how it is turned, and
//! whether its colours were multiplied with its alpha.

use super::super::orientation::Orientation;
use super::super::size::ImageSize;
use super::boxes::Reader;
use super::fault::Fault;
use super::items::{ItemId, Items};
use super::library::{Chroma, Coded, Planes};

/// What decoding a picture takes beside its planes and for its time: tables of its blocks, filters.
const WORKING_BYTES_PER_PIXEL: u64 = 1;

/// What is known before anything is decoded.
#[derive(Debug)]
pub(super) struct Picture {
    pub size: ImageSize,
    pub orientation: Orientation,
    pub colour: Layout,
    /// Where colours have to be divided by it.
    pub alpha: Option<Layout>,
}

impl Picture {
    /// Reads what a file says of its picture.
    ///
    /// # Errors
    /// If it contradicts itself, or is of a kind that is not read here.
    pub(super) fn of(items: &Items<'_>) -> Result<Self, Fault> {
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
        Ok(Picture {
            size: colour.size,
            orientation: said.orientation(),
            colour,
            alpha,
        })
    }
}

/// What is said of an item.
#[derive(Debug, Default)]
struct Said {
    size: Option<ImageSize>,
    /// Quarters that it is turned to the left by.
    turned: u8,
    /// Whether it is mirrored then, left to right or else top to bottom.
    mirrored: Option<bool>,
    /// Matrix coefficients and whether samples use their whole range.
    colour: Option<(u16, bool)>,
}

impl Said {
    fn of(items: &Items<'_>, item: ItemId) -> Result<Self, Fault> {
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
                b"a1op" if content.u8()? != 0 => {
                    return Err(Fault::Unsupported("an operating point of its own".into()));
                }
                b"lsel" if content.u16()? != u16::MAX => {
                    return Err(Fault::Unsupported("a layer of its own".into()));
                }
                b"colr" | b"a1op" | b"lsel" | b"av1C" | b"pixi" | b"pasp" | b"clap" | b"auxC" => {}
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
pub(super) struct Layout {
    /// Size of the whole.
    pub size: ImageSize,
    columns: u32,
    /// Each with the size that is said of it.
    tiles: Vec<(ItemId, ImageSize)>,
    /// Said of the whole.
    colour: Option<(u16, bool)>,
}

impl Layout {
    fn of(items: &Items<'_>, item: ItemId, said: &Said) -> Result<Self, Fault> {
        let size = sound(said.size)?;
        let layout = |columns, tiles| Layout {
            size,
            columns,
            tiles,
            colour: said.colour,
        };
        match &items.kind(item)? {
            b"av01" => Ok(layout(1, vec![(item, size)])),
            b"grid" => {
                let data = items.data(item)?;
                let (rows, columns) = grid(&data, size)?;
                let tiles = items.referred(item, b"dimg");
                if tiles.len() as u64 != u64::from(rows) * u64::from(columns) {
                    return Err(Fault::Damaged("its grid has not as many parts as it says"));
                }
                let tile = |&tile: &ItemId| {
                    if &items.kind(tile)? != b"av01" {
                        return Err(Fault::Unsupported("a grid of something else".into()));
                    }
                    Ok((tile, sound(Said::of(items, tile)?.size)?))
                };
                let tiles = tiles.iter().map(tile).collect::<Result<Vec<_>, Fault>>()?;
                let covers = |tile: u32, count: u32, whole: u32| {
                    let all = u64::from(tile) * u64::from(count);
                    all >= u64::from(whole) && all - u64::from(tile) < u64::from(whole)
                };
                let first = tiles[0].1;
                // Else very many of them could stand for few pixels (ISO/IEC 23000-22, 7.3.11.4.2).
                if tiles.len() > 1 && first.width.min(first.height) < 64 {
                    return Err(Fault::Unsupported("a grid of parts below 64 pixels".into()));
                }
                let even = tiles.iter().all(|(_, tile)| *tile == first);
                if !even
                    || !covers(first.width, columns, size.width)
                    || !covers(first.height, rows, size.height)
                {
                    return Err(Fault::Damaged("the parts of its grid do not make its size"));
                }
                Ok(layout(columns, tiles))
            }
            kind => {
                let name = String::from_utf8_lossy(kind);
                Err(Fault::Unsupported(format!("a picture of the kind {name}")))
            }
        }
    }

    /// Finds the coded data and reads their headers.
    pub(super) fn prepare<'a>(&self, items: &Items<'a>) -> Result<Prepared<'_, 'a>, Fault> {
        let coded = |(item, said): &(ItemId, ImageSize)| {
            let data = items.data(*item)?;
            let mut coded = Coded::of(&data)?;
            if coded.size != *said {
                return Err(Fault::Damaged(
                    "its coded picture is not of the size that it says",
                ));
            }
            if let Some((matrix, full_range)) = self.colour {
                (coded.matrix, coded.full_range) = (matrix, full_range);
            }
            Ok((data, coded))
        };
        let tiles = self
            .tiles
            .iter()
            .map(coded)
            .collect::<Result<Vec<_>, _>>()?;
        let first = tiles[0].1;
        if tiles.iter().any(|(_, coded)| *coded != first) {
            return Err(Fault::Damaged("the parts of its grid differ"));
        }
        let (x, y) = first.chroma.shifts();
        let odd = |side: u32, shift: u32| shift > 0 && side % 2 == 1;
        if tiles.len() > 1 && (odd(first.size.width, x) || odd(first.size.height, y)) {
            return Err(Fault::Unsupported("a grid of parts with odd sides".into()));
        }
        Ok(Prepared {
            layout: self,
            tiles,
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
pub(super) struct Prepared<'l, 'a> {
    layout: &'l Layout,
    tiles: Vec<(std::borrow::Cow<'a, [u8]>, Coded)>,
}

impl Prepared<'_, '_> {
    pub(super) fn coded(&self) -> Coded {
        self.tiles[0].1
    }

    /// What decoding will take at most, coded data that had to be joined included.
    pub(super) fn bytes(&self) -> u64 {
        let planes = self
            .tiles
            .iter()
            .map(|(data, coded)| coded.bytes() + data.len() as u64);
        let size = self.coded().size;
        let pixels = u64::from(size.width) * u64::from(size.height);
        let working = WORKING_BYTES_PER_PIXEL * self.coded().sample_bytes();
        planes
            .sum::<u64>()
            .saturating_add(working.saturating_mul(pixels))
    }

    /// Decodes all parts.
    pub(super) fn decode(self) -> Result<Grid, Fault> {
        let tiles = self
            .tiles
            .iter()
            .map(|(data, coded)| Planes::decode(data, *coded));
        Ok(Grid {
            columns: self.layout.columns as usize,
            tiles: tiles.collect::<Result<_, _>>()?,
        })
    }
}

/// Decoded pictures that make one.
pub(super) struct Grid {
    columns: usize,
    tiles: Vec<Planes>,
}

impl Grid {
    pub(super) fn coded(&self) -> Coded {
        self.tiles[0].coded
    }

    pub(super) fn has_colour(&self) -> bool {
        self.coded().chroma != Chroma::None
    }

    /// Copies a row of a plane of the whole, as far as `out` goes.
    pub(super) fn copy_row(&self, plane: usize, row: usize, out: &mut [u16]) {
        let coded = self.coded();
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

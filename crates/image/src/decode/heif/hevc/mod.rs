//! HEVC, in which HEIC files are coded (ITU-T H.265): own code reads the headers, so that size and
//! memory are known before libde265 sees anything.

mod bits;
#[cfg(feature = "heic")]
mod library;
#[cfg(not(feature = "heic"))]
mod no_library;

use super::super::size::ImageSize;
use super::boxes::Reader;
use super::coded::{Chroma, Coded};
use super::fault::Fault;
use bits::Bits;
#[cfg(feature = "heic")]
pub(super) use library::Planes;
#[cfg(feature = "heic")]
pub use library::heic_library;
#[cfg(not(feature = "heic"))]
pub(super) use no_library::Planes;
#[cfg(not(feature = "heic"))]
pub use no_library::heic_library;

/// Bytes a pixel for what libde265 keeps of blocks, modes and motion while it decodes.
const WORKING_BYTES_PER_PIXEL: u64 = 4;
/// The kinds of units that tell how others are to be read (ITU-T H.265, table 7-1).
const VIDEO_HEADER: u8 = 32;
const SEQUENCE_HEADER: u8 = 33;
const PICTURE_HEADER: u8 = 34;

/// An item's property `hvcC` (ISO/IEC 14496-15, 8.3.3.1): its headers, and what they say.
pub(super) struct Config<'a> {
    /// Units without a picture in them.
    #[cfg_attr(
        not(feature = "heic"),
        expect(dead_code, reason = "read by the library")
    )]
    headers: Vec<&'a [u8]>,
    /// Bytes of the length before each unit of the item's data.
    length_bytes: usize,
    /// What the sequence's header says; matrix and range are known when it is decoded.
    pub coded: Coded,
}

impl<'a> Config<'a> {
    /// Reads the property.
    ///
    /// # Errors
    /// If it contradicts itself, or says what is not read here.
    pub(super) fn of(record: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(record);
        reader.take(21)?;
        let length_bytes = usize::from(reader.u8()? & 3) + 1;
        let mut headers = Vec::new();
        for _ in 0..reader.u8()? {
            reader.u8()?;
            for _ in 0..reader.u16()? {
                let length = usize::from(reader.u16()?);
                headers.push(reader.take(length)?);
            }
        }
        let mut sequences = headers
            .iter()
            .filter(|unit| kind(unit) == Some(SEQUENCE_HEADER))
            .map(|unit| coded_of(unit));
        let coded = sequences.next().ok_or(NO_HEADER)??;
        for other in sequences {
            if other? != coded {
                return Err(Fault::Damaged("its headers are of several pictures"));
            }
        }
        Ok(Config {
            headers,
            length_bytes,
            coded,
        })
    }

    /// What decoding takes beside the planes that come of it: its own, the same once more before
    /// they are filtered, and what it knows of blocks.
    pub(super) fn working_bytes(&self) -> u64 {
        let size = self.coded.size;
        let pixels = u64::from(size.width) * u64::from(size.height);
        2 * self.coded.bytes() + WORKING_BYTES_PER_PIXEL * pixels
    }

    /// The units of an item's data that hold a picture: headers are the property's alone, because
    /// those were looked at.
    #[cfg_attr(not(feature = "heic"), allow(dead_code, reason = "nothing decodes it"))]
    fn units<'d>(&self, data: &'d [u8]) -> Result<Vec<&'d [u8]>, Fault> {
        let mut reader = Reader::new(data);
        let mut units = Vec::new();
        while !reader.is_empty() {
            let length = reader.number(self.length_bytes)?;
            let unit = reader.take(length as usize)?;
            let is_header = matches!(kind(unit), Some(VIDEO_HEADER..=PICTURE_HEADER));
            if !is_header && layer(unit) == Some(0) {
                units.push(unit);
            }
        }
        Ok(units)
    }
}

const NO_HEADER: Fault = Fault::Damaged("its coded data have no header");

/// The kind of a unit.
fn kind(unit: &[u8]) -> Option<u8> {
    unit.first().map(|byte| byte >> 1 & 0x3f)
}

/// The layer of a unit; 0 is the picture itself.
fn layer(unit: &[u8]) -> Option<u8> {
    Some((unit.first()? & 1) << 5 | unit.get(1)? >> 3)
}

/// What a sequence's header says (ITU-T H.265, 7.3.2.2.1).
fn coded_of(unit: &[u8]) -> Result<Coded, Fault> {
    let mut bits = Bits::of(unit.get(2..).ok_or(NO_HEADER)?);
    bits.skip(4);
    let more_layers = bits.number(3);
    bits.skip(1);
    skip_profile(&mut bits, more_layers);
    bits.exponential();
    let format = bits.exponential();
    if format == 3 && bits.number(1) == 1 {
        return Err(Fault::Unsupported(
            "three pictures of one colour each".into(),
        ));
    }
    let chroma = match format {
        0 => Chroma::None,
        1 => Chroma::Quarter,
        2 => Chroma::Half,
        3 => Chroma::Full,
        _ => return Err(NO_HEADER),
    };
    let (width, height) = (bits.exponential(), bits.exponential());
    let mut cut = [0; 4];
    if bits.number(1) == 1 {
        cut = std::array::from_fn(|_| bits.exponential());
    }
    let [left, right, top, bottom] = cut.map(u64::from);
    let depths = [bits.exponential(), bits.exponential()];
    if bits.ran_out() {
        return Err(NO_HEADER);
    }
    let (x, y) = chroma.shifts();
    let side = |whole: u32, cut: u64, shift: u32| {
        let left = u64::from(whole).checked_sub(cut << shift);
        left.and_then(|side| u32::try_from(side).ok())
            .filter(|side| *side > 0)
            .ok_or(Fault::Damaged("its header leaves nothing of the picture"))
    };
    let depth = match depths {
        [luma, colour] if luma == colour || chroma == Chroma::None => luma,
        _ => return Err(Fault::Unsupported("colour of other bits than luma".into())),
    };
    if depth > 4 {
        return Err(Fault::Unsupported(format!(
            "{} bits a sample",
            8 + u64::from(depth)
        )));
    }
    Ok(Coded {
        size: ImageSize {
            width: side(width, left + right, x)?,
            height: side(height, top + bottom, y)?,
        },
        bits: 8 + depth as u8,
        chroma,
        matrix: UNSAID,
        full_range: false,
    })
}

/// Matrix coefficients that nobody tells (ITU-T H.273).
const UNSAID: u16 = 2;

/// Passes over profile and level (ITU-T H.265, 7.3.3).
fn skip_profile(bits: &mut Bits<'_>, more_layers: u32) {
    const PROFILE: u32 = 88;
    const LEVEL: u32 = 8;
    bits.skip(PROFILE + LEVEL);
    let present: Vec<(u32, u32)> = (0..more_layers)
        .map(|_| (bits.number(1), bits.number(1)))
        .collect();
    if more_layers > 0 {
        bits.skip(2 * (8 - more_layers));
    }
    for (profile, level) in present {
        bits.skip(profile * PROFILE + level * LEVEL);
    }
}

#[cfg(test)]
mod tests;

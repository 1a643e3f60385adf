//! How much of a damaged JPEG is there: its coded data is walked, and nothing is made of it.
//!
//! Only for sequential Huffman coding in one scan, which is what cameras, scanners and phones
//! write: of progressive files nobody can say which part of the picture is missing.

use super::super::marker;
use super::super::segments::{Segment, Segments};

/// What a walk through the coded data found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    /// MCUs that the picture has.
    pub mcus: u64,
    /// Of them, those that are missing, or behind something that cannot be.
    pub damaged: u64,
    /// Where the file's coded data ends, if nothing is damaged; what follows is padding.
    pub end: usize,
}

impl Survey {
    /// Of a file in which every table is where it belongs; else there is none.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        Headers::read(bytes)?.walk(bytes)
    }

    /// The damaged share in percent, rounded up.
    pub(super) fn percent(&self) -> u8 {
        (100 * self.damaged).div_ceil(self.mcus.max(1)).min(100) as u8
    }
}

/// A Huffman table: by length of the code, the first code, how many there are, and where their
/// values begin (T.81, annex C).
struct Huffman<'a> {
    lengths: [(u32, u32, usize); 16],
    values: &'a [u8],
}

impl<'a> Huffman<'a> {
    /// From what a table segment holds behind class and number; and what follows the table.
    fn read(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (counts, rest) = body.split_first_chunk::<16>()?;
        let mut lengths = [(0, 0, 0); 16];
        let (mut code, mut value) = (0_u32, 0);
        for (length, (entry, &count)) in lengths.iter_mut().zip(counts).enumerate() {
            *entry = (code, u32::from(count), value);
            code += u32::from(count);
            value += usize::from(count);
            // More codes than there are of this length.
            if code > 2 << length {
                return None;
            }
            code <<= 1;
        }
        let values = rest.get(..value)?;
        Some((Huffman { lengths, values }, &rest[value..]))
    }

    /// The next value; `None` if no code is like this.
    fn next(&self, bits: &mut Bits<'_>) -> Option<u8> {
        let mut code = 0;
        for &(first, count, value) in &self.lengths {
            code = code << 1 | bits.next(1)?;
            if code >= first && code - first < count {
                return self.values.get(value + (code - first) as usize).copied();
            }
        }
        None
    }
}

/// The bits of one part of the coded data, without stuffed bytes.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    fn next(&mut self, wanted: u32) -> Option<u32> {
        while self.count < wanted {
            let byte = *self.data.get(self.at)?;
            // The zero that is stuffed behind it.
            self.at += if byte == 0xff { 2 } else { 1 };
            self.held = self.held << 8 | u32::from(byte);
            self.count += 8;
        }
        self.count -= wanted;
        Some(self.held >> self.count & ((1 << wanted) - 1))
    }
}

/// A component of the scan.
struct Component {
    blocks: u64,
    dc: usize,
    ac: usize,
}

/// What the segments say.
#[derive(Default)]
struct Headers<'a> {
    dc: [Option<Huffman<'a>>; 4],
    ac: [Option<Huffman<'a>>; 4],
    quantized: [bool; 4],
    interval: u64,
    /// The frame header's body.
    frame: &'a [u8],
    components: Vec<Component>,
    mcus: u64,
    data: usize,
}

impl<'a> Headers<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut headers = Headers::default();
        for Segment {
            code, body, end, ..
        } in Segments::of(bytes)
        {
            match code {
                marker::DHT => headers.read_tables(body)?,
                marker::DQT => headers.note_quantization(body)?,
                marker::DRI => {
                    headers.interval = u64::from(u16::from_be_bytes(body.try_into().ok()?));
                }
                marker::SOF0 | marker::SOF1 if headers.frame.is_empty() => headers.frame = body,
                marker::SOS => {
                    headers.read_scan(body)?;
                    headers.data = end;
                    return Some(headers);
                }
                marker::SOF0..=marker::SOF15 => return None,
                _ => {}
            }
        }
        None
    }

    fn read_tables(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let tables = if head & 16 == 0 {
                &mut self.dc
            } else {
                &mut self.ac
            };
            let (table, rest) = Huffman::read(rest)?;
            *tables.get_mut(usize::from(head & 15))? = Some(table);
            body = rest;
        }
        Some(())
    }

    fn note_quantization(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            *self.quantized.get_mut(usize::from(head & 15))? = true;
            body = rest.get(if head >> 4 == 0 { 64 } else { 128 }..)?;
        }
        Some(())
    }

    /// All components have to be in the scan, and their tables in the file.
    fn read_scan(&mut self, scan: &[u8]) -> Option<()> {
        let (&[8, h1, h0, w1, w0, count], frame) = self.frame.split_first_chunk()? else {
            return None;
        };
        let count = usize::from(count);
        if frame.len() != 3 * count || scan.len() != 4 + 2 * count || scan[0] != self.frame[5] {
            return None;
        }
        let factors = |c: &[u8]| (u64::from(c[1] >> 4), u64::from(c[1] & 15));
        let (mut most_h, mut most_v) = (1, 1);
        for component in frame.chunks_exact(3) {
            let (h, v) = factors(component);
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) {
                return None;
            }
            (most_h, most_v) = (most_h.max(h), most_v.max(v));
        }
        if count == 1 {
            (most_h, most_v) = (1, 1);
        }
        for (component, entry) in frame.chunks_exact(3).zip(scan[1..].chunks_exact(2)) {
            let (h, v) = factors(component);
            let (dc, ac) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
            let there = self.dc.get(dc)?.is_some() && self.ac.get(ac)?.is_some();
            if component[0] != entry[0]
                || !there
                || !*self.quantized.get(usize::from(component[2]))?
            {
                return None;
            }
            // A scan of one component is not interleaved (T.81, A.2.2).
            let blocks = if count == 1 { 1 } else { h * v };
            self.components.push(Component { blocks, dc, ac });
        }
        let side = |high, low| u64::from(u16::from_be_bytes([high, low]));
        self.mcus = side(w1, w0).div_ceil(8 * most_h) * side(h1, h0).div_ceil(8 * most_v);
        Some(())
    }

    /// Reads one MCU; `None` if it cannot be.
    fn read_mcu(&self, bits: &mut Bits<'_>) -> Option<()> {
        for component in &self.components {
            let (dc, ac) = (
                self.dc[component.dc].as_ref()?,
                self.ac[component.ac].as_ref()?,
            );
            for _ in 0..component.blocks {
                let size = dc.next(bits)?;
                if size > 11 {
                    return None;
                }
                bits.next(u32::from(size))?;
                let mut index = 0;
                while index < 63 {
                    let value = ac.next(bits)?;
                    let (run, size) = (value >> 4, value & 15);
                    match (run, size) {
                        (15, 0) => index += 16,
                        (_, 0) => break,
                        _ => {
                            index += u32::from(run) + 1;
                            bits.next(u32::from(size))?;
                        }
                    }
                    if index > 63 {
                        return None;
                    }
                }
            }
        }
        Some(())
    }

    /// From one restart marker to the next: what is damaged in between is lost, what follows is
    /// not.
    fn walk(&self, bytes: &[u8]) -> Option<Survey> {
        let (mut at, mut done, mut whole) = (self.data, 0, 0);
        let mut number = 0;
        while done < self.mcus {
            let wanted = match self.interval {
                0 => self.mcus,
                interval => interval.min(self.mcus - done),
            };
            let (length, ends_by) = part(bytes.get(at..)?);
            let mut bits = Bits {
                data: &bytes[at..at + length],
                at: 0,
                held: 0,
                count: 0,
            };
            let read = (0..wanted).take_while(|_| self.read_mcu(&mut bits).is_some());
            whole += read.count() as u64;
            done += wanted;
            if done >= self.mcus {
                return Some(Survey {
                    mcus: self.mcus,
                    damaged: self.mcus - whole,
                    end: at + bits.at.min(length),
                });
            }
            let Some(found) = ends_by else { break };
            at += length + 2;
            // Markers that are missing, modulo 8; many of them are a marker that is too many.
            let missing = u64::from(found.wrapping_sub(number) % 8);
            number = (found + 1) % 8;
            if missing <= 4 {
                done += missing * self.interval;
            }
        }
        Some(Survey {
            mcus: self.mcus,
            damaged: self.mcus - whole.min(self.mcus),
            end: at,
        })
    }
}

/// Bytes up to the next marker, and its number if that is a restart.
fn part(data: &[u8]) -> (usize, Option<u8>) {
    let mut at = 0;
    while let Some(found) = data[at..].iter().position(|&byte| byte == 0xff) {
        at += found;
        match data.get(at + 1) {
            Some(0) => at += 2,
            Some(code @ marker::RST0..=marker::RST7) => return (at, Some(code - marker::RST0)),
            _ => return (at, None),
        }
    }
    (data.len(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;

    fn picture(width: u32, height: u32) -> image::RgbImage {
        image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 37 ^ y * 11) as u8, (x * y) as u8, (x + 3 * y) as u8])
        })
    }

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut bytes, 90);
        picture(width, height).write_with_encoder(encoder).unwrap();
        bytes
    }

    #[test]
    fn a_whole_file_is_whole_and_its_end_is_found() {
        for (width, height) in [(64, 48), (65, 49), (8, 8), (1, 1)] {
            let file = jpeg(width, height);
            let survey = Survey::of(&file).unwrap();
            assert_eq!((survey.damaged, survey.percent()), (0, 0));
            assert_eq!(survey.end, file.len() - 2);
        }
    }

    #[test]
    fn what_is_cut_off_is_counted() {
        let file = jpeg(256, 256);
        let data = file.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
        let length = file.len() - data;
        let mut last = 0;
        for quarters in [3, 2, 1] {
            let mut cut = file[..data + length * quarters / 4].to_vec();
            cut.extend([0xff, marker::EOI]);
            let percent = Survey::of(&cut).unwrap().percent();
            let missing = 100 - 25 * quarters as u8;
            assert!(percent.abs_diff(missing) < 15, "{percent} of {missing}");
            assert!(percent > last);
            last = percent;
        }
    }

    #[test]
    fn what_is_not_sequential_or_lacks_a_table_is_not_surveyed() {
        let file = jpeg(16, 16);
        let mut progressive = file.clone();
        let frame = file.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        progressive[frame + 1] = marker::SOF2;
        assert_eq!(Survey::of(&progressive), None);
        for table in [[0xff, marker::DHT], [0xff, marker::DQT]] {
            let mut lacking = file.clone();
            let at = file.windows(2).position(|w| w == table).unwrap();
            lacking[at + 1] = marker::COM;
            assert_eq!(Survey::of(&lacking), None);
        }
    }
}

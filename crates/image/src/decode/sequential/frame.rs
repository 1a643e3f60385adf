//! The segments before the coded data of the scan: frame header, tables and scan header.

use super::super::marker;
use super::huffman::TableSpec;

/// One component, as the frame header and the scan header have it (T.81, B.2.2 and B.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    /// By which the scan header names it.
    pub identifier: u8,
    /// Horizontal sampling factor: columns of blocks in an MCU.
    pub horizontal_sampling: usize,
    /// Vertical sampling factor: rows of blocks in an MCU.
    pub vertical_sampling: usize,
    /// Index of its quantization table.
    pub quantization_table: usize,
    /// Index of its Huffman table for DC differences.
    pub dc_table: usize,
    /// Index of its Huffman table for AC coefficients.
    pub ac_table: usize,
}

/// A sequential picture with one scan.
pub(super) struct Frame<'a> {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    components: Vec<Component>,
    /// Largest horizontal sampling factor of any component.
    pub max_horizontal_sampling: usize,
    /// Largest vertical sampling factor of any component.
    pub max_vertical_sampling: usize,
    /// MCUs between restart markers; 0 if there are no such markers (T.81, B.2.4.4).
    pub restart_interval: usize,
    /// Quantization tables, by zigzag index (T.81, B.2.4.1).
    pub quantization_tables: [Option<[u16; 64]>; 4],
    /// Huffman tables for DC differences.
    pub dc_tables: [Option<TableSpec<'a>>; 2],
    /// Huffman tables for AC coefficients.
    pub ac_tables: [Option<TableSpec<'a>>; 2],
    /// From the first byte of the scan's coded data to the end of the file.
    pub coded_data: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads everything up to the coded data; `None` if something in it is not plain.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut frame = Frame {
            width: 0,
            height: 0,
            components: Vec::new(),
            max_horizontal_sampling: 0,
            max_vertical_sampling: 0,
            restart_interval: 0,
            quantization_tables: [None; 4],
            dc_tables: [None; 2],
            ac_tables: [None; 2],
            coded_data: &[],
        };
        let mut rest = bytes.strip_prefix(&[0xff, marker::SOI])?;
        loop {
            let (&[0xff, code, high, low], _) = rest.split_first_chunk()? else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let body = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match code {
                // Whether colours are YCbCr, the Adobe segment (APP14) says; the caller has asked
                // libjpeg-turbo about that already.
                marker::APP0..=marker::APP15 | marker::COM => {}
                marker::DQT => frame.read_quantization_tables(body)?,
                marker::DHT => frame.read_huffman_tables(body)?,
                marker::SOF0 | marker::SOF1 if frame.components.is_empty() => {
                    frame.read_frame_header(body)?;
                }
                marker::DRI => {
                    let &[high, low] = body else { return None };
                    frame.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                }
                marker::SOS => {
                    frame.read_scan_header(body)?;
                    frame.coded_data = rest;
                    return Some(frame);
                }
                _ => return None,
            }
        }
    }

    /// Luma alone, or luma and the two of chroma.
    pub(super) fn components(&self) -> impl Iterator<Item = &Component> {
        self.components.iter()
    }

    /// T.81, B.2.4.1.
    fn read_quantization_tables(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let table = self.quantization_tables.get_mut(usize::from(head & 15))?;
            let mut elements = [0; 64];
            body = match head >> 4 {
                0 => {
                    let (values, rest) = rest.split_at_checked(64)?;
                    for (element, &value) in elements.iter_mut().zip(values) {
                        *element = u16::from(value);
                    }
                    rest
                }
                1 => {
                    let (values, rest) = rest.split_at_checked(128)?;
                    for (element, value) in elements.iter_mut().zip(values.chunks_exact(2)) {
                        *element = u16::from_be_bytes([value[0], value[1]]);
                    }
                    rest
                }
                _ => return None,
            };
            *table = Some(elements);
        }
        Some(())
    }

    /// T.81, B.2.4.2.
    fn read_huffman_tables(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let (spec, rest) = TableSpec::parse(rest)?;
            let tables = match head >> 4 {
                0 => &mut self.dc_tables,
                1 => &mut self.ac_tables,
                _ => return None,
            };
            *tables.get_mut(usize::from(head & 15))? = Some(spec);
            body = rest;
        }
        Some(())
    }

    /// T.81, B.2.2. Refused are samples of more than 8 bits, a height that only follows the scan
    /// (DNL), and sampling factors other than the usual ones.
    fn read_frame_header(&mut self, body: &[u8]) -> Option<()> {
        let (&[8, h1, h0, w1, w0, count], components) = body.split_first_chunk()? else {
            return None;
        };
        self.height = usize::from(u16::from_be_bytes([h1, h0]));
        self.width = usize::from(u16::from_be_bytes([w1, w0]));
        if self.width == 0 || self.height == 0 || components.len() != 3 * usize::from(count) {
            return None;
        }
        for component in components.chunks_exact(3) {
            self.components.push(Component {
                identifier: component[0],
                horizontal_sampling: usize::from(component[1] >> 4),
                vertical_sampling: usize::from(component[1] & 15),
                quantization_table: usize::from(component[2]),
                dc_table: 0,
                ac_table: 0,
            });
        }
        let factors = |c: &Component| (c.horizontal_sampling, c.vertical_sampling);
        match &mut self.components[..] {
            // A scan of one component is not interleaved: whatever the factors say, an MCU is one
            // block (T.81, A.2.2).
            [grey] => (grey.horizontal_sampling, grey.vertical_sampling) = (1, 1),
            [luma, blue, red] => {
                let usual = matches!(factors(luma), (1 | 2, 1 | 2))
                    && factors(blue) == (1, 1)
                    && factors(red) == (1, 1);
                if !usual {
                    return None;
                }
            }
            _ => return None,
        }
        (self.max_horizontal_sampling, self.max_vertical_sampling) = factors(&self.components[0]);
        Some(())
    }

    /// T.81, B.2.3. All components must be in this scan, and every table they name must be there.
    fn read_scan_header(&mut self, body: &[u8]) -> Option<()> {
        let count = self.components.len();
        if count == 0 || body.len() != 4 + 2 * count || usize::from(body[0]) != count {
            return None;
        }
        // The spectral selection and the bit positions of a sequential scan.
        if body[1 + 2 * count..] != [0, 63, 0] {
            return None;
        }
        for (component, entry) in self.components.iter_mut().zip(body[1..].chunks_exact(2)) {
            if component.identifier != entry[0] {
                return None;
            }
            component.dc_table = usize::from(entry[1] >> 4);
            component.ac_table = usize::from(entry[1] & 15);
            self.dc_tables.get(component.dc_table)?.as_ref()?;
            self.ac_tables.get(component.ac_table)?.as_ref()?;
            let table = self.quantization_tables.get(component.quantization_table);
            table?.as_ref()?;
        }
        Some(())
    }
}

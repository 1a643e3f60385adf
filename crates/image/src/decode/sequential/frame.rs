//! The segments before the first scan: sizes, tables and where the coded data begin.

use super::huffman::Code;

/// One component of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    identifier: u8,
    /// Blocks a unit (MCU), side by side.
    pub across: usize,
    /// Blocks a unit, above each other.
    pub down: usize,
    /// Index of its quantisers.
    pub quantisers: usize,
    /// Index of its DC code.
    pub dc: usize,
    /// Index of its AC code.
    pub ac: usize,
}

/// A plain sequential picture with one scan.
pub(super) struct Frame<'a> {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    components: Vec<Component>,
    /// Most blocks a unit side by side of any component.
    pub widest: usize,
    /// Most blocks a unit above each other of any component.
    pub tallest: usize,
    /// Units between restart markers; 0 for none.
    pub restart_interval: usize,
    /// Step sizes in zigzag order.
    pub quantisers: [Option<[u16; 64]>; 4],
    pub dc_codes: [Option<Code<'a>>; 2],
    pub ac_codes: [Option<Code<'a>>; 2],
    /// From the first coded byte to the end of the file.
    pub scan: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the header; `None` if something in it is not plain.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut frame = Frame {
            width: 0,
            height: 0,
            components: Vec::new(),
            widest: 0,
            tallest: 0,
            restart_interval: 0,
            quantisers: [None; 4],
            dc_codes: [None; 2],
            ac_codes: [None; 2],
            scan: &[],
        };
        let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
        loop {
            let (&[0xff, marker, high, low], _) = rest.split_first_chunk()? else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let body = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match marker {
                // The interface of libjpeg-turbo says whether the colours are YCbCr, so the Adobe segment is not read here.
                0xe0..=0xef | 0xfe => {}
                0xdb => frame.read_quantisers(body)?,
                0xc4 => frame.read_codes(body)?,
                0xc0 | 0xc1 if frame.components.is_empty() => frame.read_frame(body)?,
                0xdd => {
                    let &[high, low] = body else { return None };
                    frame.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                }
                0xda => {
                    frame.read_scan(body)?;
                    frame.scan = rest;
                    return Some(frame);
                }
                _ => return None,
            }
        }
    }

    /// One component, or brightness and two of colour.
    pub(super) fn components(&self) -> impl Iterator<Item = &Component> {
        self.components.iter()
    }

    fn read_quantisers(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let table = self.quantisers.get_mut(usize::from(head & 15))?;
            let mut steps = [0; 64];
            body = match head >> 4 {
                0 => {
                    let (values, rest) = rest.split_at_checked(64)?;
                    for (step, &value) in steps.iter_mut().zip(values) {
                        *step = u16::from(value);
                    }
                    rest
                }
                1 => {
                    let (values, rest) = rest.split_at_checked(128)?;
                    for (step, value) in steps.iter_mut().zip(values.chunks_exact(2)) {
                        *step = u16::from_be_bytes([value[0], value[1]]);
                    }
                    rest
                }
                _ => return None,
            };
            *table = Some(steps);
        }
        Some(())
    }

    fn read_codes(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let (code, rest) = Code::parse(rest)?;
            let codes = match head >> 4 {
                0 => &mut self.dc_codes,
                1 => &mut self.ac_codes,
                _ => return None,
            };
            *codes.get_mut(usize::from(head & 15))? = Some(code);
            body = rest;
        }
        Some(())
    }

    fn read_frame(&mut self, body: &[u8]) -> Option<()> {
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
                across: usize::from(component[1] >> 4),
                down: usize::from(component[1] & 15),
                quantisers: usize::from(component[2]),
                dc: 0,
                ac: 0,
            });
        }
        match &mut self.components[..] {
            // The blocks of a single component are not interleaved, whatever its factors say (T.81, A.2.2).
            [grey] => (grey.across, grey.down) = (1, 1),
            [luma, blue, red] => {
                let factors = |c: &Component| (c.across, c.down);
                let plain = matches!(factors(luma), (1 | 2, 1 | 2))
                    && factors(blue) == (1, 1)
                    && factors(red) == (1, 1);
                if !plain {
                    return None;
                }
            }
            _ => return None,
        }
        self.widest = self.components[0].across;
        self.tallest = self.components[0].down;
        Some(())
    }

    fn read_scan(&mut self, body: &[u8]) -> Option<()> {
        let count = self.components.len();
        if count == 0 || body.len() != 4 + 2 * count || usize::from(body[0]) != count {
            return None;
        }
        if body[1 + 2 * count..] != [0, 63, 0] {
            return None;
        }
        for (component, entry) in self.components.iter_mut().zip(body[1..].chunks_exact(2)) {
            if component.identifier != entry[0] {
                return None;
            }
            component.dc = usize::from(entry[1] >> 4);
            component.ac = usize::from(entry[1] & 15);
            self.dc_codes.get(component.dc)?.as_ref()?;
            self.ac_codes.get(component.ac)?.as_ref()?;
            self.quantisers.get(component.quantisers)?.as_ref()?;
        }
        Some(())
    }
}

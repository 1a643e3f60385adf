//! What a JPEG's marker segments say, read by own code.

use super::super::marker;
use super::super::segments::{Segment, Segments};
use super::super::size::ImageSize;

/// What the components of a colour picture are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    YCbCr,
    Rgb,
}

/// What the marker segments before the first scan say that libjpeg-turbo's interface does not pass
/// on (T.81, B.1.1.4).
#[derive(Debug, Default, PartialEq)]
pub(super) struct Markers {
    /// The frame header's size.
    pub size: Option<ImageSize>,
    /// The frame header's code, which says how the picture is coded.
    process: u8,
    /// Bits of a sample.
    precision: u8,
    /// Components of a pixel.
    components: u8,
    /// Coefficients for every 8 pixels (8 for grey, 24 for 4:4:4, 12 for 4:2:0), rounded up.
    coefficients_per_8_pixels: u64,
    /// Whether libjpeg keeps all coefficients until the last scan.
    pub buffers_coefficients: bool,
    /// Whether there is a JFIF segment, and whether it is of the version that readers know.
    jfif: Option<bool>,
    /// The colour transform that an Adobe segment names.
    adobe: Option<u8>,
}

impl Markers {
    /// Memory libjpeg keeps for coefficients while it reads the scans.
    pub(super) fn coefficient_bytes(&self, pixels: u64) -> u64 {
        if self.buffers_coefficients {
            pixels.div_ceil(8) * self.coefficients_per_8_pixels * 2
        } else {
            0
        }
    }

    /// What the three components of a colour picture are, as libjpeg tells it; `None` where it
    /// warns.
    pub(super) fn colours(&self, identifiers: [u8; 3]) -> Option<Colours> {
        match (self.jfif, self.adobe) {
            (Some(true), _) => Some(Colours::YCbCr),
            (Some(false), _) => None,
            (None, Some(0)) => Some(Colours::Rgb),
            (None, Some(1)) => Some(Colours::YCbCr),
            (None, Some(_)) => None,
            (None, None) if identifiers == *b"RGB" => Some(Colours::Rgb),
            (None, None) => Some(Colours::YCbCr),
        }
    }

    /// Walks the segments up to the first scan.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut markers = Markers::default();
        for Segment { code, body, .. } in Segments::of(bytes) {
            match code {
                marker::APP0 if body.len() >= 14 && body.starts_with(b"JFIF\0") => {
                    markers.jfif = Some(body[5] == 1);
                }
                marker::APP14 if body.len() >= 12 && body.starts_with(b"Adobe") => {
                    markers.adobe = Some(body[11]);
                }
                marker::SOF0..=marker::SOF15
                    if ![marker::DHT, marker::JPG, marker::DAC].contains(&code)
                        && body.len() > 5 =>
                {
                    markers.read_frame_header(code, body);
                }
                marker::SOF55 if body.len() > 5 => markers.read_frame_header(code, body),
                marker::SOS => {
                    // A sequential file in several scans is buffered like a progressive one.
                    let components = body.first();
                    markers.buffers_coefficients |=
                        components.is_some_and(|&n| n < markers.components);
                    break;
                }
                _ => {}
            }
        }
        markers
    }

    /// T.81, B.2.2.
    fn read_frame_header(&mut self, code: u8, body: &[u8]) {
        let side = |at| u32::from(u16::from_be_bytes([body[at], body[at + 1]]));
        self.process = code;
        self.precision = body[0];
        self.size = Some(ImageSize {
            width: side(3),
            height: side(1),
        });
        self.components = body[5];
        self.coefficients_per_8_pixels = coefficients_per_8_pixels(&body[6..]);
        self.buffers_coefficients = matches!(
            code,
            marker::SOF2 | marker::SOF6 | marker::SOF10 | marker::SOF14
        );
    }

    /// What of a sound file is not decoded here.
    pub(super) fn unsupported(&self) -> Option<String> {
        let size = self.size?;
        match self.process {
            marker::SOF5..=marker::SOF7 | marker::SOF13..=marker::SOF15 => {
                return Some("hierarchical coding".into());
            }
            marker::SOF55 => return Some("JPEG-LS".into()),
            // Of what libjpeg-turbo reads without loss it converts no colours.
            marker::SOF3
                if self.components != 3 || self.jfif.is_some() || self.adobe == Some(1) =>
            {
                return Some(format!("lossless coding of {} components", self.components));
            }
            marker::SOF11 => return Some("lossless arithmetic coding".into()),
            _ => {}
        }
        match (self.precision, self.components) {
            (8, 1 | 3 | 4) if size.height == 0 && size.width > 0 => {
                Some("a height that only follows the picture (DNL)".into())
            }
            (8, 1 | 3 | 4) => None,
            (8, n) => Some(format!("{n} components")),
            (bits, _) => Some(format!("samples of {bits} bits")),
        }
    }

    /// Whether coefficients are coded by Huffman codes and in one pass.
    pub(super) fn is_sequential_huffman(&self) -> bool {
        matches!(self.process, marker::SOF0 | marker::SOF1) && !self.buffers_coefficients
    }

    /// Whether every scan has all coefficients of its components.
    pub(super) fn is_sequential(&self) -> bool {
        matches!(self.process, marker::SOF0 | marker::SOF1 | marker::SOF9)
    }

    /// The segments that say what the colours are, with nothing in them that libjpeg warns of, and
    /// the meaning that it gives them after its warning.
    pub(super) fn colour_segments(&self) -> Vec<u8> {
        let mut segments = Vec::new();
        if self.jfif.is_some() {
            segments.extend(b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
        }
        if let Some(transform) = self.adobe {
            let transform = match (self.components, transform) {
                (4, known @ (0 | 2)) | (1..=3, known @ (0 | 1)) => known,
                (4, _) => 2,
                _ => 1,
            };
            segments.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
            segments.push(transform);
        }
        segments
    }
}

/// From the components of a frame header, three bytes each: identifier, sampling factors,
/// quantization table (T.81, B.2.2).
fn coefficients_per_8_pixels(components: &[u8]) -> u64 {
    let factors = || {
        components
            .chunks_exact(3)
            .map(|c| (u64::from(c[1] >> 4), u64::from(c[1] & 15)))
    };
    let sum: u64 = factors().map(|(h, v)| h * v).sum();
    let most_h = factors().map(|(h, _)| h).max().unwrap_or(1).max(1);
    let most_v = factors().map(|(_, v)| v).max().unwrap_or(1).max(1);
    (8 * sum).div_ceil(most_h * most_v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_are_counted_by_sampling() {
        assert_eq!(coefficients_per_8_pixels(&[1, 0x11, 0]), 8);
        assert_eq!(
            coefficients_per_8_pixels(&[1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]),
            12
        );
        assert_eq!(
            coefficients_per_8_pixels(&[1, 0x11, 0, 2, 0x11, 1, 3, 0x11, 1]),
            24
        );
        assert_eq!(coefficients_per_8_pixels(&[1, 0x00, 0]), 0);
    }

    #[test]
    fn colours_are_told_as_libjpeg_tells_them() {
        let told = |jfif, adobe, identifiers: &[u8; 3]| {
            let markers = Markers {
                jfif,
                adobe,
                ..Markers::default()
            };
            markers.colours(*identifiers)
        };
        // JFIF's word counts more than Adobe's, and a version that is warned of is not plain.
        assert_eq!(told(Some(true), Some(0), b"RGB"), Some(Colours::YCbCr));
        assert_eq!(told(Some(false), Some(1), &[1, 2, 3]), None);
        assert_eq!(told(None, Some(0), &[1, 2, 3]), Some(Colours::Rgb));
        assert_eq!(told(None, Some(1), b"RGB"), Some(Colours::YCbCr));
        assert_eq!(told(None, Some(2), &[1, 2, 3]), None);
        assert_eq!(told(None, None, &[1, 2, 3]), Some(Colours::YCbCr));
        assert_eq!(told(None, None, b"RGB"), Some(Colours::Rgb));
        assert_eq!(told(None, None, &[0, 1, 2]), Some(Colours::YCbCr));
    }
}

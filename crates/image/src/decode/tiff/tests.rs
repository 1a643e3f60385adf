#![allow(
    clippy::disallowed_methods,
    reason = "what the decoder is, without the helper's process around it"
)]

use super::super::{DecodeError, DecodeFault, DecodeLimits, decode_rgb, probe};
use super::layout::tag;

/// A file of so many tags, all LONG, and of data behind them.
struct File {
    big_endian: bool,
    big: bool,
    tags: Vec<(u16, Vec<u64>)>,
    data: Vec<u8>,
}

impl File {
    /// 8 x 2 pixels of 8 bits, grey, from 0 to 15.
    fn grey() -> Self {
        File {
            big_endian: false,
            big: false,
            tags: vec![
                (tag::WIDTH, vec![8]),
                (tag::HEIGHT, vec![2]),
                (tag::BITS, vec![8]),
                (tag::COMPRESSION, vec![1]),
                (tag::PHOTOMETRIC, vec![1]),
                (tag::STRIP_OFFSETS, vec![0]),
                (tag::SAMPLES, vec![1]),
                (tag::STRIP_BYTES, vec![16]),
            ],
            data: (0..16).collect(),
        }
    }

    fn with(mut self, tag: u16, values: &[u64]) -> Self {
        self.tags.retain(|(there, _)| *there != tag);
        if !values.is_empty() {
            self.tags.push((tag, values.to_vec()));
        }
        self.tags.sort();
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        let length = data.len() as u64;
        self.with(tag::STRIP_BYTES, &[length])
    }

    fn number(&self, value: u64, length: usize) -> Vec<u8> {
        if self.big_endian {
            value.to_be_bytes()[8 - length..].to_vec()
        } else {
            value.to_le_bytes()[..length].to_vec()
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let offset = if self.big { 8 } else { 4 };
        let header = if self.big { 16 } else { 8 };
        let mut bytes = if self.big_endian { b"MM" } else { b"II" }.to_vec();
        bytes.extend(self.number(if self.big { 43 } else { 42 }, 2));
        if self.big {
            bytes.extend(self.number(8, 2));
            bytes.extend([0; 2]);
        }
        bytes.extend(self.number((header + self.data.len()) as u64, offset));
        bytes.extend(&self.data);
        let count = if self.big { 8 } else { 2 };
        bytes.extend(self.number(self.tags.len() as u64, count));
        let directory_end = bytes.len() + self.tags.len() * (4 + 2 * offset) + offset;
        let mut behind = Vec::new();
        for (tag, values) in &self.tags {
            bytes.extend(self.number(u64::from(*tag), 2));
            bytes.extend(self.number(4, 2));
            bytes.extend(self.number(values.len() as u64, offset));
            let is_offset = matches!(*tag, tag::STRIP_OFFSETS | tag::TILE_OFFSETS);
            let moved = |v: &u64| if is_offset { *v + header as u64 } else { *v };
            let encoded: Vec<u8> = values
                .iter()
                .flat_map(|v| self.number(moved(v), 4))
                .collect();
            if encoded.len() <= offset {
                bytes.extend(&encoded);
                bytes.extend(vec![0; offset - encoded.len()]);
            } else {
                bytes.extend(self.number((directory_end + behind.len()) as u64, offset));
                behind.extend(encoded);
            }
        }
        bytes.extend(vec![0; offset]);
        bytes.extend(behind);
        bytes
    }

    fn read(&self) -> Result<Vec<u8>, DecodeError> {
        decode_rgb(&self.bytes(), &DecodeLimits::default()).map(image::RgbImage::into_raw)
    }

    /// The red of every pixel.
    fn reds(&self) -> Vec<u8> {
        self.read().unwrap().into_iter().step_by(3).collect()
    }
}

#[test]
fn both_byte_orders_and_bigtiff_are_read() {
    for big in [false, true] {
        for big_endian in [false, true] {
            let file = File {
                big,
                big_endian,
                ..File::grey()
            };
            assert_eq!(
                file.reds(),
                (0..16).collect::<Vec<u8>>(),
                "{big} {big_endian}"
            );
        }
    }
}

#[test]
fn tags_that_not_everybody_writes_may_be_missing() {
    let whole = File::grey().reds();
    for missing in [tag::SAMPLES, tag::COMPRESSION, tag::STRIP_BYTES] {
        assert_eq!(File::grey().with(missing, &[]).reds(), whole, "{missing}");
    }
    // White is zero, as Pillow has it.
    let inverted: Vec<u8> = whole.iter().map(|grey| 255 - grey).collect();
    assert_eq!(File::grey().with(tag::PHOTOMETRIC, &[]).reds(), inverted);
}

#[test]
fn few_bits_are_scaled_and_many_are_cut() {
    let bits = |bits, data: &[u8]| File::grey().with(tag::BITS, &[bits]).data(data).reds();
    assert_eq!(bits(1, &[0b1010_0000, 0xff])[..4], [255, 0, 255, 0]);
    assert_eq!(bits(2, &[0b0001_1011, 0, 0, 0])[..4], [0, 85, 170, 255]);
    assert_eq!(bits(4, &[0x0f, 0x80, 0, 0, 0, 0, 0, 0])[..3], [0, 255, 136]);
    let mut twelve = vec![0x12, 0x3a, 0xbc];
    twelve.resize(24, 0);
    assert_eq!(bits(12, &twelve)[..3], [0x12, 0xab, 0]);
    let mut sixteen = vec![0x34, 0x12];
    sixteen.resize(32, 0);
    assert_eq!(bits(16, &sixteen)[0], 0x12);
}

#[test]
fn wide_numbers_and_floats_are_cut_to_bytes() {
    let grey = |format, bits, numbers: [u32; 4]| {
        let mut data: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        if bits == 16 {
            data = numbers
                .iter()
                .flat_map(|n| (*n as u16).to_le_bytes())
                .collect();
        }
        data.resize(2 * bits as usize, 0);
        let file = File::grey().with(tag::BITS, &[bits]);
        file.with(tag::SAMPLE_FORMAT, &[format]).data(&data).reds()[..4].to_vec()
    };
    let floats = [0.5_f32, 254.9, -3.0, f32::NAN].map(f32::to_bits);
    assert_eq!(grey(3, 32, floats), [0, 254, 0, 0]);
    assert_eq!(grey(1, 32, [7, 255, 256, u32::MAX]), [7, 255, 255, 255]);
    assert_eq!(grey(2, 32, [7, 300, u32::MAX, 0]), [7, 255, 0, 0]);
    assert_eq!(grey(2, 16, [7, 300, 0xffff, 0]), [7, 255, 0, 0]);
}

#[test]
fn bits_in_the_other_order_are_turned() {
    let file = File::grey()
        .with(tag::BITS, &[1])
        .with(tag::FILL_ORDER, &[2]);
    assert_eq!(file.data(&[0b0000_0101, 0]).reds()[..4], [255, 0, 255, 0]);
}

#[test]
fn planes_and_tiles_are_put_together() {
    let planes: Vec<u8> = (0..48).collect();
    let file = File::grey()
        .with(tag::SAMPLES, &[3])
        .with(tag::PHOTOMETRIC, &[2])
        .with(tag::BITS, &[8, 8, 8])
        .with(tag::PLANAR, &[2])
        .data(&planes);
    let strips = File {
        data: planes.clone(),
        ..file
    }
    .with(tag::STRIP_OFFSETS, &[0, 16, 32])
    .with(tag::STRIP_BYTES, &[16, 16, 16]);
    assert_eq!(strips.read().unwrap()[..6], [0, 16, 32, 1, 17, 33]);
    // Two tiles of 5 x 3, of which the second lies half outside.
    let tile: Vec<u8> = (0..15).chain(100..115).collect();
    let tiled = File::grey()
        .with(tag::STRIP_OFFSETS, &[])
        .with(tag::STRIP_BYTES, &[])
        .with(tag::TILE_WIDTH, &[5])
        .with(tag::TILE_HEIGHT, &[3])
        .with(tag::TILE_OFFSETS, &[0, 15])
        .with(tag::TILE_BYTES, &[15, 15]);
    let tiled = File {
        data: tile,
        ..tiled
    };
    let expected = [0, 1, 2, 3, 4, 100, 101, 102, 5, 6, 7, 8, 9, 105, 106, 107];
    assert_eq!(tiled.reds(), expected);
}

#[test]
fn premultiplied_colours_are_divided() {
    let rgba = |extra: u64| {
        let mut data = vec![50, 100, 25, 128, 50, 100, 25, 0, 50, 100, 25, 255];
        data.resize(64, 9);
        let file = File::grey()
            .with(tag::SAMPLES, &[4])
            .with(tag::PHOTOMETRIC, &[2]);
        let file = file
            .with(tag::BITS, &[8; 4])
            .with(tag::EXTRA_SAMPLES, &[extra]);
        file.data(&data).read().unwrap()[..9].to_vec()
    };
    assert_eq!(rgba(1), [99, 199, 49, 0, 0, 0, 50, 100, 25]);
    assert_eq!(rgba(2), [50, 100, 25, 50, 100, 25, 50, 100, 25]);
}

#[test]
fn what_is_not_read_is_named_and_what_cannot_be_is_damaged() {
    let names = [
        (
            File::grey().with(tag::COMPRESSION, &[6]),
            "old-style JPEG compression",
        ),
        (
            File::grey().with(tag::COMPRESSION, &[50_000]),
            "Zstandard compression",
        ),
        (
            File::grey().with(tag::COMPRESSION, &[77]),
            "compression number 77",
        ),
        (
            File::grey().with(tag::PHOTOMETRIC, &[32_803]),
            "colour filter array",
        ),
        (
            File::grey().with(tag::PHOTOMETRIC, &[99]),
            "photometric interpretation 99",
        ),
        (File::grey().with(tag::BITS, &[24]), "samples of 24 bits"),
        (
            File::grey().with(tag::SAMPLE_FORMAT, &[5]),
            "complex numbers",
        ),
        (File::grey().with(tag::SAMPLES, &[9]), "9 samples a pixel"),
        (
            File::grey()
                .with(tag::COMPRESSION, &[5])
                .with(tag::PREDICTOR, &[9]),
            "predictor 9",
        ),
    ];
    for (file, name) in names {
        let error = file.read().unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(probe(&file.bytes(), &DecodeLimits::default()).is_err());
    }
    let damaged = [
        File::grey().with(tag::WIDTH, &[]),
        File::grey().with(tag::HEIGHT, &[0]),
        File::grey().with(tag::STRIP_OFFSETS, &[]),
        File::grey().with(tag::STRIP_OFFSETS, &[1 << 30]),
        File::grey().with(tag::PHOTOMETRIC, &[3]),
        File::grey().with(tag::TILE_WIDTH, &[0]),
        File::grey().with(tag::HEIGHT, &[200]),
    ];
    for file in damaged {
        let error = file.read().unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Damaged, "{error}");
    }
}

#[test]
fn what_a_strip_takes_is_checked_before_it_is_taken() {
    let huge = File::grey()
        .with(tag::TILE_WIDTH, &[60_000])
        .with(tag::TILE_HEIGHT, &[60_000]);
    let error = huge.read().unwrap_err();
    assert_eq!(error.fault(), DecodeFault::TooLarge, "{error}");
}

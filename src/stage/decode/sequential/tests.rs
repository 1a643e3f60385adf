//! Against libjpeg-turbo, and against the definition of the transform.

use super::*;
use turbojpeg::{
    Colorspace, Compressor, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor,
    Subsamp,
};

/// Octaves of waves and two hard edges: something in every frequency.
fn picture(width: usize, height: usize, channels: usize) -> Vec<u8> {
    let mut samples = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..channels {
                let (fx, fy) = (x as f64 + 7.0 * channel as f64, y as f64);
                let waves = (fx * 0.05).sin() * 40.0
                    + (fy * 0.21 + fx * 0.1).cos() * 20.0
                    + (fx * 1.3).sin() * (fy * 0.9).cos() * 12.0;
                let edge = if x + y > width { 30.0 } else { 0.0 };
                samples.push((110.0 + waves + edge) as u8);
            }
        }
    }
    samples
}

/// The same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Setting {
    size: (usize, usize),
    subsampling: Subsamp,
    quality: i32,
    optimised: bool,
}

fn compressed(setting: &Setting) -> Vec<u8> {
    let (width, height) = setting.size;
    let grey = setting.subsampling == Subsamp::Gray;
    let (channels, format) = if grey {
        (1, PixelFormat::GRAY)
    } else {
        (3, PixelFormat::RGB)
    };
    let pixels = picture(width, height, channels);
    let mut compressor = Compressor::new().unwrap();
    compressor.set_quality(setting.quality).unwrap();
    compressor.set_subsamp(setting.subsampling).unwrap();
    compressor.set_optimize(setting.optimised).unwrap();
    compressor
        .compress_to_vec(Image {
            pixels: &pixels[..],
            width,
            pitch: width * channels,
            height,
            format,
        })
        .unwrap()
}

fn by_turbo(bytes: &[u8], eighths: usize) -> Vec<u8> {
    let mut decompressor = Decompressor::new().unwrap();
    let DecompressHeader { width, height, .. } = decompressor.read_header(bytes).unwrap();
    let factor = ScalingFactor::new(eighths, 8);
    decompressor.set_scaling_factor(factor).unwrap();
    let (width, height) = (factor.scale(width), factor.scale(height));
    let mut pixels = vec![0; width * height * 3];
    decompressor
        .decompress(
            bytes,
            Image {
                pixels: &mut pixels[..],
                width,
                pitch: width * 3,
                height,
                format: PixelFormat::RGB,
            },
        )
        .unwrap();
    pixels
}

fn read(
    reader: &mut Reader,
    bytes: &[u8],
    size: (usize, usize),
    eighths: usize,
) -> Result<Vec<u8>, Unfit> {
    let mut rgb = vec![0; scaled(size.0, eighths) * scaled(size.1, eighths) * 3];
    reader.read(bytes, size, eighths, &mut rgb).map(|()| rgb)
}

/// Mean and largest difference.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let differences = || a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let mean = differences().map(f64::from).sum::<f64>() / a.len() as f64;
    (mean, differences().max().unwrap_or(0))
}

const SUBSAMPLINGS: [Subsamp; 5] = [
    Subsamp::None,
    Subsamp::Sub2x1,
    Subsamp::Sub1x2,
    Subsamp::Sub2x2,
    Subsamp::Gray,
];

#[test]
fn whole_pictures_equal_those_of_libjpeg_turbo() {
    let mut reader = Reader::default();
    for size in [(1, 1), (7, 9), (17, 33), (130, 90), (300, 41)] {
        // Without subsampling there is one way to read a picture, but for rounding.
        for subsampling in [Subsamp::None, Subsamp::Gray] {
            for (quality, optimised) in [(10, false), (50, true), (90, false), (100, true)] {
                let bytes = compressed(&Setting {
                    size,
                    subsampling,
                    quality,
                    optimised,
                });
                let ours = read(&mut reader, &bytes, size, 8).unwrap();
                let (mean, largest) = difference(&ours, &by_turbo(&bytes, 8));
                let what = format!("{size:?}, {subsampling:?}, quality {quality}");
                assert!(mean < 0.15 && largest <= 3, "{what}: {mean}, {largest}");
            }
        }
    }
}

/// At an eighth only the mean of each block is left, so here, too, there is one way, but chroma has four frequencies of which
/// libjpeg-turbo folds the others over.
#[test]
fn reduced_pictures_are_those_of_libjpeg_turbo_but_for_what_it_folds_over() {
    let mut reader = Reader::default();
    let mut worst = [(0.0f64, 0u8); 3];
    for size in [(17, 33), (130, 90), (300, 41)] {
        for subsampling in SUBSAMPLINGS {
            for (quality, optimised) in [(10, false), (75, true), (90, false), (100, false)] {
                let bytes = compressed(&Setting {
                    size,
                    subsampling,
                    quality,
                    optimised,
                });
                for (eighths, worst) in [1, 2, 4].into_iter().zip(&mut worst) {
                    let ours = read(&mut reader, &bytes, size, eighths).unwrap();
                    let (mean, largest) = difference(&ours, &by_turbo(&bytes, eighths));
                    *worst = (worst.0.max(mean), worst.1.max(largest));
                }
            }
        }
    }
    println!("worst mean and largest at 1, 2 and 4 eighths: {worst:?}");
    for ((mean, largest), (most_mean, most)) in worst.into_iter().zip(REDUCED_TOLERANCE) {
        assert!(mean < most_mean && largest <= most, "{mean}, {largest}");
    }
}

/// Mean and largest difference at 1, 2 and 4 eighths.
const REDUCED_TOLERANCE: [(f64, u8); 3] = [(5.0, 24), (5.0, 24), (5.0, 24)];

/// Every size of every sampling against the sum that defines the transform, taken from the coefficients that libjpeg-turbo
/// sees: a grey file's samples at full size give them back.
#[test]
fn every_size_is_the_cosine_sum_of_its_low_frequencies() {
    let size = (64, 40);
    let bytes = compressed(&Setting {
        size,
        subsampling: Subsamp::Gray,
        quality: 95,
        optimised: false,
    });
    let whole = by_turbo(&bytes, 8);
    let sample = |x: usize, y: usize| f64::from(whole[(y * size.0 + x) * 3]) - 128.0;
    let cosine = |x: usize, u: usize, points: usize| {
        let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
        scale * (((2 * x + 1) * u) as f64 * std::f64::consts::PI / (2 * points) as f64).cos() / 2.0
    };
    let mut reader = Reader::default();
    for points in 1..=8 {
        let ours = read(&mut reader, &bytes, size, points).unwrap();
        let mut largest = 0.0f64;
        for block_y in 0..size.1 / 8 {
            for block_x in 0..size.0 / 8 {
                let mut coefficients = [[0.0; 8]; 8];
                for (v, row) in coefficients.iter_mut().enumerate() {
                    for (u, coefficient) in row.iter_mut().enumerate() {
                        for y in 0..8 {
                            for x in 0..8 {
                                *coefficient += sample(block_x * 8 + x, block_y * 8 + y)
                                    * cosine(x, u, 8)
                                    * cosine(y, v, 8);
                            }
                        }
                    }
                }
                for y in 0..points {
                    for x in 0..points {
                        let mut expected = 128.0;
                        for (v, row) in coefficients.iter().enumerate().take(points) {
                            for (u, coefficient) in row.iter().enumerate().take(points) {
                                expected +=
                                    coefficient * cosine(x, u, points) * cosine(y, v, points);
                            }
                        }
                        let at =
                            (block_y * points + y) * scaled(size.0, points) + block_x * points + x;
                        let got = f64::from(ours[at * 3]);
                        largest = largest.max((expected.clamp(0.0, 255.0) - got).abs());
                    }
                }
            }
        }
        // Half for rounding here, and the rounding of the samples that the coefficients come from.
        assert!(largest < 1.6, "{points} points: {largest}");
    }
}

#[test]
fn what_is_not_plain_is_left_alone() {
    let size = (40, 30);
    let pixels = picture(size.0, size.1, 3);
    let image = || Image {
        pixels: &pixels[..],
        width: size.0,
        pitch: size.0 * 3,
        height: size.1,
        format: PixelFormat::RGB,
    };
    let mut reader = Reader::default();
    let mut refused = |compressor: &mut Compressor, what: &str| {
        let bytes = compressor.compress_to_vec(image()).unwrap();
        assert_eq!(read(&mut reader, &bytes, size, 4), Err(Unfit), "{what}");
    };
    let mut progressive = Compressor::new().unwrap();
    progressive.set_progressive(true).unwrap();
    refused(&mut progressive, "progressive");
    let mut arithmetic = Compressor::new().unwrap();
    arithmetic.set_arithmetic(true).unwrap();
    refused(&mut arithmetic, "arithmetic");
    let mut unusual = Compressor::new().unwrap();
    unusual.set_subsamp(Subsamp::Sub4x1).unwrap();
    refused(&mut unusual, "4:1:1");
    let plain = Compressor::new().unwrap().compress_to_vec(image()).unwrap();
    assert!(read(&mut reader, &plain, size, 4).is_ok());
    assert_eq!(
        read(&mut reader, &plain, (40, 31), 4),
        Err(Unfit),
        "another size"
    );
}

/// Pillow writes restart markers, which the interface of libjpeg-turbo's compressor does not.
#[test]
fn restart_markers_are_followed_and_missed() {
    let size = (181, 131);
    let whole = include_bytes!("../../../../tests/fixtures/decode/jpeg-reduced-restarts.jpg");
    let mut reader = Reader::default();
    let first = read(&mut reader, whole, size, 1).unwrap();
    let (mean, largest) = difference(&first, &by_turbo(whole, 1));
    assert!(mean < 2.5 && largest <= 20, "{mean}, {largest}");
    let markers: Vec<usize> = (0..whole.len() - 1)
        .filter(|&at| whole[at] == 0xff && (0xd0..0xd8).contains(&whole[at + 1]))
        .collect();
    assert!(markers.len() > 8);
    for at in markers {
        let mut wrong = whole.to_vec();
        wrong[at + 1] ^= 1;
        assert_eq!(
            read(&mut reader, &wrong, size, 4),
            Err(Unfit),
            "the wrong one at {at}"
        );
        let mut missing = whole.to_vec();
        missing.drain(at..at + 2);
        assert_eq!(
            read(&mut reader, &missing, size, 4),
            Err(Unfit),
            "none at {at}"
        );
    }
}

#[test]
fn files_cut_short_or_with_more_data_than_pixels_are_left_alone() {
    let size = (130, 90);
    let bytes = compressed(&Setting {
        size,
        subsampling: Subsamp::Sub2x2,
        quality: 90,
        optimised: false,
    });
    let mut reader = Reader::default();
    for cut in 0..bytes.len() {
        assert_eq!(
            read(&mut reader, &bytes[..cut], size, 3),
            Err(Unfit),
            "cut to {cut}"
        );
    }
    let mut longer = bytes.clone();
    longer.splice(bytes.len() - 2..bytes.len() - 2, [0x12, 0x34]);
    assert_eq!(read(&mut reader, &longer, size, 3), Err(Unfit));
    let mut followed = bytes.clone();
    followed.extend_from_slice(b"something after the end");
    assert_eq!(
        read(&mut reader, &followed, size, 3),
        read(&mut reader, &bytes, size, 3)
    );
}

/// What is read from a damaged file without an error must be what libjpeg-turbo reads without a warning.
#[test]
fn damage_is_seen_where_libjpeg_turbo_sees_it() {
    let size = (130, 90);
    let mut reader = Reader::default();
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let (mut refused, mut accepted) = (0, 0);
    for subsampling in SUBSAMPLINGS {
        let whole = compressed(&Setting {
            size,
            subsampling,
            quality: 85,
            optimised: subsampling == Subsamp::None,
        });
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..1 + noise.next() % 3 {
                let at = noise.next() as usize % bytes.len();
                bytes[at] = match noise.next() % 3 {
                    0 => bytes[at] ^ 1 << (noise.next() % 8),
                    1 => 0xff,
                    _ => noise.next() as u8,
                };
            }
            let mut decompressor = Decompressor::new().unwrap();
            // The caller asks libjpeg-turbo for the header first, and takes nothing else for YCbCr or grey.
            let Ok(header) = decompressor.read_header(&bytes) else {
                continue;
            };
            if !matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray)
                || read(&mut reader, &bytes, size, 3).is_err()
            {
                refused += 1;
                continue;
            }
            accepted += 1;
            let mut pixels = vec![0; header.width * header.height * 3];
            let image = Image {
                pixels: &mut pixels[..],
                width: header.width,
                pitch: header.width * 3,
                height: header.height,
                format: PixelFormat::RGB,
            };
            if let Err(error) = decompressor.decompress(&bytes, image) {
                panic!("libjpeg-turbo sees what is not seen here: {error}");
            }
        }
    }
    assert!(
        refused > 100 && accepted > 100,
        "{refused} refused, {accepted} accepted"
    );
}

/// Tables of files before must not be taken for those of this one.
#[test]
fn tables_follow_the_file() {
    let size = (60, 50);
    let files: Vec<Vec<u8>> = [(30, true), (95, true), (95, false), (60, true)]
        .map(|(quality, optimised)| {
            compressed(&Setting {
                size,
                subsampling: Subsamp::Sub2x2,
                quality,
                optimised,
            })
        })
        .into();
    let fresh: Vec<_> = files
        .iter()
        .map(|file| read(&mut Reader::default(), file, size, 5).unwrap())
        .collect();
    let mut reader = Reader::default();
    for _ in 0..2 {
        for (file, expected) in files.iter().zip(&fresh) {
            assert_eq!(&read(&mut reader, file, size, 5).unwrap(), expected);
        }
    }
}

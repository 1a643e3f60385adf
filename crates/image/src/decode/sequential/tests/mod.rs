//! The reader against libjpeg-turbo's pictures, resampled by the definition.

mod damage;

use super::*;
use turbojpeg::{
    Colorspace, Compressor, DecompressHeader, Decompressor, Image, PixelFormat, Subsamp,
};

/// Waves of several lengths and a hard edge: something in every frequency.
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

/// A xorshift generator: the same numbers in every run.
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

/// The picture at its own size, decoded by libjpeg-turbo.
fn by_turbo(bytes: &[u8]) -> Vec<u8> {
    let mut decompressor = Decompressor::new().unwrap();
    let DecompressHeader { width, height, .. } = decompressor.read_header(bytes).unwrap();
    let mut pixels = vec![0; width * height * 3];
    let image = Image {
        pixels: &mut pixels[..],
        width,
        pitch: width * 3,
        height,
        format: PixelFormat::RGB,
    };
    decompressor.decompress(bytes, image).unwrap();
    pixels
}

/// Samples from a line of pixels: each is the mean of all pixels, weighted by the kernel around its
/// middle.
fn resampled(line: &[f64], span: &Span, kernel: Kernel) -> Vec<f64> {
    let scale = span.length / span.samples as f64;
    let wide = scale.max(1.0);
    let weight = |distance: f64| {
        let x = distance.abs();
        match kernel {
            Kernel::Linear => (1.0 - x).max(0.0),
            Kernel::Cubic if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
            Kernel::Cubic if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
            Kernel::Cubic => 0.0,
        }
    };
    (0..span.samples)
        .map(|sample| {
            let middle = span.start + (sample as f64 + 0.5) * scale;
            let (mut sum, mut weights) = (0.0, 0.0);
            for (at, pixel) in line.iter().enumerate() {
                let weight = weight((at as f64 + 0.5 - middle) / wide);
                sum += weight * pixel;
                weights += weight;
            }
            sum / weights
        })
        .collect()
}

/// What [`Reader::read`] should give, before rounding.
fn expected(bytes: &[u8], target: &Target) -> Vec<f64> {
    let (width, height) = (target.columns.pixels, target.rows.pixels);
    let (columns, rows) = (target.columns.samples, target.rows.samples);
    let whole = by_turbo(bytes);
    let mut result = vec![0.0; columns * rows * 3];
    for channel in 0..3 {
        let narrow: Vec<Vec<f64>> = (0..height)
            .map(|y| {
                let row = (0..width).map(|x| f64::from(whole[(y * width + x) * 3 + channel]));
                resampled(&row.collect::<Vec<_>>(), &target.columns, target.kernel)
            })
            .collect();
        for x in 0..columns {
            let column: Vec<f64> = narrow.iter().map(|row| row[x]).collect();
            let samples = resampled(&column, &target.rows, target.kernel);
            for (y, sample) in samples.into_iter().enumerate() {
                result[(y * columns + x) * 3 + channel] = sample;
            }
        }
    }
    result
}

fn whole(pixels: usize, samples: usize) -> Span {
    Span {
        pixels,
        start: 0.0,
        length: pixels as f64,
        samples,
    }
}

/// Every pixel of the picture: a kernel that is not widened has no weight at other pixels' middles.
fn full_size(size: (usize, usize)) -> Target {
    Target {
        columns: whole(size.0, size.0),
        rows: whole(size.1, size.1),
        kernel: Kernel::Cubic,
    }
}

fn read(reader: &mut Reader, bytes: &[u8], target: &Target) -> Result<Vec<u8>, Unfit> {
    let mut rgb = vec![0; target.columns.samples * target.rows.samples * 3];
    reader.read(bytes, target, &mut rgb).map(|()| rgb)
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
    let mut worst = [(0.0f64, 0u8); 2];
    for size in [(1, 1), (7, 9), (17, 33), (130, 90), (300, 41)] {
        for subsampling in SUBSAMPLINGS {
            for (quality, optimised) in [(10, false), (50, true), (90, false), (100, true)] {
                let bytes = compressed(&Setting {
                    size,
                    subsampling,
                    quality,
                    optimised,
                });
                let ours = read(&mut reader, &bytes, &full_size(size)).unwrap();
                let (mean, largest) = difference(&ours, &by_turbo(&bytes));
                let subsampled = !matches!(subsampling, Subsamp::None | Subsamp::Gray);
                let worst = &mut worst[usize::from(subsampled)];
                *worst = (worst.0.max(mean), worst.1.max(largest));
            }
        }
    }
    println!("worst mean and largest, without subsampling and with: {worst:?}");
    // About 0.5 is libjpeg-turbo's rounding of luma, chroma and interpolated chroma, which does not
    // happen here.
    let most = [(0.45, 3), (0.55, 4)];
    for (worst, most) in worst.into_iter().zip(most) {
        assert!(worst.0 < most.0 && worst.1 <= most.1, "{worst:?}");
    }
}

#[test]
fn reduced_pictures_equal_whole_ones_resampled() {
    let mut reader = Reader::default();
    let mut worst = (0.0f64, 0.0f64);
    let part = |pixels: usize, start, length, samples| Span {
        pixels,
        start,
        length,
        samples,
    };
    let spans = [
        (whole(333, 48), whole(250, 48)),
        (whole(640, 64), whole(90, 34)),
        (part(401, 33.4, 300.2, 60), whole(301, 60)),
        (part(520, 200.0, 320.0, 31), part(430, 0.0, 222.5, 31)),
        // Neither reduced much nor by the same.
        (whole(130, 100), whole(90, 11)),
    ];
    for (columns, rows) in spans {
        for subsampling in SUBSAMPLINGS {
            for (quality, kernel) in [
                (60, Kernel::Cubic),
                (95, Kernel::Cubic),
                (90, Kernel::Linear),
            ] {
                let bytes = compressed(&Setting {
                    size: (columns.pixels, rows.pixels),
                    subsampling,
                    quality,
                    optimised: quality == 60,
                });
                let target = Target {
                    columns,
                    rows,
                    kernel,
                };
                let ours = read(&mut reader, &bytes, &target).unwrap();
                let expected = expected(&bytes, &target);
                let differences = || {
                    let pairs = ours.iter().zip(&expected);
                    pairs.map(|(&ours, expected)| {
                        (f64::from(ours) - expected.clamp(0.0, 255.0)).abs()
                    })
                };
                let mean = differences().sum::<f64>() / expected.len() as f64;
                let largest = differences().fold(0.0, f64::max);
                worst = (worst.0.max(mean), worst.1.max(largest));
            }
        }
    }
    println!("worst mean and largest: {worst:?}");
    // Rounding to bytes alone makes a mean of a quarter.
    assert!(worst.0 < 0.35 && worst.1 < 2.0, "{worst:?}");
}

/// Where every block is flat, rounding is the same for all pixels and does not cancel out in a
/// mean.
#[test]
fn one_colour_is_that_of_libjpeg_turbo() {
    let mut reader = Reader::default();
    let mut noise = Noise(7);
    let target = Target {
        columns: whole(320, 32),
        rows: whole(240, 32),
        kernel: Kernel::Cubic,
    };
    for subsampling in [Subsamp::Sub2x2, Subsamp::None] {
        for quality in [50, 90, 97] {
            for _ in 0..20 {
                let colour: [u8; 3] = noise.next().to_le_bytes()[..3].try_into().unwrap();
                let pixels = colour.repeat(320 * 240);
                let mut compressor = Compressor::new().unwrap();
                compressor.set_quality(quality).unwrap();
                compressor.set_subsamp(subsampling).unwrap();
                let image = Image {
                    pixels: &pixels[..],
                    width: 320,
                    pitch: 960,
                    height: 240,
                    format: PixelFormat::RGB,
                };
                let bytes = compressor.compress_to_vec(image).unwrap();
                let ours = read(&mut reader, &bytes, &target).unwrap();
                let turbo = by_turbo(&bytes);
                assert_eq!(ours, turbo[..3].repeat(32 * 32), "{colour:?}, {quality}");
            }
        }
    }
}

#[test]
fn progressive_arithmetic_and_unusually_sampled_files_are_unfit() {
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
        assert_eq!(
            read(&mut reader, &bytes, &full_size(size)),
            Err(Unfit),
            "{what}"
        );
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
    assert!(read(&mut reader, &plain, &full_size(size)).is_ok());
    assert_eq!(
        read(&mut reader, &plain, &full_size((40, 31))),
        Err(Unfit),
        "another size"
    );
}

//! JPEG to model input, one core: `cargo bench --bench decode`. Rates are images a second.
//!
//! The pictures are noise with the spectrum of photographs plus grain; their size in bits a pixel (quality 90, 4:2:0) is
//! printed, because entropy decoding is a large part of the time. Beside the stage's way stand the plain ones: everything decoded
//! by libjpeg-turbo or by the `image` crate, then resized.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use std::hint::black_box;
use tagstream::{
    model::bundle::{Filter, Fit, Preprocessing},
    stage::decode::{DecodeLimits, decode_into},
};

/// Octaves of smooth noise, halving in strength: the 1/f amplitude spectrum of natural scenes.
fn photograph(width: usize, height: usize) -> Vec<u8> {
    let hash = |x: usize, y: usize, seed: usize| {
        let mut h = (x.wrapping_mul(0x9E37_79B1)
            ^ y.wrapping_mul(0x85EB_CA77)
            ^ seed.wrapping_mul(0xC2B2_AE3D)) as u32;
        h ^= h >> 15;
        h = h.wrapping_mul(0x2C1B_3C6D);
        h ^= h >> 12;
        h = h.wrapping_mul(0x297A_2D39);
        h ^= h >> 15;
        h as f32 / u32::MAX as f32 - 0.5
    };
    let noise = |x: usize, y: usize, channel: usize| {
        let mut value = 0.0;
        for octave in 1..9 {
            let cell = 1usize << octave;
            let (cx, cy) = (x / cell, y / cell);
            let (fx, fy) = (
                (x % cell) as f32 / cell as f32,
                (y % cell) as f32 / cell as f32,
            );
            let seed = octave * 4 + channel;
            let top = hash(cx, cy, seed) * (1.0 - fx) + hash(cx + 1, cy, seed) * fx;
            let low = hash(cx, cy + 1, seed) * (1.0 - fx) + hash(cx + 1, cy + 1, seed) * fx;
            value += (top * (1.0 - fy) + low * fy) * cell as f32;
        }
        value
    };
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let light = noise(x, y, 0) * 0.55 + hash(x, y, 99) * 24.0;
            for channel in 1..4 {
                let value = 128.0 + light + noise(x / 4, y / 4, channel) * 0.3;
                rgb.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    rgb
}

fn jpeg(width: usize, height: usize) -> Vec<u8> {
    let pixels = photograph(width, height);
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_quality(90).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::Sub2x2).unwrap();
    compressor
        .compress_to_vec(turbojpeg::Image {
            pixels: &pixels[..],
            width,
            pitch: width * 3,
            height,
            format: turbojpeg::PixelFormat::RGB,
        })
        .unwrap()
}

fn resized(resizer: &mut Resizer, rgb: &[u8], width: u32, height: u32, side: u32, out: &mut [u8]) {
    let source = ImageRef::new(width, height, rgb, PixelType::U8x3).unwrap();
    let mut target = Image::from_slice_u8(side, side, out, PixelType::U8x3).unwrap();
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize(&source, &mut target, &options).unwrap();
}

fn jpeg_to_input(criterion: &mut Criterion) {
    for (name, width, height) in [("1MP", 1155, 866), ("4MP", 2309, 1732)] {
        let file = jpeg(width, height);
        eprintln!(
            "{name}: {width} x {height}, {} KB, {:.2} bits a pixel",
            file.len() / 1000,
            file.len() as f64 * 8.0 / (width * height) as f64
        );
        for side in [224usize, 448] {
            let mut group = criterion.benchmark_group(format!("{name}-to-{side}"));
            group.throughput(Throughput::Elements(1)).sample_size(20);
            let mut out = vec![0; side * side * 3];
            let preprocessing = Preprocessing {
                height: side,
                width: side,
                fit: Fit::Squash,
                filter: Filter::Bicubic,
            };
            let limits = DecodeLimits::default();
            group.bench_function("stage", |b| {
                b.iter(|| {
                    decode_into(black_box(&file), &preprocessing, &limits, &mut out).unwrap()
                });
            });
            let mut decompressor = turbojpeg::Decompressor::new().unwrap();
            let mut rgb = vec![0; width * height * 3];
            let mut resizer = Resizer::new();
            group.bench_function("turbojpeg-full", |b| {
                b.iter(|| {
                    let image = turbojpeg::Image {
                        pixels: &mut rgb[..],
                        width,
                        pitch: width * 3,
                        height,
                        format: turbojpeg::PixelFormat::RGB,
                    };
                    decompressor.decompress(black_box(&file), image).unwrap();
                    resized(
                        &mut resizer,
                        &rgb,
                        width as u32,
                        height as u32,
                        side as u32,
                        &mut out,
                    );
                });
            });
            group.bench_function("image-crate", |b| {
                b.iter(|| {
                    let picture = image::load_from_memory(black_box(&file))
                        .unwrap()
                        .into_rgb8();
                    resized(
                        &mut resizer,
                        &picture,
                        width as u32,
                        height as u32,
                        side as u32,
                        &mut out,
                    );
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, jpeg_to_input);
criterion_main!(benches);

//! JPEG to model input, one core: `cargo bench --bench decode`. Rates are images a second.
//!
//! The pictures are noise with the spectrum of photographs plus grain; their size in bits a pixel
//! (quality 90, 4:2:0) is printed, because entropy decoding is a large part of the time. Beside the
//! stage's way stand libjpeg-turbo at the same reduced size, and the plain ones: everything decoded
//! by libjpeg-turbo or by the `image` crate, then resized.

#![allow(
    clippy::disallowed_methods,
    reason = "what the decoders are, without the helper's process around them"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use std::hint::black_box;
use tagstream::demo::photograph::photograph_jpeg;
use tagstream_image::decode::{DecodeLimits, decode_into};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

fn resized(resizer: &mut Resizer, rgb: &[u8], width: u32, height: u32, side: u32, out: &mut [u8]) {
    let source = ImageRef::new(width, height, rgb, PixelType::U8x3).unwrap();
    let mut target = Image::from_slice_u8(side, side, out, PixelType::U8x3).unwrap();
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize(&source, &mut target, &options).unwrap();
}

fn jpeg_to_input(criterion: &mut Criterion) {
    for (name, width, height) in [
        ("25kP", 192, 128),
        ("1MP", 1155, 866),
        ("4MP", 2309, 1732),
        ("12MP", 4000, 3000),
    ] {
        let file = photograph_jpeg(width, height, 0).unwrap();
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
            // The smallest size that is still 2.5 times the input's.
            let ample = |eighths: usize| height * eighths * 2 >= side * 8 * 5;
            if let Some(eighths) = [1, 2, 4].into_iter().find(|&eighths| ample(eighths)) {
                let factor = turbojpeg::ScalingFactor::new(eighths, 8);
                let (width, height) = (factor.scale(width), factor.scale(height));
                let mut decompressor = turbojpeg::Decompressor::new().unwrap();
                decompressor.set_scaling_factor(factor).unwrap();
                group.bench_function("turbojpeg-reduced", |b| {
                    b.iter(|| {
                        decompressor.read_header(black_box(&file)).unwrap();
                        let image = turbojpeg::Image {
                            pixels: &mut rgb[..width * height * 3],
                            width,
                            pitch: width * 3,
                            height,
                            format: turbojpeg::PixelFormat::RGB,
                        };
                        decompressor.decompress(&file, image).unwrap();
                        resized(
                            &mut resizer,
                            &rgb[..width * height * 3],
                            width as u32,
                            height as u32,
                            side as u32,
                            &mut out,
                        );
                    });
                });
            }
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

//! The graph against the same views drawn and joined by hand.

use super::*;
use crate::onnx::testing::{Input, Outputs, difference, run};
use tagstream_kernels::testing::noise;

const SIDE: usize = 24;
const GRID: usize = 6;
const WIDTH: usize = 5;

fn dims() -> Dims {
    Dims {
        embedding: WIDTH,
        grid_height: GRID,
        grid_width: GRID,
    }
}

/// A small encoder whose features know left from right: a linear form of each patch, through
/// a bend.
fn encoder() -> Vec<u8> {
    let patch = SIDE / GRID;
    let size = patch * patch * 3;
    let numbers: Vec<f32> = (0..size * WIDTH)
        .map(|at| ((at * 37 % 101) as f32 - 50.0) / 5_000.0)
        .collect();
    let mut g = GraphBuilder::new("encoder");
    let shape = ["batch".into(), SIDE.into(), SIDE.into(), 3.into()];
    let pixels = g.input("pixels", Element::U8, &shape);
    let x = g.cast(&pixels, Element::F32);
    let (grid, patch) = (GRID as i64, patch as i64);
    let x = g.reshape(&x, &[-1, grid, patch, grid, patch, 3]);
    let x = g.transpose(&x, &[0, 1, 3, 2, 4, 5]);
    let x = g.reshape(&x, &[-1, grid * grid, size as i64]);
    let weight = g.weight("weight", &[size, WIDTH], Element::F32, &numbers);
    let x = g.matmul(&x, &weight);
    let dense = g.node("Tanh", &[&x], &[]);
    let global = g.mean(&dense, 1, false);
    let (n, d) = (GRID * GRID, WIDTH);
    g.output(
        &dense,
        "dense",
        Element::F32,
        &["batch".into(), n.into(), d.into()],
    );
    g.output(&global, "global", Element::F32, &["batch".into(), d.into()]);
    g.finish().unwrap()
}

fn encode(model: &[u8], pixels: &[u8]) -> Outputs {
    let shape = vec![pixels.len() / (SIDE * SIDE * 3), SIDE, SIDE, 3];
    run(model, &[("pixels", Input::U8(shape, pixels))])
}

fn picture(seed: u64) -> Vec<u8> {
    let values = noise(seed, &[SIDE * SIDE * 3]).to_vec1::<f64>().unwrap();
    values
        .iter()
        .map(|x| (128.0 + 60.0 * x).clamp(0.0, 255.0) as u8)
        .collect()
}

fn at(pixels: &[u8], row: usize, column: usize) -> &[u8] {
    &pixels[(row * SIDE + column) * 3..][..3]
}

fn mirrored(pixels: &[u8]) -> Vec<u8> {
    let places = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column)));
    places
        .flat_map(|(row, column)| at(pixels, row, SIDE - 1 - column).to_vec())
        .collect()
}

/// The middle, bilinear with pixel centres at halves.
fn enlarged(pixels: &[u8]) -> Vec<u8> {
    let (first, length) = middle(SIDE);
    let around = |place: usize| {
        let x = (place as f64 + 0.5) * length as f64 / SIDE as f64 - 0.5;
        let x = x.clamp(0.0, (length - 1) as f64);
        let low = x.floor() as usize;
        (
            first + low,
            first + (low + 1).min(length - 1),
            x - x.floor(),
        )
    };
    let mut out = Vec::new();
    for row in 0..SIDE {
        let (top, bottom, down) = around(row);
        for column in 0..SIDE {
            let (left, right, across) = around(column);
            for channel in 0..3 {
                let value = |r, c| f64::from(at(pixels, r, c)[channel]);
                let upper = value(top, left) * (1.0 - across) + value(top, right) * across;
                let lower = value(bottom, left) * (1.0 - across) + value(bottom, right) * across;
                out.push((upper * (1.0 - down) + lower * down).round_ties_even() as u8);
            }
        }
    }
    out
}

fn unit(x: &[f32]) -> Vec<f32> {
    let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    x.iter().map(|x| x / norm).collect()
}

#[test]
fn features_are_those_of_views_drawn_by_hand() {
    let plain = encoder();
    let views = Views {
        mirror: true,
        middle: true,
    };
    let model = views
        .add_to(plain.clone().into(), dims(), (SIDE, SIDE))
        .unwrap();
    let pictures = [picture(1), picture(2)];
    let found = encode(&model, &pictures.concat());
    assert_eq!(found["dense"].0, [2, GRID * GRID, WIDTH]);
    assert_eq!(found["global"].0, [2, WIDTH]);
    for (image, pixels) in pictures.iter().enumerate() {
        let drawn = [pixels.clone(), mirrored(pixels), enlarged(pixels)];
        let seen: Vec<Outputs> = drawn.iter().map(|view| encode(&plain, view)).collect();
        let sum = seen.iter().map(|view| unit(&view["global"].1));
        let sum = sum
            .reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect())
            .unwrap();
        let global = &found["global"].1[image * WIDTH..][..WIDTH];
        assert!(difference(global, &unit(&sum)) < 2e-3, "{image}");

        let of = |view: usize, row: usize, column: usize| {
            unit(&seen[view]["dense"].1[(row * GRID + column) * WIDTH..][..WIDTH])
        };
        for row in 0..GRID {
            for column in 0..GRID {
                let mut all = vec![of(0, row, column), of(1, row, GRID - 1 - column)];
                let place = |at: usize| {
                    let (first, length) = middle(SIDE);
                    let centre = (at as f64 + 0.5) * SIDE as f64 / GRID as f64;
                    let within = (centre - first as f64) / length as f64;
                    (0.0..1.0).contains(&within).then(|| {
                        let x = (within * GRID as f64 - 0.5).clamp(0.0, (GRID - 1) as f64);
                        (
                            x as usize,
                            (x as usize + 1).min(GRID - 1),
                            (x - x.floor()) as f32,
                        )
                    })
                };
                if let (Some((t, b, down)), Some((l, r, across))) = (place(row), place(column)) {
                    let mut mixed = vec![0.0f32; WIDTH];
                    for (row, a) in [(t, 1.0 - down), (b, down)] {
                        for (column, c) in [(l, 1.0 - across), (r, across)] {
                            let feature = of(2, row, column);
                            mixed
                                .iter_mut()
                                .zip(feature)
                                .for_each(|(m, x)| *m += a * c * x);
                        }
                    }
                    all.push(mixed);
                }
                let count = all.len() as f32;
                let mean = all
                    .into_iter()
                    .reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect());
                let mean: Vec<f32> = mean.unwrap().iter().map(|x| x / count).collect();
                let start = (image * GRID * GRID + row * GRID + column) * WIDTH;
                let dense = &found["dense"].1[start..][..WIDTH];
                let apart = difference(dense, &mean);
                assert!(apart < 2e-3, "{image} {row} {column}: {apart}");
            }
        }
    }
}

#[test]
fn a_mirror_image_has_the_same_features_turned() {
    let views = Views {
        mirror: true,
        middle: false,
    };
    let model = views
        .add_to(encoder().into(), dims(), (SIDE, SIDE))
        .unwrap();
    let pixels = picture(3);
    let (one, other) = (encode(&model, &pixels), encode(&model, &mirrored(&pixels)));
    assert!(difference(&one["global"].1, &other["global"].1) < 1e-6);
    for row in 0..GRID {
        for column in 0..GRID {
            let of = |outputs: &Outputs, column: usize| {
                outputs["dense"].1[(row * GRID + column) * WIDTH..][..WIDTH].to_vec()
            };
            let turned = of(&other, GRID - 1 - column);
            assert!(difference(&of(&one, column), &turned) < 1e-6);
        }
    }
}

#[test]
fn shares_of_a_location_sum_to_one() {
    let views = Views {
        mirror: true,
        middle: true,
    };
    for (rows, columns, pixels) in [(7, 7, (224, 224)), (1, 3, (32, 96)), (14, 24, (224, 384))] {
        let dims = Dims {
            embedding: 4,
            grid_height: rows,
            grid_width: columns,
        };
        let shares = views.shares(dims, pixels);
        for line in shares.chunks(3 * rows * columns) {
            assert!((line.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn what_cannot_take_views_is_refused() {
    let views = Views {
        mirror: true,
        middle: false,
    };
    let add = |onnx: Vec<u8>| views.add_to(onnx.into(), dims(), (SIDE, SIDE));
    let twice = add(add(encoder()).unwrap()).unwrap_err();
    assert!(matches!(twice, ViewsError::Already), "{twice}");
    assert!(matches!(
        add(b"no model".to_vec()),
        Err(ViewsError::NoModel(_))
    ));
    let mut old = parse(encoder().into()).unwrap();
    old.opset_import[0].version = Some(12);
    let error = add(old.encode_to_vec()).unwrap_err();
    assert!(matches!(error, ViewsError::OperatorSet(12)), "{error}");
}

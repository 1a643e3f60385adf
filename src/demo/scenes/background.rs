//! Backgrounds: a pattern of two colours and clutter that is nobody's object.

use super::colour::{PALETTE, Rgb};
use super::pictogram::solid;
use super::style::Style;
use rand::{Rng, RngExt};
use tiny_skia::{FillRule, LineCap, PathBuilder, Pixmap, Rect, Stroke, Transform};

/// Paints the whole of `canvas`.
pub(super) fn paint(canvas: &mut Pixmap, style: Style, rng: &mut impl Rng) {
    let pick = |rng: &mut dyn FnMut() -> usize| PALETTE[rng() % PALETTE.len()].rgb;
    let mut index = || rng.random_range(0..PALETTE.len());
    let (first, second) = (pick(&mut index), pick(&mut index));
    let level = rng.random_range(40..=230);
    let base = style.ground(first.mix(Rgb([level; 3]), rng.random_range(0.25..0.85)));
    let other = style.ground(base.mix(second, rng.random_range(0.12..0.45)));
    pattern(canvas, base, other, rng);
    clutter(canvas, style, base, rng);
}

fn pattern(canvas: &mut Pixmap, base: Rgb, other: Rgb, rng: &mut impl Rng) {
    let size = canvas.width() as usize;
    let angle = rng.random_range(0.0..std::f32::consts::TAU);
    let (sin, cos) = angle.sin_cos();
    let period = rng.random_range(0.05..0.22f32);
    let (cx, cy) = (rng.random_range(0.0..1.0f32), rng.random_range(0.0..1.0f32));
    let along = move |x: f32, y: f32| x * cos + y * sin;
    let across = move |x: f32, y: f32| y * cos - x * sin;
    let wave = move |t: f32| (t / period).rem_euclid(1.0) - 0.5;
    let blend = blend(base, other);
    match rng.random_range(0..7) {
        0 => fill(canvas, size, &blend, |_, _| 0.0),
        1 => fill(canvas, size, &blend, |x, y| {
            along(x - 0.5, y - 0.5) / 1.42 + 0.5
        }),
        2 => fill(canvas, size, &blend, |x, y| (x - cx).hypot(y - cy)),
        3 => fill(canvas, size, &blend, |x, y| {
            wave(along(x, y)).abs() * 12.0 - 2.5
        }),
        4 => fill(canvas, size, &blend, |x, y| {
            f32::from((wave(along(x, y)) < 0.0) != (wave(across(x, y)) < 0.0))
        }),
        5 => fill(canvas, size, &blend, |x, y| {
            (0.3 - wave(along(x, y)).hypot(wave(across(x, y)))) * 10.0
        }),
        _ => {
            let cells = rng.random_range(3..=14usize);
            let heights: Vec<f32> = (0..(cells + 1) * (cells + 1))
                .map(|_| rng.random())
                .collect();
            let row = cells + 1;
            fill(canvas, size, &blend, |x, y| {
                let (gx, gy) = (x * cells as f32, y * cells as f32);
                let (ix, iy) = ((gx as usize).min(cells - 1), (gy as usize).min(cells - 1));
                let (fx, fy) = (gx - ix as f32, gy - iy as f32);
                let at = |dx: usize, dy: usize| heights[(iy + dy) * row + ix + dx];
                let top = at(0, 0) + (at(1, 0) - at(0, 0)) * fx;
                let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * fx;
                top + (bottom - top) * fy
            });
        }
    }
}

/// 33 steps from one colour to the other.
fn blend(base: Rgb, other: Rgb) -> [Rgb; 33] {
    std::array::from_fn(|i| base.mix(other, i as f32 / 32.0))
}

/// Colours every pixel by `share` (clamped to `[0, 1]`) of its centre in `[0, 1]²`.
fn fill(canvas: &mut Pixmap, size: usize, blend: &[Rgb; 33], share: impl Fn(f32, f32) -> f32) {
    let step = 1.0 / size as f32;
    for (y, row) in canvas.data_mut().chunks_exact_mut(size * 4).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
            let t = share((x as f32 + 0.5) * step, (y as f32 + 0.5) * step);
            let [r, g, b] = blend[(t.clamp(0.0, 1.0) * 32.0) as usize].0;
            pixel.copy_from_slice(&[r, g, b, 255]);
        }
    }
}

/// Shapes without a name: discs, boxes, triangles, wiggles.
fn clutter(canvas: &mut Pixmap, style: Style, base: Rgb, rng: &mut impl Rng) {
    let size = canvas.width() as f32;
    for _ in 0..rng.random_range(0..=9) {
        let colour = PALETTE[rng.random_range(0..PALETTE.len())].rgb;
        let strength = if rng.random_bool(0.2) { 0.8 } else { 0.35 };
        let colour = base.mix(style.ground(colour), rng.random_range(0.1..strength));
        let radius = size * rng.random_range(0.02..0.16);
        let (x, y) = (rng.random_range(0.0..size), rng.random_range(0.0..size));
        let mut point = || {
            let mut offset = || rng.random_range(-radius..radius);
            (x + offset(), y + offset())
        };
        let (a, b, c) = (point(), point(), point());
        let mut builder = PathBuilder::new();
        let stroked = match rng.random_range(0..5) {
            0 => {
                builder.push_circle(x, y, radius * 0.7);
                false
            }
            1 => {
                if let Some(rect) =
                    Rect::from_ltrb(a.0.min(b.0), a.1.min(b.1), a.0.max(b.0), a.1.max(b.1))
                {
                    builder.push_rect(rect);
                }
                false
            }
            2 => {
                builder.move_to(a.0, a.1);
                builder.line_to(b.0, b.1);
                builder.line_to(c.0, c.1);
                builder.close();
                false
            }
            3 => {
                builder.push_circle(x, y, radius * 0.7);
                true
            }
            _ => {
                builder.move_to(a.0, a.1);
                builder.quad_to(b.0, b.1, c.0, c.1);
                true
            }
        };
        // Three points on a line make no path; a scene can do without that piece of clutter.
        let Some(path) = builder.finish() else {
            continue;
        };
        let paint = solid(colour);
        if stroked {
            let stroke = Stroke {
                width: size * rng.random_range(0.008..0.03),
                line_cap: LineCap::Round,
                ..Stroke::default()
            };
            canvas.stroke_path(&path, &paint, &stroke, Transform::identity(), None);
        } else {
            canvas.fill_path(
                &path,
                &paint,
                FillRule::Winding,
                Transform::identity(),
                None,
            );
        }
    }
}

//! A sprite: one object drawn by itself, in colours that show on what lies below it.

use super::MIN_CONTRAST;
use super::catalogue::pictogram;
use super::colour::{Named, PALETTE, Rgb, lab_distance};
use super::pictogram::Look;
use super::style::{Palette, Style};
use rand::{Rng, RngExt};
use tiny_skia::{Pixmap, Transform};

/// Where an object is put, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pose {
    x: f32,
    y: f32,
    /// Half the nominal side, pixels.
    pub(super) radius: f32,
    /// Degrees.
    rotation: f32,
    /// Width over height; negative: mirrored.
    stretch: f32,
}

impl Pose {
    /// A pose on a canvas of `size` pixels that is to hold `count` objects.
    pub(super) fn random(rng: &mut impl Rng, size: u32, count: usize) -> Pose {
        let size = size as f32;
        let largest = [0.36, 0.32, 0.28, 0.25, 0.23, 0.21][count.clamp(1, 6) - 1];
        let radius = size * rng.random_range(0.13..largest);
        let margin = radius * 0.7;
        let turn = if rng.random_bool(0.1) { 180.0 } else { 32.0 };
        let flip = if rng.random_bool(0.5) { -1.0 } else { 1.0 };
        Pose {
            x: rng.random_range(margin..size - margin),
            y: rng.random_range(margin..size - margin),
            radius,
            rotation: rng.random_range(-turn..turn),
            stretch: flip * rng.random_range(0.85..1.18),
        }
    }
}

/// An object drawn on nothing.
pub(super) struct Sprite {
    pixmap: Pixmap,
    /// Where its left upper corner lies on the canvas.
    left: i32,
    top: i32,
    /// Name of the main colour.
    pub(super) colour: &'static str,
    /// Mean distance between its edge and what lies below.
    pub(super) contrast: f32,
    /// How many pixels it covers at least by half.
    pub(super) drawn: u32,
}

const OPAQUE: u8 = 128;

impl Sprite {
    /// Draws `category` in colours that show on `canvas`: the first of some that do, else the last
    /// with a black or white line around it, which always does.
    pub(super) fn draw(
        category: usize,
        pose: Pose,
        style: Style,
        canvas: &Pixmap,
        rng: &mut impl Rng,
    ) -> Sprite {
        let ground = mean_below(canvas, pose);
        let first = rng.random_range(0..PALETTE.len());
        let stride = rng.random_range(1..PALETTE.len());
        let candidates: Vec<Named> = (0..PALETTE.len())
            .map(|i| PALETTE[(first + i * stride) % PALETTE.len()])
            .filter(|named| named.rgb.distance(ground) > MIN_CONTRAST + 0.04)
            .take(3)
            .collect();
        let mut last = None;
        for named in candidates {
            let main = named.rgb.jitter(rng, 14);
            let palette = Palette::new(style, main, ground, canvas.width(), rng);
            let sprite = Sprite::paint(category, pose, &palette, named.name, canvas);
            if sprite.contrast >= MIN_CONTRAST {
                return sprite;
            }
            last = Some((palette, named.name));
        }
        let (palette, name) = last.unwrap_or_else(|| {
            let named = PALETTE[first];
            (
                Palette::new(style, named.rgb, ground, canvas.width(), rng),
                named.name,
            )
        });
        let width = canvas.width() as f32 / 64.0;
        [Rgb::BLACK, Rgb::WHITE]
            .map(|line| Sprite::paint(category, pose, &palette.outlined(line, width), name, canvas))
            .into_iter()
            .max_by(|a, b| a.contrast.total_cmp(&b.contrast))
            .expect("two were drawn")
    }

    fn paint(
        category: usize,
        pose: Pose,
        palette: &Palette,
        colour: &'static str,
        canvas: &Pixmap,
    ) -> Sprite {
        // The square's corners, turned anywhere and stretched, and the line around them.
        let half = (pose.radius * 1.6 + canvas.width() as f32 / 40.0).ceil();
        let (left, top) = ((pose.x - half).floor(), (pose.y - half).floor());
        let side = (2.0 * half) as u32 + 1;
        let mut pixmap = Pixmap::new(side, side).expect("a pose has a radius");
        let transform = Transform::from_scale(pose.radius * pose.stretch, pose.radius)
            .post_rotate(pose.rotation)
            .post_translate(pose.x - left, pose.y - top);
        let look = Look {
            colour: &|role| palette.colour(role),
            outline: palette
                .outline
                .map(|(line, width)| (line, width / pose.radius)),
            inner_lines: palette.inner_lines,
        };
        pictogram(category).draw(&mut pixmap.as_mut(), transform, &look);
        let drawn = pixmap
            .pixels()
            .iter()
            .filter(|pixel| pixel.alpha() >= OPAQUE)
            .count() as u32;
        let mut sprite = Sprite {
            pixmap,
            left: left as i32,
            top: top as i32,
            colour,
            contrast: 0.0,
            drawn,
        };
        sprite.contrast = sprite.contrast_on(canvas);
        sprite
    }

    /// Calls `visit` with (index on the canvas, index on the sprite) of every pixel that is covered
    /// at least by half and lies on the canvas, a square of `size` pixels.
    pub(super) fn each_pixel(&self, size: u32, mut visit: impl FnMut(usize, usize)) {
        self.each(size, OPAQUE, &mut visit);
    }

    fn each(&self, size: u32, least: u8, visit: &mut impl FnMut(usize, usize)) {
        let side = self.pixmap.width() as i32;
        let size = size as i32;
        let columns = (-self.left).max(0)..(size - self.left).min(side);
        for y in (-self.top).max(0)..(size - self.top).min(side) {
            for x in columns.clone() {
                let at = (y * side + x) as usize;
                if self.pixmap.pixels()[at].alpha() >= least {
                    visit(((y + self.top) * size + x + self.left) as usize, at);
                }
            }
        }
    }

    /// Lays the sprite over the canvas.
    pub(super) fn compose(&self, canvas: &mut Pixmap) {
        let size = canvas.width();
        let below = canvas.data_mut();
        let above = self.pixmap.data();
        self.each(size, 1, &mut |on_canvas, on_sprite| {
            let (to, from) = (on_canvas * 4, on_sprite * 4);
            let through = 255 - u32::from(above[from + 3]);
            for channel in 0..3 {
                let under = (u32::from(below[to + channel]) * through + 127) / 255;
                // Premultiplied: the sum stays below 256 but for rounding.
                below[to + channel] = (u32::from(above[from + channel]) + under).min(255) as u8;
            }
        });
    }

    /// Mean OKLab distance between the sprite's edge pixels and the canvas below them.
    fn contrast_on(&self, canvas: &Pixmap) -> f32 {
        let side = self.pixmap.width() as usize;
        let pixels = self.pixmap.pixels();
        let open = |at: usize| pixels.get(at).is_none_or(|pixel| pixel.alpha() < OPAQUE);
        let (mut sum, mut count) = (0.0, 0u32);
        self.each(canvas.width(), OPAQUE, &mut |on_canvas, at| {
            if open(at + 1)
                || open(at.wrapping_sub(1))
                || open(at + side)
                || open(at.wrapping_sub(side))
            {
                let mine = pixels[at].demultiply();
                let mine = Rgb([mine.red(), mine.green(), mine.blue()]);
                sum += lab_distance(mine.oklab(), canvas_colour(canvas, on_canvas).oklab());
                count += 1;
            }
        });
        if count == 0 { 0.0 } else { sum / count as f32 }
    }
}

fn canvas_colour(canvas: &Pixmap, at: usize) -> Rgb {
    let data = &canvas.data()[at * 4..at * 4 + 3];
    Rgb([data[0], data[1], data[2]])
}

/// Mean colour of the canvas below the square of a pose (every third pixel of every third row).
fn mean_below(canvas: &Pixmap, pose: Pose) -> Rgb {
    let size = canvas.width() as usize;
    let span = |centre: f32| {
        let clamp = |at: f32| at.clamp(0.0, (size - 1) as f32) as usize;
        (clamp(centre - pose.radius)..=clamp(centre + pose.radius)).step_by(3)
    };
    let mut sum = [0u32; 3];
    let mut count = 0;
    for y in span(pose.y) {
        for x in span(pose.x) {
            for (sum, channel) in sum.iter_mut().zip(canvas_colour(canvas, y * size + x).0) {
                *sum += u32::from(channel);
            }
            count += 1;
        }
    }
    Rgb(sum.map(|sum| (sum / count) as u8))
}

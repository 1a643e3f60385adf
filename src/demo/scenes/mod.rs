//! Synthetic scenes: pictograms of everyday things on cluttered backgrounds, with labels that are
//! exact.
//!
//! A [`Scene`] is a function of its seed, index, style and size: whoever draws it, on however many
//! threads, gets the same pixels (for the same version of this code).
//!
//! ```
//! use tagstream::demo::scenes::{Scene, Style, categories};
//!
//! let scene = Scene::draw(7, 0, Style::Plain, 128);
//! assert_eq!(scene.rgb.len(), 128 * 128 * 3);
//! assert!(scene.objects.iter().all(|object| categories().contains(&object.category)));
//! ```

mod background;
mod caption;
mod catalogue;
mod colour;
mod pictogram;
mod sprite;
mod style;
mod writer;

pub use catalogue::categories;
pub use style::{Style, UnknownStyle};
pub use writer::{Container, WriteError, WriteOptions, write};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use sprite::{Pose, Sprite};
use tagstream_core::events::BoundingBox;
use tiny_skia::Pixmap;

/// Sides a scene may have, in pixels.
pub const SIZES: std::ops::RangeInclusive<u32> = 64..=1024;
/// Side of a scene where nobody asks for another, in pixels.
pub const DEFAULT_SIZE: u32 = 128;
/// Every object differs from what lies below its edge by at least this (mean OKLab distance along
/// the edge, before blur and noise). Neighbouring hues of equal lightness differ by about 0.1,
/// black and white by 0.8.
pub const MIN_CONTRAST: f32 = 0.18;
/// At least this part of every object is visible: neither covered by another object nor outside of
/// the picture.
pub const MIN_VISIBLE: f32 = 0.45;

const JPEG_QUALITY: i32 = 90;

/// One thing in a scene.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Object {
    /// Its name, from [`categories`].
    pub category: &'static str,
    /// The smallest box around its visible pixels, in fractions of the picture.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
    /// Visible pixels over all pixels it was drawn with, those outside of the picture included.
    pub visible: f32,
    /// Name of its main colour.
    pub colour: &'static str,
    /// Half its nominal side, as a fraction of the picture's.
    pub radius: f32,
    /// See [`MIN_CONTRAST`].
    pub contrast: f32,
}

/// A picture and the truth about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Names the scene among all seeds and styles: `<style>-<seed>-<index>`.
    pub image_id: String,
    /// How it looks.
    pub style: Style,
    /// Height and width in pixels.
    pub size: u32,
    /// RGB, row by row: `size * size * 3` bytes.
    pub rgb: Vec<u8>,
    /// What is in it, from the back to the front: one to six objects.
    pub objects: Vec<Object>,
    /// A sentence that names every object.
    pub caption: String,
}

/// A picture could not be encoded.
#[derive(Debug, thiserror::Error)]
#[error("scene {image_id} could not be encoded as JPEG: {source}")]
pub struct EncodeError {
    image_id: String,
    source: turbojpeg::Error,
}

impl Scene {
    /// Draws scene `index` of `seed`: `size` pixels square, clamped to [`SIZES`].
    pub fn draw(seed: u64, index: u64, style: Style, size: u32) -> Scene {
        let size = size.clamp(*SIZES.start(), *SIZES.end());
        let mut painting = Painting::new(seed, index, style, size);
        painting.fill();
        let (rgb, objects) = painting.finish();
        Scene {
            image_id: format!("{style}-{seed}-{index:06}"),
            style,
            size,
            caption: caption::caption(&objects, style),
            rgb,
            objects,
        }
    }

    /// The picture as JPEG (quality 90, 4:2:0).
    ///
    /// # Errors
    ///
    /// If libjpeg-turbo cannot allocate.
    pub fn jpeg(&self) -> Result<Vec<u8>, EncodeError> {
        let side = self.size as usize;
        let image = turbojpeg::Image {
            pixels: self.rgb.as_slice(),
            width: side,
            pitch: side * 3,
            height: side,
            format: turbojpeg::PixelFormat::RGB,
        };
        turbojpeg::compress(image, JPEG_QUALITY, turbojpeg::Subsamp::Sub2x2)
            .map(|bytes| bytes.to_vec())
            .map_err(|source| EncodeError {
                image_id: self.image_id.clone(),
                source,
            })
    }

    /// Whether a category is in the picture; the labels of a scene are complete.
    pub fn has(&self, category: &str) -> bool {
        self.objects
            .iter()
            .any(|object| object.category == category)
    }
}

/// A scene while it is drawn.
struct Painting {
    style: Style,
    canvas: Pixmap,
    /// For each pixel the object that is seen there, counted from 1; 0 is background.
    owners: Vec<u8>,
    placed: Vec<Placed>,
    layout: StdRng,
    look: StdRng,
}

struct Placed {
    category: usize,
    colour: &'static str,
    radius: f32,
    contrast: f32,
    /// Pixels it was drawn with.
    drawn: u32,
    /// Pixels of it that are seen.
    visible: u32,
}

impl Painting {
    fn new(seed: u64, index: u64, style: Style, size: u32) -> Painting {
        let stream = |stream: u64| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            key[8..16].copy_from_slice(&index.to_le_bytes());
            key[16..24].copy_from_slice(&stream.to_le_bytes());
            StdRng::from_seed(key)
        };
        let mut look = stream(1 + style as u64);
        let mut canvas = Pixmap::new(size, size).expect("sizes are clamped to more than zero");
        background::paint(&mut canvas, style, &mut look);
        Painting {
            style,
            canvas,
            owners: vec![0; (size * size) as usize],
            placed: Vec::new(),
            layout: stream(0),
            look,
        }
    }

    /// Places one to six objects. Where there is no room for one more it stays away.
    fn fill(&mut self) {
        const HOW_MANY: [usize; 12] = [1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6];
        let count = HOW_MANY[self.layout.random_range(0..HOW_MANY.len())];
        for i in 0..count {
            let category = self.layout.random_range(0..categories().len());
            let tries = if i == 0 { 64 } else { 8 };
            let _placed = (0..tries).any(|_| self.place(category, count));
        }
        // Alone on the canvas an object fits as soon as it lies inside, which one pose in two does.
        debug_assert!(!self.placed.is_empty());
    }

    /// Tries one pose; false if it would hide too much of this or of another object.
    fn place(&mut self, category: usize, count: usize) -> bool {
        let pose = Pose::random(&mut self.layout, self.canvas.width(), count);
        let sprite = Sprite::draw(category, pose, self.style, &self.canvas, &mut self.look);
        let mut hidden = [0u32; 8];
        let mut seen = 0;
        sprite.each_pixel(self.canvas.width(), |at, _| {
            hidden[usize::from(self.owners[at])] += 1;
            seen += 1;
        });
        let enough = |seen: u32, drawn: u32| seen as f32 >= MIN_VISIBLE * drawn as f32;
        // A newcomer has to lie well inside the picture, so that it can lose something to those
        // after it.
        if (seen as f32) < 0.8 * sprite.drawn as f32 {
            return false;
        }
        let all_visible = self
            .placed
            .iter()
            .enumerate()
            .all(|(i, placed)| enough(placed.visible - hidden[i + 1], placed.drawn));
        if !all_visible {
            return false;
        }
        for (placed, hidden) in self.placed.iter_mut().zip(&hidden[1..]) {
            placed.visible -= hidden;
        }
        let owner = self.placed.len() as u8 + 1;
        let owners = &mut self.owners;
        sprite.each_pixel(self.canvas.width(), |at, _| owners[at] = owner);
        sprite.compose(&mut self.canvas);
        self.placed.push(Placed {
            category,
            colour: sprite.colour,
            radius: pose.radius / self.canvas.width() as f32,
            contrast: sprite.contrast,
            drawn: sprite.drawn,
            visible: seen,
        });
        true
    }

    fn finish(mut self) -> (Vec<u8>, Vec<Object>) {
        let size = self.canvas.width() as usize;
        let mut rgb = Vec::with_capacity(size * size * 3);
        for pixel in self.canvas.data().chunks_exact(4) {
            rgb.extend_from_slice(&pixel[..3]);
        }
        style::finish(&mut rgb, size, self.style, &mut self.look);
        let boxes = self.boxes();
        let objects = self
            .placed
            .iter()
            .zip(boxes)
            .map(|(placed, bounding_box)| Object {
                category: categories()[placed.category],
                bounding_box,
                visible: placed.visible as f32 / placed.drawn as f32,
                colour: placed.colour,
                radius: placed.radius,
                contrast: placed.contrast,
            })
            .collect();
        (rgb, objects)
    }

    /// The boxes around the pixels of each object.
    fn boxes(&self) -> Vec<BoundingBox> {
        let size = self.canvas.width() as usize;
        let mut bounds = vec![(size, size, 0, 0); self.placed.len()];
        for (at, &owner) in self
            .owners
            .iter()
            .enumerate()
            .filter(|(_, owner)| **owner > 0)
        {
            let (x, y) = (at % size, at / size);
            let (left, top, right, bottom) = &mut bounds[usize::from(owner) - 1];
            *left = x.min(*left);
            *top = y.min(*top);
            *right = (x + 1).max(*right);
            *bottom = (y + 1).max(*bottom);
        }
        let unit = |pixels: usize| pixels as f32 / size as f32;
        let to_box = |(left, top, right, bottom)| BoundingBox {
            x: unit(left),
            y: unit(top),
            w: unit(right - left),
            h: unit(bottom - top),
        };
        bounds.into_iter().map(to_box).collect()
    }
}

#[cfg(test)]
mod tests;

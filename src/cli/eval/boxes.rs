//! Where tags are seen, against true boxes.

use anyhow::Context as _;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use tagstream_core::error::usage;
use tagstream_core::events::BoundingBox;
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::Bundle;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::tagger::{Tagger, TaggerOptions};
use tagstream_train::features::ImageBytes as _;
use tagstream_train::images::ImageSource;
use tagstream_train::labels::TrueBoxes;

/// At most so many boxes are looked at alone.
const LOOKS: usize = 2000;
const JPEG_QUALITY: u8 = 95;
/// What stands around a box that is looked at in its place.
const GREY: image::Rgb<u8> = image::Rgb([127; 3]);

/// How good boxes are. Shares are fractions of 1; `None` where there was nothing to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct BoxQuality {
    /// Pictures that true boxes speak of.
    images: usize,
    /// Tags of them.
    tags: usize,
    /// The share of tags that have a box.
    shown: Option<f64>,
    /// Tags with a true box of their category in the picture.
    right_tags: usize,
    /// The share of those that have a box.
    right_shown: Option<f64>,
    /// The share of shown right tags whose best box has its centre in a true one.
    pointing: Option<f64>,
    /// The share of right tags, shown or not, whose best box has an IoU of one half or more with a
    /// true one.
    iou_half: Option<f64>,
    /// Boxes of a shown right tag, on average.
    boxes: Option<f64>,
    /// True boxes of the same, on average.
    true_boxes: Option<f64>,
    /// Best boxes that were looked at alone: of right and of wrong tags.
    looked_at: usize,
    /// The share of those that keep the tag when the box alone is the picture, enlarged.
    crop_keeps: Option<f64>,
    /// The same, in its place and size, all else grey.
    alone_keeps: Option<f64>,
}

impl fmt::Display for BoxQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent =
            |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{:.1}", 100.0 * x));
        let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"));
        write!(
            f,
            "boxes: {} % of {} right tags have one ({} % of all {}), {} % of those point into a \
             true box; IoU of 0.5 or more for {} % of right tags; {} boxes a tag, {} in truth; \
             looked at alone, {} % of {} boxes keep their tag enlarged, {} % in their place",
            percent(self.right_shown),
            self.right_tags,
            percent(self.shown),
            self.tags,
            percent(self.pointing),
            percent(self.iou_half),
            number(self.boxes),
            number(self.true_boxes),
            percent(self.crop_keeps),
            self.looked_at,
            percent(self.alone_keeps),
        )
    }
}

/// A tag of a picture and where it is seen.
struct Seen {
    image: usize,
    category: usize,
    boxes: Vec<BoundingBox>,
}

/// Tags the pictures that `path` speaks of and holds their boxes against it.
pub(super) fn measure(path: &Path, images: &Path, bundle: &Bundle) -> anyhow::Result<BoxQuality> {
    let truth = TrueBoxes::read(path).map_err(|error| usage(error.to_string()))?;
    let source = ImageSource::open(images).map_err(|error| usage(error.to_string()))?;
    let ids: Vec<&str> = truth.images().filter(|id| source.contains(id)).collect();
    if ids.is_empty() {
        return Err(usage(format!(
            "{} speaks of no picture that is in {}",
            path.display(),
            images.display()
        ))
        .into());
    }
    let runtime = Runtime::load()?;
    let tagger = Tagger::open(&runtime, bundle, TaggerOptions::on(Device::Cpu), None)?;
    let looker = Looker {
        tagger,
        decoders: Decoders::default(),
        source,
    };
    let seen = looker.tags(&ids)?;
    let categories = &bundle.manifest().categories;
    let pairs: Vec<(&[BoundingBox], &[BoundingBox])> = seen
        .iter()
        .map(|tag| {
            let name = &categories[tag.category].name;
            (tag.boxes.as_slice(), truth.of(ids[tag.image], name))
        })
        .collect();
    let mut quality = compared(&pairs);
    quality.images = ids.len();
    looker.look(&ids, &seen, &mut quality)?;
    Ok(quality)
}

/// What can be said of found and true boxes, a pair for each tag.
fn compared(tags: &[(&[BoundingBox], &[BoundingBox])]) -> BoxQuality {
    let right = || tags.iter().filter(|(_, truth)| !truth.is_empty());
    let shown = || right().filter(|(found, _)| !found.is_empty());
    let (right_tags, shown_right) = (right().count(), shown().count());
    let points = |(found, truth): &&(&[BoundingBox], &[BoundingBox])| {
        truth.iter().any(|b| holds_centre(b, &found[0]))
    };
    let fits = |(found, truth): &&(&[BoundingBox], &[BoundingBox])| {
        truth.iter().any(|b| overlap(b, &found[0]) >= 0.5)
    };
    let has_box = tags.iter().filter(|(found, _)| !found.is_empty()).count();
    BoxQuality {
        tags: tags.len(),
        shown: share(has_box, tags.len()),
        right_tags,
        right_shown: share(shown_right, right_tags),
        pointing: share(shown().filter(points).count(), shown_right),
        iou_half: share(shown().filter(fits).count(), right_tags),
        boxes: share(shown().map(|(found, _)| found.len()).sum(), shown_right),
        true_boxes: share(shown().map(|(_, truth)| truth.len()).sum(), shown_right),
        ..BoxQuality::default()
    }
}

fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn holds_centre(b: &BoundingBox, other: &BoundingBox) -> bool {
    let (x, y) = (other.x + other.w / 2.0, other.y + other.h / 2.0);
    (b.x..=b.x + b.w).contains(&x) && (b.y..=b.y + b.h).contains(&y)
}

/// Intersection over union.
fn overlap(a: &BoundingBox, b: &BoundingBox) -> f32 {
    let side = |a: f32, a_length: f32, b: f32, b_length: f32| {
        ((a + a_length).min(b + b_length) - a.max(b)).max(0.0)
    };
    let common = side(a.x, a.w, b.x, b.w) * side(a.y, a.h, b.y, b.h);
    common / (a.w * a.h + b.w * b.h - common)
}

/// How a box is looked at alone.
#[derive(Clone, Copy)]
enum Alone {
    /// As a picture of its own.
    Enlarged,
    /// Where it is; all else is grey.
    InPlace,
}

struct Looker {
    tagger: Tagger,
    decoders: Decoders,
    source: ImageSource,
}

impl Looker {
    /// The tags of all pictures.
    fn tags(&self, ids: &[&str]) -> anyhow::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut failed = None;
        self.tagger.tag_each(
            ids.len(),
            false,
            |at, pixels| {
                let bytes = self.source.read(ids[at])?;
                let preprocessing = self.tagger.model().preprocessing();
                let size = self.decoders.decode_into(&bytes, preprocessing, pixels);
                let size = size.with_context(|| format!("decoding {}", ids[at]))?;
                Ok((size.width, size.height))
            },
            |image, result: anyhow::Result<_>| match result {
                Ok((inference, _)) => seen.extend(inference.tags.iter().map(|tag| Seen {
                    image,
                    category: tag.category,
                    boxes: tag.regions.iter().map(|r| r.bounding_box).collect(),
                })),
                Err(error) => failed = Some(error),
            },
        )?;
        failed.map_or(Ok(seen), Err)
    }

    /// Looks at the best boxes alone.
    fn look(&self, ids: &[&str], seen: &[Seen], quality: &mut BoxQuality) -> anyhow::Result<()> {
        let shown: Vec<&Seen> = seen.iter().filter(|tag| !tag.boxes.is_empty()).collect();
        let step = shown.len().div_ceil(LOOKS).max(1);
        let chosen: Vec<&Seen> = shown.into_iter().step_by(step).collect();
        quality.looked_at = chosen.len();
        let keeps = |how: Alone| -> anyhow::Result<Option<f64>> {
            Ok(share(self.kept(ids, &chosen, how)?, chosen.len()))
        };
        quality.crop_keeps = keeps(Alone::Enlarged)?;
        quality.alone_keeps = keeps(Alone::InPlace)?;
        Ok(())
    }

    /// How many of the boxes keep their tags.
    fn kept(&self, ids: &[&str], chosen: &[&Seen], how: Alone) -> anyhow::Result<usize> {
        let categories = &self.tagger.model().manifest.categories;
        let (mut kept, mut failed) = (0, None);
        self.tagger.tag_each(
            chosen.len(),
            false,
            |at, pixels| {
                let tag = chosen[at];
                let bytes = self.source.read(ids[tag.image])?;
                let picture = self.decoders.decode_rgb(&bytes);
                let picture = picture.with_context(|| format!("decoding {}", ids[tag.image]))?;
                let alone = alone(&picture, &tag.boxes[0], how)?;
                let preprocessing = self.tagger.model().preprocessing();
                let size = self.decoders.decode_into(&alone, preprocessing, pixels)?;
                Ok((size.width, size.height))
            },
            |at, result: anyhow::Result<_>| match result {
                Ok((inference, _)) => {
                    let category = chosen[at].category;
                    let reached = inference.scores[category] >= categories[category].threshold;
                    kept += usize::from(reached);
                }
                Err(error) => failed = Some(error),
            },
        )?;
        failed.map_or(Ok(kept), Err)
    }
}

/// A JPEG of the part of `picture` that is in the box.
fn alone(picture: &RgbImage, b: &BoundingBox, how: Alone) -> anyhow::Result<Vec<u8>> {
    let (width, height) = picture.dimensions();
    let pixels = |from: f32, length: f32, side: u32| {
        let first = ((from * side as f32).floor() as u32).min(side - 1);
        let last = (((from + length) * side as f32).ceil() as u32).clamp(first + 1, side);
        (first, last - first)
    };
    let ((x, w), (y, h)) = (pixels(b.x, b.w, width), pixels(b.y, b.h, height));
    let part = image::imageops::crop_imm(picture, x, y, w, h).to_image();
    let shown = match how {
        Alone::Enlarged => part,
        Alone::InPlace => {
            let mut whole = RgbImage::from_pixel(width, height, GREY);
            image::imageops::replace(&mut whole, &part, x.into(), y.into());
            whole
        }
    };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(&shown)?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, y: f32, w: f32, h: f32) -> BoundingBox {
        BoundingBox { x, y, w, h }
    }

    #[test]
    fn boxes_are_counted_by_hand() {
        let truth = [at(0.0, 0.0, 0.4, 0.4), at(0.6, 0.6, 0.4, 0.4)];
        let half = [at(0.0, 0.0, 0.4, 0.2)];
        let less = [at(0.0, 0.0, 0.4, 0.19), at(0.5, 0.5, 0.1, 0.1)];
        let away = [at(0.45, 0.45, 0.1, 0.1)];
        let tags: Vec<(&[BoundingBox], &[BoundingBox])> = vec![
            (&half, &truth),
            (&less, &truth[..1]),
            (&away, &truth),
            (&[], &truth),
            (&half, &[]),
            (&[], &[]),
        ];
        let quality = compared(&tags);
        assert_eq!((quality.tags, quality.right_tags), (6, 4));
        assert_eq!(quality.shown, Some(4.0 / 6.0));
        assert_eq!(quality.right_shown, Some(0.75));
        assert_eq!(quality.pointing, Some(2.0 / 3.0));
        assert_eq!(quality.iou_half, Some(0.25));
        assert_eq!(quality.boxes, Some(4.0 / 3.0));
        assert_eq!(quality.true_boxes, Some(5.0 / 3.0));
        assert_eq!(compared(&[]), BoxQuality::default());
    }

    #[test]
    fn a_box_alone_is_cut_out_or_left_in_its_place() {
        let mut picture = RgbImage::from_pixel(40, 20, image::Rgb([250, 0, 0]));
        for x in 20..40 {
            for y in 0..10 {
                picture.put_pixel(x, y, image::Rgb([0, 0, 250]));
            }
        }
        let quarter = at(0.5, 0.0, 0.5, 0.5);
        let seen = |how| {
            let jpeg = alone(&picture, &quarter, how).unwrap();
            image::load_from_memory(&jpeg).unwrap().to_rgb8()
        };
        let (cut, left) = (seen(Alone::Enlarged), seen(Alone::InPlace));
        assert_eq!((cut.dimensions(), left.dimensions()), ((20, 10), (40, 20)));
        assert!(cut.get_pixel(3, 3)[2] > 200 && left.get_pixel(35, 3)[2] > 200);
        assert!(left.get_pixel(5, 15)[0].abs_diff(127) < 9);
    }
}

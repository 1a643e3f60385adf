//! From a category's saliency map to the boxes that a reader sees.

mod regions;

pub use regions::{Region, RegionMask, regions, too_coarse};

use tagstream_core::events::BoundingBox;
use tagstream_image::decode::{ImageSize, seen_part};
use tagstream_image::preprocessing::Preprocessing;

/// Maps a box from fractions of the model's input to fractions of the upright image of `size`
/// (width, height) pixels. Where the centre is cropped, the input shows only the image's middle.
pub fn to_image(
    inside: BoundingBox,
    preprocessing: &Preprocessing,
    size: (u32, u32),
) -> BoundingBox {
    let seen = visible_part(preprocessing, size);
    BoundingBox {
        x: seen.x + inside.x * seen.w,
        y: seen.y + inside.y * seen.h,
        w: inside.w * seen.w,
        h: inside.h * seen.h,
    }
}

/// The part of an upright image of `size` (width, height) pixels that the model's input shows, in
/// fractions of the image.
pub fn visible_part(preprocessing: &Preprocessing, (width, height): (u32, u32)) -> BoundingBox {
    let [x, y, w, h] = seen_part(preprocessing, ImageSize { width, height }).map(|x| x as f32);
    BoundingBox { x, y, w, h }
}

/// How much each location stands out in a saliency map, 0 to 1: the logarithm of its share between
/// the middle one's and the largest, as boxes are found. The share itself falls off so fast that
/// one location would glow alone.
pub fn levels(map: &[f32]) -> Vec<f32> {
    let logs: Vec<f32> = map.iter().map(|share| share.max(1e-12).ln()).collect();
    let mut sorted = logs.clone();
    sorted.sort_unstable_by(f32::total_cmp);
    let (Some(top), Some(middle)) = (sorted.last(), sorted.get(sorted.len() / 2)) else {
        return Vec::new();
    };
    let span = (top - middle).max(f32::MIN_POSITIVE);
    let level = |log: &f32| ((log - middle) / span).clamp(0.0, 1.0);
    logs.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_image::preprocessing::{Filter, Fit};

    fn bounds(b: BoundingBox) -> [f32; 4] {
        [b.x, b.y, b.w, b.h]
    }

    #[test]
    fn what_lies_below_the_middle_does_not_stand_out() {
        let shares = [0.0, 0.1, 0.1, 0.1, 0.7 / 7_f32.sqrt(), 0.7];
        let found = levels(&shares);
        assert_eq!((found[0], found[1], found[5]), (0.0, 0.0, 1.0));
        // Half way in logarithms.
        assert!((found[4] - 0.5).abs() < 1e-5, "{found:?}");
        assert_eq!(levels(&[0.25; 4]), [0.0; 4]);
        assert!(levels(&[]).is_empty());
    }

    #[test]
    fn a_centre_crop_is_mapped_back() {
        let mut preprocessing = Preprocessing {
            height: 224,
            width: 224,
            fit: Fit::CenterCrop,
            filter: Filter::Bicubic,
        };
        let inside = BoundingBox {
            x: 0.5,
            y: 0.0,
            w: 0.5,
            h: 1.0,
        };
        // 400x200: the middle 200x200 is seen, from 0.25 to 0.75 of the width.
        let wide = to_image(inside, &preprocessing, (400, 200));
        assert_eq!(bounds(wide), [0.5, 0.0, 0.25, 1.0]);
        let tall = to_image(inside, &preprocessing, (100, 200));
        assert_eq!(bounds(tall), [0.5, 0.25, 0.5, 0.5]);
        // 500x375: resized to 298x224, of which the columns from 37 to 261 are seen: whole pixels.
        let seen = bounds(visible_part(&preprocessing, (500, 375)));
        assert_eq!(seen, [37.0 / 298.0, 0.0, 224.0 / 298.0, 1.0]);
        // 445x449: resized to 224x226; of the two rows too many one is cut off above.
        let seen = bounds(visible_part(&preprocessing, (445, 449)));
        assert_eq!(seen, [0.0, 1.0 / 226.0, 1.0, 224.0 / 226.0]);
        preprocessing.fit = Fit::Squash;
        assert_eq!(
            bounds(to_image(inside, &preprocessing, (400, 200))),
            bounds(inside)
        );
    }
}

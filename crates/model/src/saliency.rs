//! From a category's saliency map to the box a reader sees.

use tagstream_core::events::BoundingBox;
use tagstream_image::decode::{ImageSize, seen_part};
use tagstream_image::preprocessing::Preprocessing;

/// A location belongs to the box if its saliency is at least this share of the map's maximum.
pub const BOX_THRESHOLD: f32 = 0.5;

/// The box around the connected part of `map` (`[rows, columns]`, row-major) that contains the
/// maximum and is at least `threshold` times it; neighbours share an edge. In fractions of the
/// model's input, each location covering one cell.
///
/// A map that is not finite or has no positive value gives the whole input.
pub fn peak_box(map: &[f32], columns: usize, threshold: f32) -> BoundingBox {
    let whole = BoundingBox {
        x: 0.0,
        y: 0.0,
        w: 1.0,
        h: 1.0,
    };
    let Some(peak) = (0..map.len()).max_by(|a, b| map[*a].total_cmp(&map[*b])) else {
        return whole;
    };
    if columns == 0 || !map[peak].is_finite() || map[peak] <= 0.0 {
        return whole;
    }
    let rows = map.len() / columns;
    let level = map[peak] * threshold;
    let mut seen = vec![false; map.len()];
    let mut edge = vec![peak];
    seen[peak] = true;
    let (mut left, mut right) = (peak % columns, peak % columns);
    let (mut top, mut bottom) = (peak / columns, peak / columns);
    while let Some(at) = edge.pop() {
        let (row, column) = (at / columns, at % columns);
        (left, right) = (left.min(column), right.max(column));
        (top, bottom) = (top.min(row), bottom.max(row));
        let neighbours = [
            (row > 0).then(|| at - columns),
            (row + 1 < rows).then(|| at + columns),
            (column > 0).then(|| at - 1),
            (column + 1 < columns).then(|| at + 1),
        ];
        for next in neighbours.into_iter().flatten() {
            if !seen[next] && map[next] >= level {
                seen[next] = true;
                edge.push(next);
            }
        }
    }
    BoundingBox {
        x: left as f32 / columns as f32,
        y: top as f32 / rows as f32,
        w: (right - left + 1) as f32 / columns as f32,
        h: (bottom - top + 1) as f32 / rows as f32,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_image::preprocessing::{Filter, Fit};

    fn bounds(b: BoundingBox) -> [f32; 4] {
        [b.x, b.y, b.w, b.h]
    }

    #[test]
    fn the_box_holds_the_peaks_connected_part_only() {
        #[rustfmt::skip]
        let map = [
            0.9, 0.0, 0.0, 0.1,
            0.0, 0.5, 1.0, 0.0,
            0.0, 0.4, 0.6, 0.0,
        ];
        // 0.9 touches 0.5 only by a corner, and 0.4 is below half of the maximum.
        let found = bounds(peak_box(&map, 4, 0.5));
        assert_eq!(found, [0.25, 1.0 / 3.0, 0.5, 2.0 / 3.0]);
        let loose = bounds(peak_box(&map, 4, 0.05));
        assert_eq!(loose, [0.25, 1.0 / 3.0, 0.5, 2.0 / 3.0]);
        let strict = bounds(peak_box(&map, 4, 0.95));
        assert_eq!(strict, [0.5, 1.0 / 3.0, 0.25, 1.0 / 3.0]);
    }

    #[test]
    fn rows_do_not_run_into_each_other() {
        let map = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0];
        let found = bounds(peak_box(&map, 3, 0.5));
        // The last of one row and the first of the next are no neighbours; the later maximum wins.
        assert_eq!(found, [0.0, 0.5, 1.0 / 3.0, 0.5]);
    }

    #[test]
    fn an_even_map_and_a_broken_one_give_the_whole_image() {
        assert_eq!(bounds(peak_box(&[0.25; 4], 2, 0.5)), [0.0, 0.0, 1.0, 1.0]);
        for map in [[f32::NAN; 4], [0.0; 4]] {
            assert_eq!(bounds(peak_box(&map, 2, 0.5)), [0.0, 0.0, 1.0, 1.0]);
        }
        assert_eq!(bounds(peak_box(&[], 2, 0.5)), [0.0, 0.0, 1.0, 1.0]);
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

//! Blocks of one value, rounded as other readers round them.
//!
//! Readers that make pixels round brightness, chroma and what chroma adds to red, green and blue to whole numbers. In a block
//! with some detail that is lost in the mean. In a block of one value it is the same for all its pixels, and in smooth parts of
//! a picture, where chroma is flat for many blocks, it would be the largest difference between a picture resampled
//! from its coefficients and from its pixels.

use super::resample::{Group, LANES};
use tagstream_multiversion::wide;

/// What the means in the first slot of a group are counted in: parts of a level.
pub(super) const PARTS: i32 = 128;

/// Rounds flat blocks of brightness.
#[inline(always)]
fn luma_inlined(groups: &mut [Group]) {
    for group in groups {
        for lane in 0..LANES {
            let mean = i32::from(group.values[0][lane]);
            let whole = (mean + PARTS / 2) & -PARTS;
            let flat = i32::from(group.flat[lane]);
            group.values[0][lane] = (flat * whole + (1 - flat) * mean) as i16;
        }
    }
}

wide! {
    /// Rounds flat blocks of brightness.
    pub fn luma(groups: &mut [Group]) = luma_inlined;
}

/// See [`chroma`].
#[inline(always)]
fn chroma_inlined(blue: &mut [Group], red: &mut [Group], green: &mut [Group]) {
    // By how much red, green and blue grow with chroma, as the readers have it: in parts of 2^16.
    let added = |by: i32| (by + (1 << 15)) >> 16;
    for ((blue, red), green) in blue.iter_mut().zip(red).zip(green) {
        for lane in 0..LANES {
            let (flat_blue, flat_red) = (blue.flat[lane] != 0, red.flat[lane] != 0);
            let (b, r) = (
                i32::from(blue.values[0][lane]),
                i32::from(red.values[0][lane]),
            );
            let whole = |mean: i32| (mean + PARTS / 2) >> 7;
            let (whole_b, whole_r) = (whole(b), whole(r));
            let scaled =
                |levels: i32, by: f32| (levels as f32 * PARTS as f32 / by).round_ties_even() as i32;
            let new_b = if flat_blue {
                scaled(added(116_130 * whole_b), 1.772)
            } else {
                b
            };
            let new_r = if flat_red {
                scaled(added(91_881 * whole_r), 1.402)
            } else {
                r
            };
            let added_green = added(-22_554 * whole_b - 46_802 * whole_r);
            let linear = -0.344_136 * new_b as f32 - 0.714_136 * new_r as f32;
            let rest = added_green as f32 * PARTS as f32 - linear;
            blue.values[0][lane] = new_b as i16;
            red.values[0][lane] = new_r as i16;
            green.values[0][lane] = if flat_blue && flat_red {
                rest as i16
            } else {
                0
            };
        }
    }
}

wide! {
    /// Rounds what flat blocks of chroma add to red and blue, and puts into `green` what they add to green beyond what the
    /// rounded ones say.
    pub fn chroma(blue: &mut [Group], red: &mut [Group], green: &mut [Group]) = chroma_inlined;
}

//! Flat blocks (all AC coefficients 0), rounded as readers that make pixels round them.
//!
//! Those readers round luma, chroma, and what chroma adds to red, green and blue, to whole levels.
//! In a block with some detail the rounding errors cancel out in the mean. In a flat block the
//! error is the same for every pixel, and in smooth parts of a picture, where chroma is flat over
//! many blocks, it would be the largest difference between resampling coefficients and resampling
//! pixels.

use super::group::{Group, LANES, MEAN_PARTS};
use tagstream_multiversion::multiversioned;

/// See [`round_luma`].
#[inline(always)]
fn round_luma_inlined(groups: &mut [Group]) {
    for group in groups {
        for lane in 0..LANES {
            let mean = i32::from(group.coefficients[0][lane]);
            let whole = (mean + MEAN_PARTS / 2) & -MEAN_PARTS;
            let flat = i32::from(group.flat[lane]);
            group.coefficients[0][lane] = (flat * whole + (1 - flat) * mean) as i16;
        }
    }
}

multiversioned! {
    /// Rounds flat blocks of luma to whole levels.
    pub fn round_luma(groups: &mut [Group]) = round_luma_inlined;
}

/// See [`round_chroma`].
#[inline(always)]
fn round_chroma_inlined(blue: &mut [Group], red: &mut [Group], green: &mut [Group]) {
    // What chroma adds to red, green or blue, in the fixed point of libjpeg: parts of 2^16.
    let added = |by: i32| (by + (1 << 15)) >> 16;
    for ((blue, red), green) in blue.iter_mut().zip(red).zip(green) {
        for lane in 0..LANES {
            let (flat_blue, flat_red) = (blue.flat[lane] != 0, red.flat[lane] != 0);
            let (b, r) = (
                i32::from(blue.coefficients[0][lane]),
                i32::from(red.coefficients[0][lane]),
            );
            let whole = |mean: i32| (mean + MEAN_PARTS / 2) >> 7;
            let (whole_b, whole_r) = (whole(b), whole(r));
            let scaled = |levels: i32, by: f32| {
                (levels as f32 * MEAN_PARTS as f32 / by).round_ties_even() as i32
            };
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
            let rest = added_green as f32 * MEAN_PARTS as f32 - linear;
            blue.coefficients[0][lane] = new_b as i16;
            red.coefficients[0][lane] = new_r as i16;
            green.coefficients[0][lane] = if flat_blue && flat_red {
                rest as i16
            } else {
                0
            };
        }
    }
}

multiversioned! {
    /// Sets the means of flat chroma blocks so that what they add to blue and red is a whole level.
    /// Green depends on both, so no choice of the two makes it whole as well: what is missing goes
    /// to `green`, as a component of its own.
    pub fn round_chroma(
        blue: &mut [Group],
        red: &mut [Group],
        green: &mut [Group],
    ) = round_chroma_inlined;
}

//! How one component of a file is read and what becomes of its coefficients.

use super::axis::{Axis, SIDE};
use super::flat::PARTS;
use super::frame::{Component, Frame};
use super::resample::Shape;

/// Where coefficients are put that nobody reads.
const UNREAD: u8 = 64;
/// Frequencies are read whose share in the result is at least this large beside that of a block's mean. What is left out is
/// less than rounding the result to bytes, because high frequencies are weak in pictures, too.
const LEAST_STRENGTH: f64 = 0.03;

/// What coefficients up to some place can be.
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    /// Slots they are in.
    pub slots: usize,
    /// Horizontal frequencies.
    pub across: usize,
    /// Vertical frequencies.
    pub down: usize,
}

/// How one component is read and resampled.
pub(super) struct Plan {
    /// Blocks a unit, side by side.
    pub across: usize,
    /// Blocks a unit, above each other.
    pub down: usize,
    /// Which DC table.
    pub dc: usize,
    /// Which AC table.
    pub ac: usize,
    /// Where in a group a coefficient goes, by its place in the file. Places from 64 on come up at the end of a block.
    pub slots: [u8; 512],
    /// Place of the last coefficient that is read.
    pub last: usize,
    /// By the place that blocks reach.
    pub extents: [Extent; 64],
    /// By horizontal frequency: how many vertical ones are read.
    pub heights: [usize; SIDE],
    /// By vertical and horizontal frequency: the slot, and what is in it is multiplied with.
    pub slot_of: [[u8; SIDE]; SIDE],
    /// See above.
    pub steps: [[f32; SIDE]; SIDE],
    /// Step of the DC coefficients; slot 0 holds the means of blocks instead.
    dc_step: i32,
    /// What is made of the coefficients.
    pub shape: Shape,
}

impl Plan {
    /// For a component with these sides; a file's own quantisers and codes come with [`Plan::adopt`].
    pub(super) fn new(component: &Component, rows: &Axis, columns: &Axis) -> Self {
        let mut plan = Plan {
            across: component.across,
            down: component.down,
            dc: component.dc,
            ac: component.ac,
            slots: [UNREAD; 512],
            last: 0,
            extents: [Extent::default(); 64],
            heights: [0; SIDE],
            slot_of: [[UNREAD; SIDE]; SIDE],
            steps: [[0.0; SIDE]; SIDE],
            dc_step: 1,
            shape: Shape::default(),
        };
        let mut extent = Extent::default();
        for (place, (u, v)) in zigzag().enumerate() {
            if columns.strength[u] * rows.strength[v] >= LEAST_STRENGTH {
                plan.slots[place] = extent.slots as u8;
                plan.slot_of[v][u] = extent.slots as u8;
                plan.last = place;
                plan.heights[u] = plan.heights[u].max(v + 1);
                extent.slots += 1;
                extent.across = extent.across.max(u + 1);
                extent.down = extent.down.max(v + 1);
            }
            plan.extents[place] = extent;
        }
        plan.steps[0][0] = 8.0 / PARTS as f32;
        plan.shape = Shape::new(rows, columns, extent.across);
        plan
    }

    /// Takes over which quantisers and codes the component has in this file. The quantisers must be there.
    pub(super) fn adopt(&mut self, frame: &Frame, component: &Component) {
        let quantisers = frame.quantisers[component.quantisers].unwrap_or([1; 64]);
        (self.dc, self.ac) = (component.dc, component.ac);
        self.dc_step = i32::from(quantisers[0]);
        for (quantiser, (u, v)) in quantisers.into_iter().zip(zigzag()).skip(1) {
            self.steps[v][u] = f32::from(quantiser);
        }
    }

    /// For something of which there is one number a block, in blocks like those of `component`.
    pub(super) fn of_means(component: &Component, rows: &Axis, columns: &Axis) -> Self {
        let mut plan = Plan::new(component, rows, columns);
        let extent = Extent {
            slots: 1,
            across: 1,
            down: 1,
        };
        plan.extents = [extent; 64];
        plan.heights[0] = 1;
        plan.shape = Shape::new(rows, columns, 1);
        plan
    }

    /// The mean of a block, in [`PARTS`].
    #[inline(always)]
    pub(super) fn mean(&self, dc: i32) -> i16 {
        // Coefficients are eight times the mean. A picture has no larger ones than this.
        let mean = (dc * self.dc_step).clamp(-2047, 2047);
        (mean * (PARTS / 8)) as i16
    }
}

/// Horizontal and vertical frequency in the order of the file (T.81, figure A.6).
fn zigzag() -> impl Iterator<Item = (usize, usize)> {
    (0..15usize).flat_map(|sum| {
        (0..=sum).filter_map(move |n| {
            let (u, v) = if sum % 2 == 0 {
                (n, sum - n)
            } else {
                (sum - n, n)
            };
            (u < 8 && v < 8).then_some((u, v))
        })
    })
}

//! The coefficients of one row of MCUs.

use super::flat;
use super::frame::Frame;
use super::group::{Group, LANES};
use super::plan::Plan;

/// One row of MCUs (T.81, A.2.3), by component and block, on the way from the scan to the sums.
#[derive(Default)]
pub(super) struct McuRow {
    /// MCUs in the row.
    mcus: usize,
    /// By component: the groups of a block row, then those of the next one.
    components: [Vec<Group>; 3],
    /// What flat blocks of chroma still have to add to green.
    green: Vec<Group>,
}

impl McuRow {
    /// Makes room for the rows of this frame.
    pub(super) fn resize(&mut self, frame: &Frame, plans: &[Plan]) {
        self.mcus = frame.width.div_ceil(8 * frame.max_horizontal_sampling);
        for (groups, plan) in self.components.iter_mut().zip(plans) {
            let blocks = self.mcus * plan.horizontal_sampling;
            let count = blocks.div_ceil(LANES) * plan.vertical_sampling;
            if groups.len() > count {
                groups.truncate(count);
                groups.shrink_to(2 * count);
            }
            // The coefficients left from another picture may be stored elsewhere.
            groups.clear();
            groups.resize(count, Group::EMPTY);
        }
        for groups in &mut self.components[plans.len().min(3)..] {
            groups.clear();
        }
        self.green.clear();
        self.green.resize(self.components[1].len(), Group::FLAT);
    }

    /// MCUs in the row.
    #[inline(always)]
    pub(super) fn mcus(&self) -> usize {
        self.mcus
    }

    /// The groups of each component, to be read into.
    #[inline(always)]
    pub(super) fn components_mut(&mut self) -> &mut [Vec<Group>; 3] {
        &mut self.components
    }

    /// The groups of a component, those of a block row after those of the one before. The fourth
    /// component is what is added to green.
    pub(super) fn groups(&self, component: usize) -> &[Group] {
        self.components.get(component).unwrap_or(&self.green)
    }

    /// Rounds flat blocks, see [`flat`].
    pub(super) fn round_flat_blocks(&mut self) {
        let [luma, blue, red] = &mut self.components;
        flat::round_luma(luma);
        flat::round_chroma(blue, red, &mut self.green);
    }

    /// Sets all coefficients to 0.
    #[inline(always)]
    pub(super) fn clear(&mut self, plans: &[Plan]) {
        for (groups, plan) in self.components.iter_mut().zip(plans) {
            for group in groups {
                let stored = plan.extents[group.last_nonzero].stored;
                group.coefficients[..stored].fill([0; LANES]);
                group.last_nonzero = 0;
            }
        }
    }
}

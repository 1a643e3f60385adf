//! Which coefficients of a component are kept, where, and what becomes of them.

use super::axis::{Axis, SIDE};
use super::frame::{Component, Frame};
use super::group::{DISCARDED, MEAN_PARTS};
use super::weights::ResampleWeights;

/// A frequency is kept if its share in the result is at least this much of that of a block's mean.
/// What is left out is less than rounding the result to bytes, because high frequencies are also
/// weak in pictures themselves.
const LEAST_STRENGTH: f64 = 0.03;

/// How many coefficients, and of how many frequencies, are kept up to some zigzag index.
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    /// Coefficients, and so storage indices, in use.
    pub stored: usize,
    /// Horizontal frequencies.
    pub horizontal: usize,
    /// Vertical frequencies.
    pub vertical: usize,
}

/// How one component is read and resampled.
///
/// A coefficient has three names: its zigzag index in the file (T.81, A.3.6), its frequencies
/// (`v`, `u`), and, if it is kept, the storage index at which a group holds it, counted without
/// gaps in zigzag order.
pub(super) struct Plan {
    /// Horizontal sampling factor: columns of blocks in an MCU.
    pub horizontal_sampling: usize,
    /// Vertical sampling factor: rows of blocks in an MCU.
    pub vertical_sampling: usize,
    /// Index of the Huffman table for DC differences.
    pub dc_table: usize,
    /// Index of the Huffman table for AC coefficients.
    pub ac_table: usize,
    /// Storage index by zigzag index. A zigzag index above 63 means that a block has ended.
    pub storage_of_zigzag: [u8; 512],
    /// Zigzag index of the last coefficient that is kept.
    pub last_kept: usize,
    /// By the zigzag index of a group's last nonzero coefficient.
    pub extents: [Extent; 64],
    /// By horizontal frequency: how many vertical ones are kept.
    pub vertical_counts: [usize; SIDE],
    /// Storage index by vertical and horizontal frequency.
    pub storage_of_frequency: [[u8; SIDE]; SIDE],
    /// The quantization table by vertical and horizontal frequency. What stands for the DC
    /// coefficient turns [`MEAN_PARTS`] into a coefficient.
    pub quantization: [[f32; SIDE]; SIDE],
    /// The quantization table's element for the DC coefficient.
    dc_quantization: i32,
    /// How coefficients are summed into the result.
    pub weights: ResampleWeights,
}

impl Plan {
    /// For a component with these sides, without what [`Plan::use_tables_of`] adds.
    pub(super) fn new(component: &Component, rows: &Axis, columns: &Axis) -> Self {
        let mut plan = Plan {
            horizontal_sampling: component.horizontal_sampling,
            vertical_sampling: component.vertical_sampling,
            dc_table: component.dc_table,
            ac_table: component.ac_table,
            storage_of_zigzag: [DISCARDED; 512],
            last_kept: 0,
            extents: [Extent::default(); 64],
            vertical_counts: [0; SIDE],
            storage_of_frequency: [[DISCARDED; SIDE]; SIDE],
            quantization: [[0.0; SIDE]; SIDE],
            dc_quantization: 1,
            weights: ResampleWeights::default(),
        };
        let mut extent = Extent::default();
        for (zigzag, (u, v)) in frequencies_in_zigzag_order().enumerate() {
            if columns.strength[u] * rows.strength[v] >= LEAST_STRENGTH {
                plan.storage_of_zigzag[zigzag] = extent.stored as u8;
                plan.storage_of_frequency[v][u] = extent.stored as u8;
                plan.last_kept = zigzag;
                plan.vertical_counts[u] = plan.vertical_counts[u].max(v + 1);
                extent.stored += 1;
                extent.horizontal = extent.horizontal.max(u + 1);
                extent.vertical = extent.vertical.max(v + 1);
            }
            plan.extents[zigzag] = extent;
        }
        plan.quantization[0][0] = 8.0 / MEAN_PARTS as f32;
        plan.weights = ResampleWeights::new(rows, columns, extent.horizontal);
        plan
    }

    /// For something that has one number a block, in blocks like those of `component`.
    pub(super) fn of_means(component: &Component, rows: &Axis, columns: &Axis) -> Self {
        let mut plan = Plan::new(component, rows, columns);
        let extent = Extent {
            stored: 1,
            horizontal: 1,
            vertical: 1,
        };
        plan.extents = [extent; 64];
        plan.vertical_counts[0] = 1;
        plan.weights = ResampleWeights::new(rows, columns, 1);
        plan
    }

    /// Takes the component's tables from this file: which Huffman tables, and the quantization
    /// table itself, which must be there.
    pub(super) fn use_tables_of(&mut self, frame: &Frame, component: &Component) {
        let table = frame.quantization_tables[component.quantization_table].unwrap_or([1; 64]);
        (self.dc_table, self.ac_table) = (component.dc_table, component.ac_table);
        self.dc_quantization = i32::from(table[0]);
        for (element, (u, v)) in table.into_iter().zip(frequencies_in_zigzag_order()).skip(1) {
            self.quantization[v][u] = f32::from(element);
        }
    }

    /// The mean of a block with this DC coefficient, in [`MEAN_PARTS`].
    #[inline(always)]
    pub(super) fn mean(&self, dc: i32) -> i16 {
        // A DC coefficient is eight times the mean (T.81, A.3.3), and 8-bit samples give none
        // beyond these.
        let mean = (dc * self.dc_quantization).clamp(-2047, 2047);
        (mean * (MEAN_PARTS / 8)) as i16
    }
}

/// Horizontal and vertical frequency by zigzag index (T.81, A.3.6, figure A.6).
fn frequencies_in_zigzag_order() -> impl Iterator<Item = (usize, usize)> {
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

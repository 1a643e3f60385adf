//! From coefficients to the samples of the result, sixteen blocks side by side.
//!
//! Vertically first: every block row adds, frequency by frequency, to the few rows of the result
//! that its pixels would have a weight in. Rows to which all their block rows have added are then
//! resampled horizontally. Pixels at the picture's own size are never made.

use super::axis::SIDE;
use super::group::{Group, LANES};
use super::plan::Plan;
use super::weights::{ROWS, ResampleWeights};
use tagstream_multiversion::multiversioned;

/// The rows of the result that a block row adds to.
#[derive(Clone, Copy)]
struct RowWeights<'a> {
    /// Where in [`Sums::open`] the first of them is.
    first: usize,
    /// By row and vertical frequency.
    weights: &'a [[f32; SIDE]],
}

/// One component of the result as far as it has come.
#[derive(Default)]
pub(super) struct Sums {
    /// The rows that are begun, by horizontal frequency and block. A row is kept at its number
    /// modulo [`ResampleWeights::open_rows`].
    open: Vec<f32>,
    /// Rows that are finished.
    finished: usize,
    /// The [`ROWS`] rows that are resampled horizontally, by block and horizontal frequency.
    transposed: Vec<[f32; ROWS]>,
    /// The result, by [`ROWS`] rows and column.
    pub samples: Vec<[f32; ROWS]>,
}

impl Sums {
    /// Empties the sums and makes room for a component.
    pub(super) fn clear(&mut self, weights: &ResampleWeights) {
        self.open.clear();
        self.open.resize(weights.open_rows * weights.row_len(), 0.0);
        self.finished = 0;
        self.transposed.clear();
        self.transposed
            .resize(weights.blocks.len() * weights.frequencies, [0.0; ROWS]);
        self.samples.clear();
        let rows = weights.last_block_rows.len().div_ceil(ROWS);
        self.samples.resize(rows * weights.width(), [0.0; ROWS]);
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        4 * (self.open.len() + ROWS * (self.transposed.len() + self.samples.len()))
    }

    #[inline(always)]
    fn add_inlined(&mut self, plan: &Plan, block_row: usize, groups: &[Group]) {
        let weights = &plan.weights;
        let of_block_row = weights.rows.get(block_row);
        let Some(first_row) = weights.first_rows.get(block_row) else {
            return;
        };
        let rows = RowWeights {
            first: first_row % weights.open_rows,
            weights: of_block_row,
        };
        for (index, group) in weights.groups().zip(&groups[weights.groups()]) {
            let extent = plan.extents[group.last_nonzero];
            for u in 0..extent.horizontal {
                let at = u * weights.stride + index * LANES;
                match plan.vertical_counts[u].min(extent.vertical) {
                    0 => {}
                    1 => self.add_frequency::<1>(plan, rows, group, u, at),
                    2 => self.add_frequency::<2>(plan, rows, group, u, at),
                    3 => self.add_frequency::<3>(plan, rows, group, u, at),
                    4 => self.add_frequency::<4>(plan, rows, group, u, at),
                    5 => self.add_frequency::<5>(plan, rows, group, u, at),
                    6 => self.add_frequency::<6>(plan, rows, group, u, at),
                    7 => self.add_frequency::<7>(plan, rows, group, u, at),
                    _ => self.add_frequency::<8>(plan, rows, group, u, at),
                }
            }
        }
        while self.finished < weights.last_block_rows.len() {
            let last = (self.finished + ROWS).min(weights.last_block_rows.len()) - 1;
            if weights.last_block_rows[last] > block_row {
                break;
            }
            self.finish_rows(weights);
        }
    }

    /// Dequantizes the first `COUNT` vertical frequencies of the horizontal frequency `u` (T.81,
    /// A.3.4) and adds them to the rows.
    #[inline(always)]
    fn add_frequency<const COUNT: usize>(
        &mut self,
        plan: &Plan,
        rows: RowWeights,
        group: &Group,
        u: usize,
        at: usize,
    ) {
        let mut values = [[0.0f32; LANES]; COUNT];
        for (v, values) in values.iter_mut().enumerate() {
            let coefficients = &group.coefficients[usize::from(plan.storage_of_frequency[v][u])];
            let quantization = plan.quantization[v][u];
            for lane in 0..LANES {
                values[lane] = f32::from(coefficients[lane]) * quantization;
            }
        }
        let weights = &plan.weights;
        let mut row = rows.first;
        for row_weights in rows.weights {
            let at = row * weights.row_len() + at;
            let lanes: &mut [f32] = &mut self.open[at..at + LANES];
            let lanes: &mut [f32; LANES] = lanes.try_into().expect("its length");
            let mut sums = *lanes;
            for (values, weight) in values.iter().zip(row_weights) {
                for lane in 0..LANES {
                    sums[lane] += weight * values[lane];
                }
            }
            *lanes = sums;
            row += 1;
            if row == weights.open_rows {
                row = 0;
            }
        }
    }

    /// Resamples the next [`ROWS`] rows, to which nothing more is added, horizontally, and makes
    /// room for others.
    #[inline(always)]
    fn finish_rows(&mut self, weights: &ResampleWeights) {
        let row_len = weights.row_len();
        let at = self.finished % weights.open_rows * row_len;
        let rows = &mut self.open[at..at + ROWS * row_len];
        for u in 0..weights.frequencies {
            let sums: [&[f32]; ROWS] = std::array::from_fn(|row| {
                &rows[row * row_len + u * weights.stride..][weights.blocks.clone()]
            });
            let transposed = self.transposed[u..].iter_mut().step_by(weights.frequencies);
            for (block, transposed) in transposed.enumerate() {
                for row in 0..ROWS {
                    transposed[row] = sums[row][block];
                }
            }
        }
        rows.fill(0.0);
        let width = weights.width();
        let samples = &mut self.samples[self.finished / ROWS * width..][..width];
        for (column, sample) in samples.iter_mut().enumerate() {
            let column_weights = weights.columns.get(column);
            // Two sums that do not wait for each other.
            let (mut even, mut odd) = ([0.0f32; ROWS], [0.0f32; ROWS]);
            let first = weights.first_blocks[column] * weights.frequencies;
            let values = &self.transposed[first..][..column_weights.len()];
            for (weights, values) in column_weights.chunks(2).zip(values.chunks(2)) {
                for row in 0..ROWS {
                    even[row] += weights[0] * values[0][row];
                }
                if let (Some(weight), Some(values)) = (weights.get(1), values.get(1)) {
                    for row in 0..ROWS {
                        odd[row] += weight * values[row];
                    }
                }
            }
            for row in 0..ROWS {
                sample[row] = even[row] + odd[row];
            }
        }
        self.finished += ROWS;
    }
}

multiversioned! {
    /// Adds a block row to the rows of the result that it has a weight in.
    pub fn add(
        sums: &mut Sums,
        plan: &Plan,
        block_row: usize,
        groups: &[Group],
    ) = Sums::add_inlined;
}

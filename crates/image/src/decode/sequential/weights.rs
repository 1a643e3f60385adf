//! The weights with which one component's coefficients are summed into the result.

use super::axis::{Axis, SIDE};
use super::group::LANES;
use super::lists::Lists;
use std::ops::Range;

/// Rows of the result that are resampled horizontally together.
pub(super) const ROWS: usize = 8;

/// The weights of one component, vertical ones by block row and horizontal ones by sample.
#[derive(Default)]
pub(super) struct ResampleWeights {
    /// By block row: the first row of the result that it adds to.
    pub first_rows: Vec<usize>,
    /// By block row: by row of the result from there on, and vertical frequency.
    pub rows: Lists<[f32; SIDE]>,
    /// By row of the result: the last block row that adds to it.
    pub last_block_rows: Vec<usize>,
    /// Rows of the result that may be begun and not finished at one time, and some more: a multiple
    /// of [`ROWS`].
    pub open_rows: usize,
    /// By sample in a row of the result: the first of the blocks that add to it, counted from
    /// `blocks`.
    pub first_blocks: Vec<usize>,
    /// By sample in a row of the result: by block from there on, and horizontal frequency.
    pub columns: Lists<f32>,
    /// The blocks of a block row that add to the result.
    pub blocks: Range<usize>,
    /// Horizontal frequencies that are kept.
    pub frequencies: usize,
    /// Room for the blocks of one frequency.
    pub stride: usize,
}

impl ResampleWeights {
    /// From both sides of a component of which `frequencies` horizontal frequencies are kept.
    pub(super) fn new(rows: &Axis, columns: &Axis, frequencies: usize) -> Self {
        let mut weights = ResampleWeights {
            blocks: columns.blocks(),
            frequencies,
            last_block_rows: (0..rows.first_blocks.len())
                .map(|row| rows.blocks_of(row).end - 1)
                .collect(),
            ..ResampleWeights::default()
        };
        let (mut finished, mut most_open) = (0, 0);
        for block in 0..rows.blocks().end {
            // Both the first and the last block rows of the result's rows ascend.
            let first = weights
                .last_block_rows
                .partition_point(|&last| last < block);
            let end = rows.first_blocks.partition_point(|&first| first <= block);
            let of_row = |row| rows.weights.get(row)[block - rows.first_blocks[row]];
            weights.first_rows.push(first);
            weights.rows.push((first..end).map(of_row));
            most_open = most_open.max(end.saturating_sub(finished));
            finished = weights
                .last_block_rows
                .partition_point(|&last| last <= block);
        }
        weights.open_rows = (most_open + ROWS - 1).next_multiple_of(ROWS);
        weights.stride = weights.groups().end * LANES;
        for (sample, first) in columns.first_blocks.iter().enumerate() {
            let blocks = columns.weights.get(sample).iter();
            weights.first_blocks.push(first - weights.blocks.start);
            let kept = blocks.flat_map(|block| &block[..frequencies]).copied();
            weights.columns.push(kept);
        }
        weights
    }

    /// The groups of a block row that add to the result.
    #[inline(always)]
    pub(super) fn groups(&self) -> Range<usize> {
        self.blocks.start / LANES..self.blocks.end.div_ceil(LANES)
    }

    /// Samples in a row of the result.
    #[inline(always)]
    pub(super) fn width(&self) -> usize {
        self.first_blocks.len()
    }

    /// Room for a row of the result that is not resampled horizontally yet.
    #[inline(always)]
    pub(super) fn row_len(&self) -> usize {
        self.frequencies * self.stride
    }
}

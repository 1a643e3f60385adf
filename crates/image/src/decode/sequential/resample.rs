//! From coefficients to the samples of the result, sixteen blocks side by side.
//!
//! Along the columns first: every row of blocks adds to the few rows of the result that its pixels count for, frequency by
//! frequency. A row that is whole is then resampled along itself. So pixels in between are never made.

use super::axis::{Axis, SIDE};
use super::lists::Lists;
use super::plan::Plan;
use tagstream_multiversion::wide;

/// Blocks that are worked on together.
pub(super) const LANES: usize = 16;
/// Slots for coefficients; 64 are read at most.
pub(super) const SLOTS: usize = 128;
/// Rows of the result that are resampled along themselves together.
pub(super) const ROWS: usize = 8;

/// The coefficients of blocks side by side.
#[derive(Clone)]
pub(super) struct Group {
    /// By [`Plan::slots`]; the first holds means, in [`PARTS`](super::flat::PARTS). A power of two, so that no slot needs to be checked.
    pub values: [[i16; LANES]; SLOTS],
    /// Place of the last coefficient in any of the blocks, at most [`Plan::last`].
    pub reach: usize,
    /// 1 for blocks of one value.
    pub flat: [u8; LANES],
}

impl Group {
    /// Means of 0.
    pub(super) const FLAT: Group = Group {
        reach: 0,
        ..Group::EMPTY
    };

    /// No coefficients.
    pub(super) const EMPTY: Group = Group {
        values: [[0; LANES]; SLOTS],
        reach: 63,
        flat: [0; LANES],
    };
}

/// What a row of blocks adds to.
#[derive(Clone, Copy)]
struct Reach<'a> {
    /// Place of the first row of the result.
    first: usize,
    /// By row of the result and vertical frequency.
    weights: &'a [[f32; SIDE]],
}

/// How the coefficients of one component become samples.
#[derive(Default)]
pub(super) struct Shape {
    /// By row of blocks: the first row of the result that it adds to.
    first_rows: Vec<usize>,
    /// By row of blocks: by row of the result from there on, and vertical frequency.
    row_weights: Lists<[f32; SIDE]>,
    /// By row of the result: the last row of blocks that adds to it.
    last_blocks: Vec<usize>,
    /// Rows of the result for which there is room while they are not done with, a multiple of [`ROWS`].
    open: usize,
    /// By sample in a row of the result: the first of the blocks that add to it.
    first_blocks: Vec<usize>,
    /// By sample in a row of the result: by block and horizontal frequency.
    column_weights: Lists<f32>,
    /// Blocks that count, along a row.
    blocks: std::ops::Range<usize>,
    /// Horizontal frequencies.
    frequencies: usize,
    /// Blocks for which there is room, by frequency.
    stride: usize,
}

impl Shape {
    /// From both sides of a component, of which so many horizontal frequencies are read.
    pub(super) fn new(rows: &Axis, columns: &Axis, frequencies: usize) -> Self {
        let mut shape = Shape {
            blocks: columns.blocks(),
            frequencies,
            last_blocks: (0..rows.firsts.len())
                .map(|row| rows.blocks_of(row).end - 1)
                .collect(),
            ..Shape::default()
        };
        let (mut whole, mut begun) = (0, 0);
        for block in 0..rows.blocks().end {
            // Blocks count for rows one after the other, and where rows begin and end is in their order, too.
            let first = shape.last_blocks.partition_point(|&last| last < block);
            let end = rows.firsts.partition_point(|&first| first <= block);
            let weights = |row| rows.weights.get(row)[block - rows.firsts[row]];
            shape.first_rows.push(first);
            shape.row_weights.push((first..end).map(weights));
            begun = begun.max(end.saturating_sub(whole));
            whole = shape.last_blocks.partition_point(|&last| last <= block);
        }
        shape.open = (begun + ROWS - 1).next_multiple_of(ROWS);
        shape.stride = shape.groups().end * LANES;
        for (sample, first) in columns.firsts.iter().enumerate() {
            let blocks = columns.weights.get(sample).iter();
            shape.first_blocks.push(first - shape.blocks.start);
            shape
                .column_weights
                .push(blocks.flat_map(|block| &block[..frequencies]).copied());
        }
        shape
    }

    /// Groups of blocks that count.
    fn groups(&self) -> std::ops::Range<usize> {
        self.blocks.start / LANES..self.blocks.end.div_ceil(LANES)
    }

    /// Samples in a row of the result.
    fn width(&self) -> usize {
        self.first_blocks.len()
    }

    fn row_len(&self) -> usize {
        self.frequencies * self.stride
    }
}

/// One component of the result as far as it is there.
#[derive(Default)]
pub(super) struct Sums {
    /// The rows that are begun: by horizontal frequency and block. A row's place is its number modulo [`Shape::open`].
    open: Vec<f32>,
    /// Rows that are done with.
    done: usize,
    /// Of rows that are resampled together: by block and horizontal frequency.
    turned: Vec<[f32; ROWS]>,
    /// By [`ROWS`] of the result and column.
    pub samples: Vec<[f32; ROWS]>,
}

impl Sums {
    /// Nothing yet.
    pub(super) fn clear(&mut self, shape: &Shape) {
        self.open.clear();
        self.open.resize(shape.open * shape.row_len(), 0.0);
        self.done = 0;
        self.turned.clear();
        self.turned
            .resize(shape.blocks.len() * shape.frequencies, [0.0; ROWS]);
        self.samples.clear();
        let rows = shape.last_blocks.len().div_ceil(ROWS);
        self.samples.resize(rows * shape.width(), [0.0; ROWS]);
    }

    /// What this holds, bytes.
    pub(super) fn bytes(&self) -> usize {
        4 * (self.open.len() + ROWS * (self.turned.len() + self.samples.len()))
    }

    #[inline(always)]
    fn add_inlined(&mut self, plan: &Plan, block_row: usize, groups: &[Group]) {
        let shape = &plan.shape;
        let weights = shape.row_weights.get(block_row);
        let Some(first_row) = shape.first_rows.get(block_row) else {
            return;
        };
        let reach = Reach {
            first: first_row % shape.open,
            weights,
        };
        for (index, group) in shape.groups().zip(&groups[shape.groups()]) {
            let extent = plan.extents[group.reach];
            for u in 0..extent.across {
                let at = u * shape.stride + index * LANES;
                match plan.heights[u].min(extent.down) {
                    0 => {}
                    1 => self.add_frequency::<1>(plan, reach, group, u, at),
                    2 => self.add_frequency::<2>(plan, reach, group, u, at),
                    3 => self.add_frequency::<3>(plan, reach, group, u, at),
                    4 => self.add_frequency::<4>(plan, reach, group, u, at),
                    5 => self.add_frequency::<5>(plan, reach, group, u, at),
                    6 => self.add_frequency::<6>(plan, reach, group, u, at),
                    7 => self.add_frequency::<7>(plan, reach, group, u, at),
                    _ => self.add_frequency::<8>(plan, reach, group, u, at),
                }
            }
        }
        while self.done < shape.last_blocks.len() {
            let last = (self.done + ROWS).min(shape.last_blocks.len()) - 1;
            if shape.last_blocks[last] > block_row {
                break;
            }
            self.finish_rows(shape);
        }
    }

    /// Adds the first `COUNT` vertical frequencies of one horizontal frequency.
    #[inline(always)]
    fn add_frequency<const COUNT: usize>(
        &mut self,
        plan: &Plan,
        reach: Reach,
        group: &Group,
        u: usize,
        at: usize,
    ) {
        let mut values = [[0.0f32; LANES]; COUNT];
        for (v, values) in values.iter_mut().enumerate() {
            let coefficients = &group.values[usize::from(plan.slot_of[v][u])];
            let step = plan.steps[v][u];
            for lane in 0..LANES {
                values[lane] = f32::from(coefficients[lane]) * step;
            }
        }
        let shape = &plan.shape;
        let mut row = reach.first;
        for weights in reach.weights {
            let at = row * shape.row_len() + at;
            let place: &mut [f32] = &mut self.open[at..at + LANES];
            let place: &mut [f32; LANES] = place.try_into().expect("its length");
            let mut sums = *place;
            for (values, weight) in values.iter().zip(weights) {
                for lane in 0..LANES {
                    sums[lane] += weight * values[lane];
                }
            }
            *place = sums;
            row += 1;
            if row == shape.open {
                row = 0;
            }
        }
    }

    /// Resamples the next rows, which are whole, along themselves, and makes room for others.
    #[inline(always)]
    fn finish_rows(&mut self, shape: &Shape) {
        let row_len = shape.row_len();
        let at = self.done % shape.open * row_len;
        let rows = &mut self.open[at..at + ROWS * row_len];
        for u in 0..shape.frequencies {
            let sums: [&[f32]; ROWS] = std::array::from_fn(|row| {
                &rows[row * row_len + u * shape.stride..][shape.blocks.clone()]
            });
            let places = self.turned[u..].iter_mut().step_by(shape.frequencies);
            for (block, place) in places.enumerate() {
                for row in 0..ROWS {
                    place[row] = sums[row][block];
                }
            }
        }
        rows.fill(0.0);
        let width = shape.width();
        let samples = &mut self.samples[self.done / ROWS * width..][..width];
        for (column, sample) in samples.iter_mut().enumerate() {
            let weights = shape.column_weights.get(column);
            let (mut even, mut odd) = ([0.0f32; ROWS], [0.0f32; ROWS]);
            let first = shape.first_blocks[column] * shape.frequencies;
            let values = &self.turned[first..][..weights.len()];
            for (weights, values) in weights.chunks(2).zip(values.chunks(2)) {
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
        self.done += ROWS;
    }
}

wide! {
    /// Adds a row of blocks to the rows of the result that it counts for.
    pub fn add(sums: &mut Sums, plan: &Plan, block_row: usize, groups: &[Group]) = Sums::add_inlined;
}

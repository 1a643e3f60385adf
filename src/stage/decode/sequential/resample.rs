//! From coefficients to the samples of the result, sixteen blocks side by side.
//!
//! Along the columns first: every row of blocks adds to the few rows of the result that its pixels count for, frequency by
//! frequency. A row that is whole is then resampled along itself. So pixels in between are never made.

use super::{
    axis::{Axis, SIDE},
    plan::Plan,
};

/// Blocks that are worked on together.
pub const LANES: usize = 16;
/// Slots for coefficients; 64 are read at most.
pub const SLOTS: usize = 128;
/// Rows of the result that are resampled along themselves together.
pub const ROWS: usize = 8;

/// The coefficients of blocks side by side.
#[derive(Clone)]
pub struct Group {
    /// By [`Plan::slots`]; the first holds means, in [`PARTS`](super::flat::PARTS). A power of two, so that no slot needs to be checked.
    pub values: [[i16; LANES]; SLOTS],
    /// Place of the last coefficient in any of the blocks, at most [`Plan::last`].
    pub reach: usize,
    /// 1 for blocks of one value.
    pub flat: [u8; LANES],
}

impl Group {
    /// Means of 0.
    pub const FLAT: Group = Group {
        reach: 0,
        ..Group::EMPTY
    };

    /// No coefficients.
    pub const EMPTY: Group = Group {
        values: [[0; LANES]; SLOTS],
        reach: 63,
        flat: [0; LANES],
    };
}

/// What a row of blocks adds to: rows of the result, the first of which is `first`.
#[derive(Default, Clone)]
struct Reach {
    first: usize,
    /// By row of the result and vertical frequency.
    weights: Vec<[f32; SIDE]>,
}

/// What is added up for a sample in a row of the result.
struct Column {
    /// The first of the blocks.
    first: usize,
    /// By block and horizontal frequency.
    weights: Vec<f32>,
}

/// How the coefficients of one component become samples.
#[derive(Default)]
pub struct Shape {
    /// By row of blocks.
    reaches: Vec<Reach>,
    /// By row of the result: the last row of blocks that adds to it.
    last_blocks: Vec<usize>,
    /// Rows of the result for which there is room while they are not done with, a multiple of [`ROWS`].
    open: usize,
    columns: Vec<Column>,
    /// Blocks that count, along a row.
    blocks: std::ops::Range<usize>,
    /// Horizontal frequencies.
    frequencies: usize,
    /// Blocks for which there is room, by frequency.
    stride: usize,
}

impl Shape {
    /// From both sides of a component, of which so many horizontal frequencies are read.
    pub fn new(rows: &Axis, columns: &Axis, frequencies: usize) -> Self {
        let mut shape = Shape {
            reaches: vec![Reach::default(); rows.blocks().end],
            blocks: columns.blocks(),
            frequencies,
            ..Shape::default()
        };
        for (row, sample) in rows.samples.iter().enumerate() {
            for (reach, &weights) in shape.reaches[sample.first..]
                .iter_mut()
                .zip(&sample.weights)
            {
                if reach.weights.is_empty() {
                    reach.first = row;
                }
                reach.weights.push(weights);
            }
            let last = sample.first + sample.weights.len() - 1;
            shape.last_blocks.push(last);
        }
        let (mut whole, mut begun) = (0, 0);
        for (block, reach) in shape.reaches.iter().enumerate() {
            begun = begun.max((reach.first + reach.weights.len()).saturating_sub(whole));
            while shape
                .last_blocks
                .get(whole)
                .is_some_and(|&last| last <= block)
            {
                whole += 1;
            }
        }
        shape.open = (begun + ROWS - 1).next_multiple_of(ROWS);
        shape.stride = shape.groups().end * LANES;
        shape.columns = columns
            .samples
            .iter()
            .map(|sample| Column {
                first: sample.first - shape.blocks.start,
                weights: sample
                    .weights
                    .iter()
                    .flat_map(|block| &block[..frequencies])
                    .copied()
                    .collect(),
            })
            .collect();
        shape
    }

    /// Groups of blocks that count.
    fn groups(&self) -> std::ops::Range<usize> {
        self.blocks.start / LANES..self.blocks.end.div_ceil(LANES)
    }

    fn row_len(&self) -> usize {
        self.frequencies * self.stride
    }
}

/// One component of the result as far as it is there.
#[derive(Default)]
pub struct Sums {
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
    pub fn clear(&mut self, shape: &Shape) {
        self.open.clear();
        self.open.resize(shape.open * shape.row_len(), 0.0);
        self.done = 0;
        self.turned.clear();
        self.turned
            .resize(shape.blocks.len() * shape.frequencies, [0.0; ROWS]);
        self.samples.clear();
        let rows = shape.last_blocks.len().div_ceil(ROWS);
        self.samples.resize(rows * shape.columns.len(), [0.0; ROWS]);
    }

    /// What this holds, bytes.
    pub fn bytes(&self) -> usize {
        4 * (self.open.len() + ROWS * (self.turned.len() + self.samples.len()))
    }

    #[inline(always)]
    fn add_inlined(&mut self, plan: &Plan, block_row: usize, groups: &[Group]) {
        let shape = &plan.shape;
        let Some(reach) = shape.reaches.get(block_row) else {
            return;
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
        reach: &Reach,
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
        let mut row = reach.first % shape.open;
        for weights in &reach.weights {
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
        let width = shape.columns.len();
        let samples = &mut self.samples[self.done / ROWS * width..][..width];
        for (sample, column) in samples.iter_mut().zip(&shape.columns) {
            let (mut even, mut odd) = ([0.0f32; ROWS], [0.0f32; ROWS]);
            let values = &self.turned[column.first * shape.frequencies..][..column.weights.len()];
            for (weights, values) in column.weights.chunks(2).zip(values.chunks(2)) {
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

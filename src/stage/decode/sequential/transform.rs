//! From coefficients to samples: the inverse cosine transform at any number of points, sixteen blocks side by side.

use super::frame::{Component, Frame};

/// Blocks transformed together.
pub const LANES: usize = 16;
/// Where coefficients are put that nobody reads.
const UNREAD: u8 = 64;
/// Largest sample, as a number that is compared with.
const WHITE: f32 = 255.0;

/// One number of each block.
type Lanes = [f32; LANES];
/// The coefficients of blocks side by side.
#[derive(Clone)]
pub struct Group {
    /// By [`Plan::slots`].
    pub values: [[i16; LANES]; 65],
    /// Place of the last coefficient in any of the blocks, at most [`Plan::last`].
    pub reach: usize,
}

impl Group {
    /// No coefficients.
    pub const EMPTY: Group = Group {
        values: [[0; LANES]; 65],
        reach: 63,
    };
}

/// What coefficients up to some place can be.
#[derive(Clone, Copy, Default)]
pub struct Extent {
    /// Slots they are in.
    pub slots: usize,
    /// Horizontal frequencies.
    across: usize,
    /// Vertical frequencies.
    down: usize,
}

/// How one component is read and transformed.
pub struct Plan {
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
    /// By vertical and horizontal frequency: the slot, and what is in it is multiplied with.
    slot_of: [[u8; 8]; 8],
    steps: [[f32; 8]; 8],
    vertical: Axis,
    horizontal: Axis,
}

/// The transform along one side.
struct Axis {
    /// Samples.
    points: usize,
    /// Coefficients; more than 8 points have no more than 8.
    frequencies: usize,
    /// By point and frequency.
    cosines: [[f32; 8]; 16],
    /// By frequency: what coefficients are damped by.
    damping: [f32; 8],
}

impl Axis {
    /// Frequencies that do not fit the points are left out, not folded over: the picture is shrunk further on.
    ///
    /// Other readers interpolate subsampled chroma linearly (three quarters of the nearer sample and one of the farther), which
    /// damps its higher frequencies; so does this one.
    fn new(points: usize, subsampled: bool) -> Self {
        let frequencies = points.min(8);
        let mut cosines = [[0.0; 8]; 16];
        for (x, row) in cosines.iter_mut().enumerate().take(points) {
            for (u, cosine) in row.iter_mut().enumerate().take(frequencies) {
                let angle = ((2 * x + 1) * u) as f64 * std::f64::consts::PI / (2 * points) as f64;
                let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
                *cosine = (angle.cos() * scale / 2.0) as f32;
            }
        }
        let mut damping = [1.0; 8];
        if subsampled {
            for (u, damping) in damping.iter_mut().enumerate() {
                let quarter = u as f64 * std::f64::consts::PI / 32.0;
                *damping = (0.75 * quarter.cos() + 0.25 * (3.0 * quarter).cos()) as f32;
            }
        }
        Axis {
            points,
            frequencies,
            cosines,
            damping,
        }
    }
}

impl Plan {
    /// For a component of a frame, whose quantisers must be there.
    pub fn new(frame: &Frame, component: &Component, eighths: usize) -> Self {
        let horizontal = Axis::new(
            eighths * frame.widest / component.across,
            component.across < frame.widest,
        );
        let vertical = Axis::new(
            eighths * frame.tallest / component.down,
            component.down < frame.tallest,
        );
        let quantisers = frame.quantisers[component.quantisers].unwrap_or([1; 64]);
        let mut plan = Plan {
            across: component.across,
            down: component.down,
            dc: component.dc,
            ac: component.ac,
            slots: [UNREAD; 512],
            last: 0,
            extents: [Extent::default(); 64],
            slot_of: [[UNREAD; 8]; 8],
            steps: [[0.0; 8]; 8],
            vertical,
            horizontal,
        };
        let mut extent = Extent::default();
        for (place, (u, v)) in zigzag().enumerate() {
            if u < plan.horizontal.frequencies && v < plan.vertical.frequencies {
                plan.slots[place] = extent.slots as u8;
                plan.slot_of[v][u] = extent.slots as u8;
                plan.steps[v][u] = f32::from(quantisers[place])
                    * plan.horizontal.damping[u]
                    * plan.vertical.damping[v];
                plan.last = place;
                extent.slots += 1;
                extent.across = extent.across.max(u + 1);
                extent.down = extent.down.max(v + 1);
            }
            plan.extents[place] = extent;
        }
        plan
    }

    /// Rows of samples a row of units has.
    fn rows(&self) -> usize {
        self.down * self.vertical.points
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

/// Samples of one component in a row of units.
#[derive(Default)]
pub struct Plane {
    samples: Vec<u8>,
    stride: usize,
}

impl Plane {
    /// Makes room for so many units.
    pub fn shape(&mut self, plan: &Plan, units: usize) {
        let groups = (units * plan.across).div_ceil(LANES);
        // The last samples of a block are written with up to 16 bytes at once.
        self.stride = groups * LANES * plan.horizontal.points + 16;
        self.samples.clear();
        self.samples.resize(self.stride * plan.rows(), 0);
    }

    /// A row of samples, longer than the picture is wide.
    #[inline(always)]
    pub fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.stride]
    }
}

/// Calls a function that is compiled for each number of points.
macro_rules! by_points {
    ($points:expr, $function:ident($($argument:expr),*)) => {
        by_points!(@ $points, $function($($argument),*), 1 2 3 4 5 6 7 8 10 12 14 16)
    };
    (@ $points:expr, $function:ident $arguments:tt, $($n:literal)*) => {
        match $points {
            $($n => by_points!(@call $function, $n, $arguments),)*
            other => unreachable!("{other} points: blocks have 1 to 8, twice as many if subsampled"),
        }
    };
    (@call $function:ident, $n:literal, ($($argument:expr),*)) => { $function::<$n>($($argument),*) };
}

wide! {
    /// Transforms the groups of a row of units: so many for each of its rows of blocks.
    pub fn strip(plan: &Plan, groups: &[Group], plane: &mut Plane) = strip_inlined;
}

#[inline(always)]
fn strip_inlined(plan: &Plan, groups: &[Group], plane: &mut Plane) {
    let per_row = groups.len() / plan.down;
    let (rows, columns) = (plan.vertical.points, plan.horizontal.points);
    let mut half = [[[0.0; LANES]; 8]; 16];
    for (down, groups) in groups.chunks_exact(per_row).enumerate() {
        for (across, group) in groups.iter().enumerate() {
            let at = down * rows * plane.stride + across * LANES * columns;
            let extent = plan.extents[group.reach];
            by_points!(rows, vertical(plan, extent, group, &mut half));
            by_points!(
                columns,
                horizontal(plan, extent, &half, &mut plane.samples[at..], plane.stride)
            );
        }
    }
}

/// Columns of coefficients to columns of `POINTS` samples.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // One column of all rows.
fn vertical<const POINTS: usize>(
    plan: &Plan,
    extent: Extent,
    group: &Group,
    half: &mut [[Lanes; 8]; 16],
) {
    for u in 0..extent.across {
        let mut column = [[0.0; LANES]; 8];
        for (v, values) in column.iter_mut().enumerate().take(extent.down) {
            let step = plan.steps[v][u];
            let coefficients = &group.values[usize::from(plan.slot_of[v][u])];
            for (value, &coefficient) in values.iter_mut().zip(coefficients) {
                *value = f32::from(coefficient) * step;
            }
        }
        if u == 0 {
            // Samples are stored less 128, which is 8 times that in the first coefficient.
            for value in &mut column[0] {
                *value += 1024.0;
            }
        }
        let cosines = &plan.vertical.cosines;
        points::<POINTS>(
            &column,
            extent.down,
            cosines,
            #[inline(always)]
            |y, values| half[y][u] = values,
        );
    }
}

/// Rows of coefficients to rows of `POINTS` samples.
#[inline(always)]
fn horizontal<const POINTS: usize>(
    plan: &Plan,
    extent: Extent,
    half: &[[Lanes; 8]; 16],
    samples: &mut [u8],
    stride: usize,
) {
    for y in 0..plan.vertical.points {
        // The samples of a block, four to a word.
        let mut words = [[0u32; LANES]; 4];
        points::<POINTS>(
            &half[y],
            extent.across,
            &plan.horizontal.cosines,
            #[inline(always)]
            |x, values| {
                let word = &mut words[x / 4];
                for lane in 0..LANES {
                    word[lane] |= rounded(values[lane]) << (8 * (x % 4));
                }
            },
        );
        let row = &mut samples[y * stride..][..LANES * POINTS + 16];
        for lane in 0..LANES {
            for (n, word) in words.iter().enumerate().take(POINTS.div_ceil(4)) {
                let at = lane * POINTS + 4 * n;
                row[at..at + 4].copy_from_slice(&word[lane].to_le_bytes());
            }
        }
    }
}

/// Cosine sums; what points on both sides of the middle have in common is computed once.
#[inline(always)]
fn points<const POINTS: usize>(
    input: &[Lanes; 8],
    frequencies: usize,
    cosines: &[[f32; 8]; 16],
    mut output: impl FnMut(usize, Lanes),
) {
    for x in 0..POINTS.div_ceil(2) {
        let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
        let pairs = input[..frequencies].chunks(2).zip(cosines[x].chunks(2));
        for (input, cosines) in pairs {
            for lane in 0..LANES {
                even[lane] += input[0][lane] * cosines[0];
            }
            if let Some(input) = input.get(1) {
                for lane in 0..LANES {
                    odd[lane] += input[lane] * cosines[1];
                }
            }
        }
        let (mut here, mut opposite) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            here[lane] = even[lane] + odd[lane];
            opposite[lane] = even[lane] - odd[lane];
        }
        output(x, here);
        if x != POINTS - 1 - x {
            output(POINTS - 1 - x, opposite);
        }
    }
}

/// The nearest sample.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let value = if value > 0.0 { value } else { 0.0 };
    let value = if value < WHITE { value } else { WHITE };
    // Adding 2^23 leaves the integer in the lowest bits.
    (value + 8_388_608.0).to_bits() & 255
}

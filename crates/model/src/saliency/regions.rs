//! The regions that a category's evidence lies in.
//!
//! A saliency map is a softmax over locations, so its logarithm is the evidence itself, up to a
//! constant: a location of half the peak's evidence has a small part of its share. The logarithm is
//! enlarged bilinearly, what lies above the middle between its median and its peak is cut into
//! connected parts, and the parts that come near the peak are the regions.

use std::ops::Range;
use tagstream_core::events::BoundingBox;

/// How many cells a location becomes each way.
const FINER: usize = 8;
/// Where between the map's median (0) and its peak (1) a region ends.
const EDGE: f32 = 0.5;
/// A further region's peak reaches at least so far between median and peak.
const FURTHER: f32 = 0.75;
/// The least contrast, in natural logarithms: a region's best location weighs at least so many
/// times (e) what the median one does.
const LEAST_CONTRAST: f32 = 1.0;
/// The peak is at least so many standard deviations above the mean: less is no place.
const LEAST_DEVIATIONS: f32 = 1.5;
/// Grids of fewer rows or columns are too coarse to say where something is.
const LEAST_SIDE: usize = 4;
/// Regions beyond so many are left out.
const MOST: usize = 16;
/// Shares below are taken as this one: a softmax of 32-bit numbers ends near there.
const LEAST_SHARE: f32 = 1e-12;

/// A connected part of a map where the evidence is high.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// Its peak between the map's median (0) and the map's peak (1).
    pub strength: f32,
    /// The box around it, in fractions of what the map covers.
    pub bounding_box: BoundingBox,
    /// Which cells of the box belong to it.
    pub mask: RegionMask,
}

/// The cells of a box that belong to its region, as lengths of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionMask {
    /// Cells in a row of the box.
    pub columns: u32,
    /// Lengths of runs, row by row: of cells outside (it may be 0), then inside, and so on in turn.
    pub runs: Vec<u32>,
}

/// The regions of `map` (`[rows, columns]`, row-major), the strongest first; none where the map
/// does not say where something is: its grid is too coarse, it is even or a mere slope, or not
/// finite.
pub fn regions(map: &[f32], columns: usize) -> Vec<Region> {
    Relief::of(map, columns).map_or_else(Vec::new, |relief| relief.regions())
}

/// Whether a grid of so many locations in so many columns cannot say where something is.
pub fn too_coarse(locations: usize, columns: usize) -> bool {
    columns < LEAST_SIDE || locations / columns < LEAST_SIDE
}

/// What a map of evidence looks like once it is enlarged.
struct Relief {
    cells: Vec<f32>,
    columns: usize,
    median: f32,
    peak: f32,
}

impl Relief {
    /// `None` where [`regions`] finds none.
    fn of(map: &[f32], columns: usize) -> Option<Relief> {
        let rows = map.len().checked_div(columns)?;
        let sound = map.iter().all(|share| share.is_finite() && *share >= 0.0);
        if rows * columns != map.len() || too_coarse(map.len(), columns) || !sound {
            return None;
        }
        let logs: Vec<f32> = map
            .iter()
            .map(|share| share.max(LEAST_SHARE).ln())
            .collect();
        if !stands_out(&logs) {
            return None;
        }
        let cells = enlarged(&logs, columns);
        let mut sorted = cells.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let middle = sorted.len() / 2;
        let median = f32::midpoint(sorted[middle - 1], sorted[middle]);
        let peak = *sorted.last()?;
        (peak - median >= LEAST_CONTRAST).then_some(Relief {
            cells,
            columns: columns * FINER,
            median,
            peak,
        })
    }

    /// Its regions, the strongest first.
    fn regions(&self) -> Vec<Region> {
        let span = self.peak - self.median;
        let level = self.median + EDGE * span;
        let mut seen = vec![false; self.cells.len()];
        let mut found = Vec::new();
        for start in 0..self.cells.len() {
            if seen[start] || self.cells[start] < level {
                continue;
            }
            let part = self.connected(start, level, &mut seen);
            let highest = part.iter().map(|at| self.cells[*at]).fold(level, f32::max);
            let strength = (highest - self.median) / span;
            if strength >= FURTHER {
                found.push(self.region(strength, part));
            }
        }
        found.sort_by(|a, b| b.strength.total_cmp(&a.strength));
        found.truncate(MOST);
        found
    }

    /// The cells that hang together with `start` by their edges at `level` or above.
    fn connected(&self, start: usize, level: f32, seen: &mut [bool]) -> Vec<usize> {
        let (columns, rows) = (self.columns, self.cells.len() / self.columns);
        let mut part = vec![start];
        seen[start] = true;
        let mut next = 0;
        while let Some(&at) = part.get(next) {
            next += 1;
            let (row, column) = (at / columns, at % columns);
            let neighbours = [
                (row > 0).then(|| at - columns),
                (row + 1 < rows).then(|| at + columns),
                (column > 0).then(|| at - 1),
                (column + 1 < columns).then(|| at + 1),
            ];
            for beside in neighbours.into_iter().flatten() {
                if !seen[beside] && self.cells[beside] >= level {
                    seen[beside] = true;
                    part.push(beside);
                }
            }
        }
        part
    }

    fn region(&self, strength: f32, mut part: Vec<usize>) -> Region {
        part.sort_unstable();
        let (columns, rows) = (self.columns, self.cells.len() / self.columns);
        let across = extent(part.iter().map(|at| at % columns));
        let down = extent(part.iter().map(|at| at / columns));
        let share = |cells: usize, all: usize| cells as f32 / all as f32;
        Region {
            strength,
            bounding_box: BoundingBox {
                x: share(across.start, columns),
                y: share(down.start, rows),
                w: share(across.len(), columns),
                h: share(down.len(), rows),
            },
            mask: mask(&part, columns, &across, &down),
        }
    }
}

/// Whether the highest of the logarithms is far enough above their mean.
fn stands_out(logs: &[f32]) -> bool {
    let count = logs.len() as f32;
    let mean = logs.iter().sum::<f32>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f32>() / count;
    let peak = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    peak - mean >= LEAST_DEVIATIONS * variance.sqrt()
}

/// From the least value to behind the greatest; empty without any.
fn extent(mut values: impl Iterator<Item = usize>) -> Range<usize> {
    let first = values.next().map_or(0..0, |value| value..value + 1);
    values.fold(first, |range, value| {
        range.start.min(value)..range.end.max(value + 1)
    })
}

/// The runs of the sorted cells `part` in the box of `across` and `down`.
fn mask(part: &[usize], columns: usize, across: &Range<usize>, down: &Range<usize>) -> RegionMask {
    let (mut runs, mut reached, mut inside) = (Vec::new(), 0, 0);
    for cell in part {
        let (row, column) = (cell / columns - down.start, cell % columns - across.start);
        let at = row * across.len() + column;
        if at > reached || runs.is_empty() {
            if !runs.is_empty() {
                runs.push(inside);
            }
            runs.push((at - reached) as u32);
            inside = 0;
        }
        inside += 1;
        reached = at + 1;
    }
    runs.push(inside);
    let rest = across.len() * down.len() - reached;
    if rest > 0 {
        runs.push(rest as u32);
    }
    RegionMask {
        columns: across.len() as u32,
        runs,
    }
}

/// `map`, [`FINER`] times as many cells each way: bilinear between the centres of locations, even
/// beyond the outermost.
fn enlarged(map: &[f32], columns: usize) -> Vec<f32> {
    let rows = map.len() / columns;
    let (down, across) = (neighbours(rows), neighbours(columns));
    let mut cells = Vec::with_capacity(map.len() * FINER * FINER);
    for &(above, below, lower) in &down {
        for &(left, right, share) in &across {
            let at = |row: usize| {
                map[row * columns + left] * (1.0 - share) + map[row * columns + right] * share
            };
            cells.push(at(above) * (1.0 - lower) + at(below) * lower);
        }
    }
    cells
}

/// For each cell of a side of `count` locations: the locations on both sides of it, and the share
/// of the second.
fn neighbours(count: usize) -> Vec<(usize, usize, f32)> {
    (0..count * FINER)
        .map(|cell| {
            let place = (cell as f32 + 0.5) / FINER as f32 - 0.5;
            let before = place.floor();
            let within = |place: f32| (place.max(0.0) as usize).min(count - 1);
            (within(before), within(before + 1.0), place - before)
        })
        .collect()
}

#[cfg(test)]
mod tests;

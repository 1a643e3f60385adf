//! Rotary positions: queries and keys are turned, pair by pair, by angles that grow with the place
//! (EVA-02, PE-Core).

use super::{TowerError, TowerGraph};
use crate::onnx::Value;

/// How places become angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Places a side of the grid that the tower was trained on; others are stretched to it.
    pub reference: f32,
    /// The first place's number.
    pub offset: f32,
    /// Whether a head's first half belongs to columns (PE-Core) or rows (EVA-02).
    pub columns_first: bool,
}

/// The slowest pair turns once in about this many places.
const TEMPERATURE: f64 = 10_000.0;

/// The tables of a graph.
pub(super) struct Rotation {
    /// `[T, W / heads]`.
    cosine: Value,
    sine: Value,
    /// Puts `(-b, a)` in the place of a pair `(a, b)`, as a matrix.
    quarter: Value,
}

impl Rotation {
    /// Writes the tables for `grid` places a side behind `first` tokens that have none.
    pub(super) fn write(
        graph: &mut TowerGraph,
        rotary: Rotary,
        (grid, first): (usize, usize),
        width: usize,
    ) -> Result<Self, TowerError> {
        if !width.is_multiple_of(4) || width == 0 {
            let reason = format!("rotary positions on heads of {width} numbers");
            return Err(TowerError::Sizes(reason));
        }
        let bands = width / 4;
        let place = |at: usize| {
            (at as f64 + f64::from(rotary.offset)) / grid as f64 * f64::from(rotary.reference)
        };
        // Tokens without a place are not turned.
        let mut cosine = vec![1.0f32; first * width];
        let mut sine = vec![0.0f32; first * width];
        for row in 0..grid {
            for column in 0..grid {
                let axes = match rotary.columns_first {
                    true => [column, row],
                    false => [row, column],
                };
                for axis in axes {
                    for band in 0..bands {
                        let slower = TEMPERATURE.powf(band as f64 / bands as f64);
                        let (s, c) = (place(axis) / slower).sin_cos();
                        cosine.extend([c as f32; 2]);
                        sine.extend([s as f32; 2]);
                    }
                }
            }
        }
        let mut quarter = vec![0.0f32; width * width];
        for pair in (0..width).step_by(2) {
            quarter[(pair + 1) * width + pair] = -1.0;
            quarter[pair * width + pair + 1] = 1.0;
        }
        let rows = first + grid * grid;
        Ok(Self {
            cosine: graph.weight("rotation.cosine", &[rows, width], &cosine),
            sine: graph.weight("rotation.sine", &[rows, width], &sine),
            quarter: graph.weight("rotation.quarter", &[width, width], &quarter),
        })
    }

    /// `x` of `[B, heads, T, W / heads]`, turned.
    pub(super) fn turn(&self, graph: &mut TowerGraph, x: &Value) -> Value {
        let kept = graph.g.mul(x, &self.cosine);
        let across = graph.g.matmul(x, &self.quarter);
        let across = graph.g.mul(&across, &self.sine);
        graph.g.add(&kept, &across)
    }
}

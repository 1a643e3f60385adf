//! Positional embeddings on another grid.

/// How a grid is resampled. The libraries whose weights we read do it differently, and each tower
/// is checked against its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// Cubic convolution with a = -0.75, no antialiasing (Hugging Face; DualCoOp's ModifiedResNet).
    Plain,
    /// Cubic convolution with a = -0.5, its support growing with the reduction (OpenCLIP's vision
    /// transformers).
    Antialiased,
}

/// Resamples `embedding` (`[rows * columns, width]`) from one grid (rows, columns) to another, rows
/// and columns apart, in 64 bit. The same grid gives the same numbers.
pub fn resample_grid(
    embedding: &[f32],
    width: usize,
    from: (usize, usize),
    to: (usize, usize),
    resampling: Resampling,
) -> Vec<f32> {
    assert_eq!(embedding.len(), from.0 * from.1 * width);
    if from == to {
        return embedding.to_vec();
    }
    let (rows, columns) = (
        taps(from.0, to.0, resampling),
        taps(from.1, to.1, resampling),
    );
    let mut out = Vec::with_capacity(to.0 * to.1 * width);
    for row in &rows {
        for column in &columns {
            let mut sum = vec![0.0f64; width];
            for &(y, wy) in row {
                for &(x, wx) in column {
                    let start = (y * from.1 + x) * width;
                    for (s, e) in sum.iter_mut().zip(&embedding[start..start + width]) {
                        *s += wy * wx * f64::from(*e);
                    }
                }
            }
            out.extend(sum.iter().map(|&x| x as f32));
        }
    }
    out
}

/// For each of the `to` places, the source places it is made from and their weights.
fn taps(from: usize, to: usize, resampling: Resampling) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    let last = from - 1;
    (0..to)
        .map(|i| match resampling {
            Resampling::Plain => {
                let center = (i as f64 + 0.5) * scale - 0.5;
                let base = center.floor();
                (-1..=2)
                    .map(|k| {
                        let place = base + f64::from(k);
                        let index = place.clamp(0.0, last as f64) as usize;
                        (index, cubic(center - place, -0.75))
                    })
                    .collect()
            }
            Resampling::Antialiased => {
                let stretch = scale.max(1.0);
                let (center, support) = ((i as f64 + 0.5) * scale, 2.0 * stretch);
                let first = (center - support + 0.5).max(0.0) as usize;
                let end = ((center + support + 0.5) as usize).min(from);
                let weights: Vec<f64> = (first..end)
                    .map(|j| cubic((j as f64 + 0.5 - center) / stretch, -0.5))
                    .collect();
                let sum: f64 = weights.iter().sum();
                (first..end)
                    .zip(weights)
                    .map(|(j, w)| (j, w / sum))
                    .collect()
            }
        })
        .collect()
}

/// Keys' cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_a_constant_stays() {
        for resampling in [Resampling::Plain, Resampling::Antialiased] {
            for (from, to) in [(7, 14), (14, 7), (7, 10), (3, 1), (1, 4)] {
                for place in taps(from, to, resampling) {
                    let sum: f64 = place.iter().map(|(_, w)| w).sum();
                    assert!((sum - 1.0).abs() < 1e-12);
                    assert!(place.iter().all(|&(i, _)| i < from));
                }
                let constant = vec![0.25; from * from * 2];
                let out = resample_grid(&constant, 2, (from, from), (to, to), resampling);
                assert_eq!(out.len(), to * to * 2);
                assert!(out.iter().all(|x| (x - 0.25).abs() < 1e-6));
            }
        }
    }

    #[test]
    fn the_same_grid_is_untouched() {
        let grid: Vec<f32> = (0..18).map(|x| x as f32).collect();
        assert_eq!(
            resample_grid(&grid, 2, (3, 3), (3, 3), Resampling::Plain),
            grid
        );
    }

    #[test]
    fn rows_and_columns_are_not_exchanged() {
        // Columns differ, rows do not.
        let grid = [0.0, 1.0, 0.0, 1.0];
        let out = resample_grid(&grid, 1, (2, 2), (2, 4), Resampling::Plain);
        assert_eq!(out[..4], out[4..]);
        assert!(out[0] < out[1] && out[1] < out[2] && out[2] < out[3]);
    }
}

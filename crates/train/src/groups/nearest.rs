//! Near-duplicates by embedding: an exact search in blocks.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// Rows compared at once with as many others.
const BLOCK: usize = 512;

/// Which images are near-duplicates of each other, directly or through others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// For every image the first of those that it belongs to, `[n]`.
    pub roots: Vec<usize>,
    /// Images beyond the bound, which were compared with none.
    pub not_compared: usize,
}

/// Links images whose centred, normalised embeddings (`[n, D]`) have a cosine of at least
/// `similarity`, among the first `most`.
///
/// Every pair is looked at: exact, and quadratic in the number of images. Centring takes away what
/// all pictures of an encoder have in common, so that a bound means about the same for each.
pub fn near_duplicates(embeddings: ArrayView2<'_, f32>, similarity: f64, most: usize) -> Linked {
    let n = embeddings.nrows();
    let compared = n.min(most);
    let mut links = Vec::new();
    if similarity <= 1.0 && compared > 1 {
        let rows = centred(embeddings.slice_axis(Axis(0), (0..compared).into()));
        let blocks: Vec<ArrayView2<f32>> = rows.axis_chunks_iter(Axis(0), BLOCK).collect();
        let pairs: Vec<(usize, usize)> = (0..blocks.len())
            .flat_map(|a| (a..blocks.len()).map(move |b| (a, b)))
            .collect();
        links = pairs
            .par_iter()
            .flat_map_iter(|&(a, b)| {
                let cosines = blocks[a].dot(&blocks[b].t());
                let found: Vec<(usize, usize)> = cosines
                    .indexed_iter()
                    .filter(|(_, cosine)| f64::from(**cosine) >= similarity)
                    .map(|((i, j), _)| (a * BLOCK + i, b * BLOCK + j))
                    .filter(|(i, j)| i < j)
                    .collect();
                found
            })
            .collect();
    }
    Linked {
        roots: union(n, links.into_iter()),
        not_compared: n - compared,
    }
}

/// Rows less their mean, of norm 1.
fn centred(embeddings: ArrayView2<'_, f32>) -> Array2<f32> {
    let normalised = |mut rows: Array2<f32>| {
        for mut row in rows.rows_mut() {
            let norm = row.dot(&row).sqrt().max(1e-12);
            row /= norm;
        }
        rows
    };
    let rows = normalised(embeddings.to_owned());
    match rows.mean_axis(Axis(0)) {
        // Two pictures always lie opposite of each other around their mean.
        Some(mean) if rows.nrows() > 2 => normalised(rows - &mean),
        _ => rows,
    }
}

/// For each of `n` elements the first of its component.
pub(super) fn union(n: usize, links: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let mut roots: Vec<usize> = (0..n).collect();
    fn root(roots: &mut [usize], mut at: usize) -> usize {
        while roots[at] != at {
            roots[at] = roots[roots[at]];
            at = roots[at];
        }
        at
    }
    for (a, b) in links {
        let (a, b) = (root(&mut roots, a), root(&mut roots, b));
        roots[a.max(b)] = a.min(b);
    }
    (0..n).map(|at| root(&mut roots, at)).collect()
}

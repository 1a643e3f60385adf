//! Rows of R^ with their gradient, out of the forward pass that has computed them all.
//!
//! Few rows are asked for (the known positives), so a gradient of all of R^ would be nearly all
//! zeros. The rows are selected from the logits, as far as automatic differentiation is concerned:
//! that makes their backward pass run before that of the branches, where they leave their gradient.

use super::super::{Real, add_scaled, dot, multiversioned};
use super::with_elements;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Rows and their gradient, `[rows, D]`.
type RowGradients<G> = Vec<(Arc<[usize]>, G)>;

/// R^ and the gradients that rows of it have received.
#[derive(Debug, Default)]
pub(super) struct Region {
    tensor: OnceLock<Tensor>,
    gradients: Mutex<RowGradients<Tensor>>,
}

impl Region {
    pub(super) fn set(&self, tensor: Tensor) {
        // Set once: every call of `forward` makes a region of its own.
        let _ = self.tensor.set(tensor);
    }

    /// R^, `[B, C, D]`.
    pub(super) fn tensor(&self) -> Result<&Tensor> {
        match self.tensor.get() {
            Some(tensor) => Ok(tensor),
            None => bail!("branches: the forward pass has not run"),
        }
    }

    /// The gradients that have come in; none are left.
    pub(super) fn take_gradients<T: Real>(&self) -> Result<Gradients<T>> {
        let taken = std::mem::take(
            &mut *self
                .gradients
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let values = taken.into_iter().map(|(rows, gradient)| {
            let values = with_elements::<T, _>(&gradient, |values| Ok(values.to_vec()))?;
            Ok((rows, values))
        });
        Ok(Gradients(values.collect::<Result<_>>()?))
    }
}

/// Gradients of rows of R^.
pub(super) struct Gradients<T>(RowGradients<Vec<T>>);

impl<T> Gradients<T> {
    /// Those of every group of `rows_per_group` rows: row in the group and gradient.
    pub(super) fn of_groups(
        &self,
        rows_per_group: usize,
        groups: usize,
        width: usize,
    ) -> Vec<Vec<(usize, &[T])>> {
        let mut found = vec![Vec::new(); groups];
        for (rows, values) in &self.0 {
            for (row, gradient) in rows.iter().zip(values.chunks_exact(width)) {
                found[row / rows_per_group].push((row % rows_per_group, gradient));
            }
        }
        found
    }
}

/// Adds the gradient of rows before they were normalised: `dx = (g - y (g . y)) / |x|`.
pub(super) fn backward<T: Real>(
    d_pooled: &mut [T],
    d_region: &[(usize, &[T])],
    region: &[T],
    inverses: &[T],
    width: usize,
) {
    multiversioned(|| {
        for (row, grad) in d_region {
            let at = row * width..(row + 1) * width;
            let y = &region[at.clone()];
            let inverse = inverses[*row];
            let along = dot(grad, y);
            add_scaled(&mut d_pooled[at.clone()], inverse, grad);
            add_scaled(&mut d_pooled[at], T::zero() - inverse * along, y);
        }
    });
}

/// Selects rows of R^.
#[derive(Debug, Clone)]
pub(super) struct RegionRows {
    logits: Tensor,
    region: Arc<Region>,
}

impl RegionRows {
    /// `logits` is what the branches' operation gave together with R^.
    pub(super) fn new(logits: Tensor, region: Arc<Region>) -> Self {
        Self { logits, region }
    }

    pub(super) fn select(&self, rows: &[usize]) -> Result<Tensor> {
        let (images, categories, _) = self.region.tensor()?.dims3()?;
        if let Some(row) = rows.iter().find(|row| **row >= images * categories) {
            bail!("row {row} of {} regions", images * categories);
        }
        self.logits.apply_op1(Selection {
            region: self.region.clone(),
            rows: Arc::from(rows),
        })
    }
}

struct Selection {
    region: Arc<Region>,
    rows: Arc<[usize]>,
}

impl Selection {
    fn compute<T: Real>(&self) -> Result<(CpuStorage, Shape)> {
        let region = self.region.tensor()?;
        let (_, _, width) = region.dims3()?;
        let values = with_elements::<T, _>(region, |region| {
            let rows = self.rows.iter();
            Ok(rows
                .flat_map(|row| &region[row * width..(row + 1) * width])
                .copied()
                .collect())
        })?;
        Ok((
            T::to_cpu_storage_owned(values),
            (self.rows.len(), width).into(),
        ))
    }
}

impl CustomOp1 for Selection {
    fn name(&self) -> &'static str {
        "region-rows"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match logits {
            CpuStorage::F32(_) => self.compute::<f32>(),
            _ => self.compute::<f64>(),
        }
    }

    fn bwd(&self, logits: &Tensor, _rows: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        debug_assert!(matches!(grad.dtype(), DType::F32 | DType::F64));
        let mut gradients = self
            .region
            .gradients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        gradients.push((self.rows.clone(), grad.contiguous()?));
        // Nothing for the logits themselves, but the branches' backward pass must run.
        Ok(Some(logits.zeros_like()?))
    }
}

//! Matrices outside candle: `ndarray` views of row-major values, and the way to tensors and back.

use candle_core::{DType, Device, Result, Tensor};
use ndarray::{Array2, ArrayView2};

/// Values that are not whole rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} values are no matrix with rows of {width}")]
pub struct RaggedError {
    /// Number of values.
    pub length: usize,
    /// Values that a row should have.
    pub width: usize,
}

impl RaggedError {
    fn check(length: usize, width: usize) -> std::result::Result<usize, Self> {
        if width == 0 || !length.is_multiple_of(width) {
            return Err(Self { length, width });
        }
        Ok(length / width)
    }
}

impl From<RaggedError> for candle_core::Error {
    fn from(error: RaggedError) -> Self {
        Self::wrap(error)
    }
}

/// Row-major `values` as a matrix with rows of `width`.
///
/// ```
/// let logits = tagstream_train::arrays::rows(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 3)?;
/// assert_eq!(logits.dim(), (2, 3));
/// assert_eq!(logits[[1, 0]], 0.4);
/// # Ok::<(), tagstream_train::arrays::RaggedError>(())
/// ```
///
/// # Errors
/// If they are not whole rows.
pub fn rows<T>(values: &[T], width: usize) -> std::result::Result<ArrayView2<'_, T>, RaggedError> {
    let ragged = RaggedError {
        length: values.len(),
        width,
    };
    let height = RaggedError::check(values.len(), width)?;
    ArrayView2::from_shape((height, width), values).map_err(|_| ragged)
}

/// The same of values that are given away.
///
/// # Errors
/// If they are not whole rows.
pub(crate) fn into_rows<T>(
    values: Vec<T>,
    width: usize,
) -> std::result::Result<Array2<T>, RaggedError> {
    let ragged = RaggedError {
        length: values.len(),
        width,
    };
    let height = RaggedError::check(values.len(), width)?;
    Array2::from_shape_vec((height, width), values).map_err(|_| ragged)
}

/// A copy as a tensor.
pub(crate) fn to_tensor(matrix: ArrayView2<'_, f32>) -> Result<Tensor> {
    let dims = matrix.dim();
    match matrix.to_slice() {
        Some(values) => Tensor::from_slice(values, dims, &Device::Cpu),
        None => Tensor::from_vec(matrix.iter().copied().collect(), dims, &Device::Cpu),
    }
}

/// A copy of a tensor `[rows, width]` in 32 bit.
pub(crate) fn to_matrix(tensor: &Tensor) -> Result<Array2<f32>> {
    let (_, width) = tensor.dims2()?;
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(into_rows(values, width)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_rows_are_a_matrix() {
        let expected = RaggedError {
            length: 5,
            width: 2,
        };
        assert_eq!(rows(&[1, 2, 3, 4, 5], 2), Err(expected));
        assert_eq!(into_rows(vec![1, 2, 3, 4, 5], 2), Err(expected));
        assert!(rows(&[1], 0).is_err());
        assert_eq!(rows::<u8>(&[], 3).unwrap().dim(), (0, 3));
    }

    #[test]
    fn tensors_and_matrices_are_the_same_rows() {
        let matrix = into_rows(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], 3).unwrap();
        let tensor = to_tensor(matrix.view()).unwrap();
        assert_eq!(to_matrix(&tensor).unwrap(), matrix);
        let turned = to_tensor(matrix.t()).unwrap();
        assert_eq!(to_matrix(&turned.t().unwrap()).unwrap(), matrix);
    }
}

//! Goldens from an independent float64 implementation.

use candle_core::{DType, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

/// The arrays of one `tests/fixtures/trm/*.npz`.
pub(crate) struct Golden {
    arrays: HashMap<String, Tensor>,
    dtype: DType,
}

impl Golden {
    pub(crate) fn open(name: &str, dtype: DType) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/fixtures/trm/{name}.npz"));
        let arrays = Tensor::read_npz(path).unwrap().into_iter().collect();
        Self { arrays, dtype }
    }

    /// An array in the type asked for.
    pub(crate) fn get(&self, name: &str) -> Tensor {
        self.arrays[name].to_dtype(self.dtype).unwrap()
    }

    /// A number.
    pub(crate) fn scalar(&self, name: &str) -> f64 {
        self.arrays[name]
            .to_dtype(DType::F64)
            .unwrap()
            .to_scalar()
            .unwrap()
    }
}

/// All elements of a tensor in 64 bit.
pub(crate) fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Labels +1, -1, 0.
pub(crate) fn labels(tensor: &Tensor) -> Vec<i8> {
    numbers(tensor).iter().map(|y| *y as i8).collect()
}

//! Goldens from an independent float64 implementation.

use super::prompts::{PromptEncoder, PromptTokens};
use candle_core::{DType, Result, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;
use tagstream_kernels::testing::noise;

/// The arrays of one `tests/fixtures/trm/*.npz`.
pub(crate) struct Golden {
    arrays: HashMap<String, Tensor>,
    dtype: DType,
}

impl Golden {
    pub(crate) fn open(name: &str, dtype: DType) -> Self {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
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

/// Three categories with names of one and two tokens under a template of two.
pub(crate) fn test_tokens() -> PromptTokens {
    PromptTokens {
        begin: 0,
        end: 1,
        template: vec![2, 3],
        names: vec![vec![4], vec![5, 6], vec![7]],
    }
}

/// A small differentiable stand-in for a text tower: the mean of what lies up to the end, positions
/// mixed in, squashed and projected. Like a causal tower it does not see what follows the end.
pub(crate) struct TestEncoder {
    table: Tensor,
    projection: Tensor,
}

impl TestEncoder {
    /// W = 6, D = 8, eight tokens.
    pub(crate) fn new(dtype: DType) -> Self {
        Self {
            table: noise(41, &[8, 6]).to_dtype(dtype).unwrap(),
            projection: noise(42, &[6, 8]).to_dtype(dtype).unwrap(),
        }
    }
}

impl PromptEncoder for TestEncoder {
    fn width(&self) -> usize {
        6
    }

    fn dim(&self) -> usize {
        8
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.table
            .index_select(&Tensor::new(tokens, self.table.device())?, 0)
    }

    fn encode(&self, prompts: &Tensor, ends: &[usize]) -> Result<Tensor> {
        let rows = ends.iter().enumerate().map(|(n, &end)| {
            let prompt = prompts.narrow(0, n, 1)?.squeeze(0)?.narrow(0, 0, end + 1)?;
            let steps: Vec<f64> = (0..=end).map(|at| 0.3 * at as f64).collect();
            let steps =
                Tensor::from_vec(steps, (end + 1, 1), prompt.device())?.to_dtype(prompt.dtype())?;
            prompt.broadcast_add(&steps)?.tanh()?.mean_keepdim(0)
        });
        Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?.matmul(&self.projection)
    }
}

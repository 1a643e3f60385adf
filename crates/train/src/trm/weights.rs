//! Named tensors: what is trained, averaged, stored and started from.

use candle_core::{Result, Tensor, bail};
use std::collections::BTreeMap;

/// Names of the trainable tensors. Matrices are applied from the right unless they belong to a
/// layer (`*.weight`).
pub mod names {
    /// Prompt contexts, `[C or 1, M, W]`.
    pub const CONTEXT: &str = "prompts.context";
    /// Contexts of negative prompts, `[C or 1, M, W]`.
    pub const NEGATIVE_CONTEXT: &str = "prompts.negative_context";
    /// Free negative vectors, `[C, D]`.
    pub const NEGATIVE: &str = "prompts.negative";
    /// Category queries Q, `[C, D]`.
    pub const QUERY: &str = "region.query";
    /// Query map of the attention, `[D, D]`.
    pub const WQ: &str = "region.wq";
    /// Key map, `[D, D]`.
    pub const WK: &str = "region.wk";
    /// Value map, `[D, D]`.
    pub const WV: &str = "query.wv";
    /// Output map, `[D, D]`.
    pub const WO: &str = "query.wo";
    /// LayerNorm weight, `[D]`.
    pub const NORM_WEIGHT: &str = "query.norm.weight";
    /// LayerNorm bias, `[D]`.
    pub const NORM_BIAS: &str = "query.norm.bias";
    /// First MLP layer, `[hidden, D]`.
    pub const MLP_IN_WEIGHT: &str = "query.mlp_in.weight";
    /// Its bias, `[hidden]`.
    pub const MLP_IN_BIAS: &str = "query.mlp_in.bias";
    /// Second MLP layer, `[D, hidden]`.
    pub const MLP_OUT_WEIGHT: &str = "query.mlp_out.weight";
    /// Its bias, `[D]`.
    pub const MLP_OUT_BIAS: &str = "query.mlp_out.bias";
    /// Linear residual on the standardised global feature, `[C, D]`.
    pub const RESIDUAL: &str = "global.residual";

    /// Logarithm of a branch's scale, `[1]`.
    pub fn log_scale(branch: &str) -> String {
        format!("{branch}.log_scale")
    }

    /// A branch's biases, `[C]`.
    pub fn bias(branch: &str) -> String {
        format!("{branch}.bias")
    }
}

/// Tensors by name, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    /// The tensor of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.0.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the weights have no tensor `{name}`"),
        }
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The elements of a tensor in 32 bit.
    ///
    /// # Errors
    /// If there is none.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        values(self.get(name)?)
    }

    /// Puts back every row of a stored model that this one still has: `rows[new category]` is the
    /// old category's index. Tensors without a category axis are taken whole; rows of new
    /// categories stay as they are (text-initialised). Tensors whose shape does not fit (other
    /// settings) are left out; their names are returned.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn warm_start(&mut self, stored: &Weights, rows: &[Option<usize>]) -> Result<Vec<String>> {
        let mut skipped = Vec::new();
        for (name, old) in stored.iter() {
            let Some(new) = self.0.get(name) else {
                skipped.push(name.to_owned());
                continue;
            };
            let old = old.to_dtype(new.dtype())?;
            let per_category = PER_CATEGORY.contains(&name)
                || name.ends_with(".bias")
                    && !name.starts_with("query.mlp")
                    && !name.starts_with("query.norm");
            let shared = new.dims().first() == Some(&1) && old.dims().first() == Some(&1);
            let merged = if per_category && !shared {
                merge_rows(new, &old, rows)?
            } else {
                (old.dims() == new.dims()).then_some(old)
            };
            match merged {
                Some(tensor) => {
                    self.0.insert(name.to_owned(), tensor);
                }
                None => skipped.push(name.to_owned()),
            }
        }
        Ok(skipped)
    }
}

/// Tensors with a row for each category, beside the branches' biases.
const PER_CATEGORY: [&str; 5] = [
    names::CONTEXT,
    names::NEGATIVE_CONTEXT,
    names::NEGATIVE,
    names::QUERY,
    names::RESIDUAL,
];

fn merge_rows(new: &Tensor, old: &Tensor, rows: &[Option<usize>]) -> Result<Option<Tensor>> {
    if new.dims().get(1..) != old.dims().get(1..) || new.dims().first() != Some(&rows.len()) {
        return Ok(None);
    }
    let count = old.dim(0)?;
    let merged = rows
        .iter()
        .enumerate()
        .map(|(row, from)| match from {
            Some(from) if *from < count => old.narrow(0, *from, 1),
            _ => new.narrow(0, row, 1),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Some(Tensor::cat(&merged, 0)?))
}

impl FromIterator<(String, Tensor)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

/// The elements of a tensor in 32 bit.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor
        .to_dtype(candle_core::DType::F32)?
        .flatten_all()?
        .to_vec1()
}

/// A tensor from 32-bit elements.
#[cfg(test)]
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(query: &[f32], map: &[f32]) -> Weights {
        let width = map.len();
        [
            (
                names::QUERY.to_owned(),
                tensor(query.to_vec(), &[query.len() / width, width]).unwrap(),
            ),
            (
                names::WQ.to_owned(),
                tensor(map.to_vec(), &[1, width]).unwrap(),
            ),
            (
                names::bias("region"),
                tensor(query.to_vec(), &[query.len()]).unwrap(),
            ),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn a_new_category_keeps_its_own_start() {
        let mut new = weights(&[0.0, 0.0, 0.0], &[0.0]);
        let skipped = new
            .warm_start(&weights(&[1.0, 2.0], &[7.0]), &[Some(1), None, Some(0)])
            .unwrap();
        assert!(skipped.is_empty());
        assert_eq!(new.values(names::QUERY).unwrap(), [2.0, 0.0, 1.0]);
        assert_eq!(new.values("region.bias").unwrap(), [2.0, 0.0, 1.0]);
        assert_eq!(new.values(names::WQ).unwrap(), [7.0]);
    }

    #[test]
    fn what_does_not_fit_is_named_and_left_out() {
        let mut new = weights(&[0.0, 0.0], &[0.0, 0.0]);
        let skipped = new
            .warm_start(&weights(&[1.0], &[7.0]), &[Some(0)])
            .unwrap();
        assert_eq!(
            skipped,
            [names::QUERY, "region.bias", names::WQ]
                .map(String::from)
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
        assert!(new.get("nothing").is_err());
    }
}

//! Text encoders of BERT's kind: every token sees every other, and norms stand behind attention and
//! MLP (Chinese-CLIP, AltCLIP, OpenCLIP's towers of RoBERTa and XLM-R).
//!
//! A text's filling is masked there, so it is left out here: the values are the same.

use candle_core::{Result, Tensor};
use tagstream_kernels::{FrozenLayerNorm, FrozenLinear, gelu, softmax};

/// The encoder behind the token embeddings.
#[derive(Debug, Clone)]
pub(in crate::clip) struct BertEncoder {
    /// `[positions, W]`: of the first token of a text, the second and so on, with the embedding of
    /// the kind of token added.
    pub positions: Tensor,
    pub norm: FrozenLayerNorm,
    pub blocks: Vec<BertBlock>,
    pub heads: usize,
    pub pooling: BertPooling,
    /// Behind the pooling, each with a GELU before it but the first.
    pub head: Vec<FrozenLinear>,
    /// Before all (AltCLIP).
    pub head_norm: Option<FrozenLayerNorm>,
    /// Whether there is a GELU between the layers of the head.
    pub head_gelu: bool,
}

/// What is read of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::clip) enum BertPooling {
    First,
    /// Their mean.
    Mean,
}

/// `x = norm_1(x + out(attention(x)))`, `x = norm_2(x + mlp_out(gelu(mlp_in(x))))`.
#[derive(Debug, Clone)]
pub(in crate::clip) struct BertBlock {
    pub query: FrozenLinear,
    pub key: FrozenLinear,
    pub value: FrozenLinear,
    pub out: FrozenLinear,
    pub norm_1: FrozenLayerNorm,
    pub mlp_in: FrozenLinear,
    pub mlp_out: FrozenLinear,
    pub norm_2: FrozenLayerNorm,
}

impl BertEncoder {
    /// Token embeddings of texts of the given lengths, packed in `x` (`[sum of lengths, W]`), with
    /// the positions added already, to `[texts, D]`.
    pub(in crate::clip) fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let mut x = self.norm.forward(x)?;
        for block in &self.blocks {
            x = block.forward(&x, lengths, self.heads)?;
        }
        let mut read = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            let text = x.narrow(0, start, length)?;
            read.push(match self.pooling {
                BertPooling::First => text.narrow(0, 0, 1)?,
                BertPooling::Mean => text.mean_keepdim(0)?,
            });
            start += length;
        }
        let mut x = Tensor::cat(&read, 0)?;
        if let Some(norm) = &self.head_norm {
            x = norm.forward(&x)?;
        }
        for (i, layer) in self.head.iter().enumerate() {
            if i > 0 && self.head_gelu {
                x = gelu(&x)?;
            }
            x = layer.forward(&x)?;
        }
        Ok(x)
    }
}

impl BertBlock {
    fn forward(&self, x: &Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        let (q, k, v) = (
            (self.query.forward(x)? * scale)?,
            self.key.forward(x)?,
            self.value.forward(x)?,
        );
        let mut mixed = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            let rows = |all: &Tensor| -> Result<Tensor> {
                let text = all.narrow(0, start, length)?;
                let split = text.reshape((length, heads, width / heads))?;
                split.transpose(0, 1)?.contiguous()
            };
            let (q, k, v) = (rows(&q)?, rows(&k)?, rows(&v)?);
            let attention = softmax(&q.matmul(&k.transpose(1, 2)?.contiguous()?)?)?;
            let text = attention.matmul(&v)?.transpose(0, 1)?.contiguous()?;
            mixed.push(text.reshape((length, width))?);
            start += length;
        }
        let attended = self.out.forward(&Tensor::cat(&mixed, 0)?)?;
        let x = self.norm_1.forward(&(x + attended)?)?;
        let hidden = gelu(&self.mlp_in.forward(&x)?)?;
        let fed = self.mlp_out.forward(&hidden)?;
        self.norm_2.forward(&(x + fed)?)
    }
}

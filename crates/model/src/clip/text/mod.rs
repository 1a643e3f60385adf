//! Text transformers in candle, frozen, differentiable with respect to their input embeddings:
//! CLIP's causal one, and SigLIP's.
//!
//! Prompts are short, the tower has 77 positions. Two exact savings follow from it being causal,
//! position-wise apart from attention, and read at one position only: what follows the end token
//! cannot influence the result, so every prompt is cut there and prompts of different length are
//! packed into one matrix; and in the last block only the position that is read is computed. Values
//! and gradients equal those of the full 77 positions (tested).
//!
//! CoCa's tower is read at a class token of its own, which stands behind all positions; its caption
//! decoder is not read.
//!
//! SigLIP's tower, MobileCLIP's and CLIPA's see a text whole and were trained on texts filled up to
//! the context length, so all of its tokens are computed. Some tokenizers have no begin token:
//! callers put one first all the same, and it is taken off.

mod encoder;

pub(super) use encoder::{BertBlock, BertEncoder, BertPooling};

use super::text_config::{ClassToken, ReadOutPosition, TextConfig, TextConfigError};
use super::weights::WeightsError;
use candle_core::{DType, Device, Tensor};
use std::path::PathBuf;
use tagstream_kernels::{FrozenLayerNorm, FrozenLinear, FrozenTransformer, select_rows};

/// Why a text tower could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder holds no text tower.
    #[error("{folder} holds no {what} of a text tower (looked for {looked_for})")]
    NotFound {
        /// The folder.
        folder: PathBuf,
        /// Weights or configuration.
        what: &'static str,
        /// The names tried.
        looked_for: String,
    },
    /// The configuration cannot be used.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TextConfigError,
    },
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor is not in the weights.
    #[error("the text tower's weights have no tensor {name}")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} is {found:?}, the configuration says {expected:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape expected.
        expected: Vec<usize>,
    },
    /// A token id lies outside the vocabulary.
    #[error(
        "token {token} is outside the vocabulary of {vocabulary}: tokenizer and text tower do not \
         belong together"
    )]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// The number of tokens.
        vocabulary: usize,
    },
    /// A text has no token at which the tower is read.
    #[error("text {index} has no end token: the tower cannot be read")]
    NoEndToken {
        /// Its place in the call.
        index: usize,
    },
    /// A prompt is longer than the tower's positions, or the end position lies outside it.
    #[error("a prompt of {length} positions read at {end}: the text tower has {limit} positions")]
    TooLong {
        /// Positions of the prompt.
        length: usize,
        /// The index at which it is read.
        end: usize,
        /// The context length.
        limit: usize,
    },
    /// A tensor operation failed.
    #[error("text tower: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// The text tower. Cheap to clone: tensors are shared.
#[derive(Debug, Clone)]
pub struct TextTower {
    pub(super) config: TextConfig,
    /// `[vocabulary, W]` in the file's precision; rows are widened when they are taken.
    pub(super) token_embedding: Tensor,
    pub(super) body: Body,
    pub(super) dtype: DType,
}

/// What stands behind the token embeddings.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Clip(ClipBody),
    Bert(BertEncoder),
}

/// A transformer with norms before attention and MLP.
#[derive(Debug, Clone)]
pub(super) struct ClipBody {
    /// `[context length, W]`, and the class token's.
    pub positional_embedding: Tensor,
    pub transformer: FrozenTransformer,
    pub final_norm: FrozenLayerNorm,
    /// `[1, W]`, if there is one.
    pub class: Option<Tensor>,
    pub projection: Option<FrozenLinear>,
}

impl ClipBody {
    /// Token embeddings of texts, packed, with what stands at their positions, read at each text's
    /// last row.
    fn forward(
        &self,
        x: &Tensor,
        positions: &[usize],
        lengths: &[usize],
    ) -> candle_core::Result<Tensor> {
        let x = (x + select_rows(&self.positional_embedding, positions)?)?;
        let x = self.transformer.forward(&x, lengths)?;
        self.project(&self.final_norm.forward(&x)?)
    }

    fn project(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.projection {
            Some(projection) => projection.forward(x),
            None => Ok(x.clone()),
        }
    }
}

impl TextTower {
    /// The tower's shape.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// What the tower computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Texts (token ids, see [`ClipTokenizer`](super::tokenizer::ClipTokenizer)) to `[n, D]`, not
    /// normalised.
    ///
    /// # Errors
    /// If a text has no end token or is longer than the context, or a token is unknown.
    pub fn forward_tokens(&self, texts: &[Vec<u32>]) -> Result<Tensor, TextError> {
        // What stands in for a begin token may be the end token itself.
        let first = usize::from(!self.config.begin);
        let ends = texts.iter().enumerate().map(|(index, text)| {
            let end = text
                .get(first..)
                .and_then(|text| self.config.read_out.find(text));
            end.map(|end| end + first)
                .ok_or(TextError::NoEndToken { index })
        });
        let ends: Vec<usize> = ends.collect::<Result<_, _>>()?;
        let longest = ends.iter().max().map_or(0, |end| end + 1);
        let cut: Vec<&[u32]> = texts
            .iter()
            .map(|text| &text[..text.len().min(longest)])
            .collect();
        self.forward_embeddings(&self.embed(&cut)?, &ends)
    }

    /// Token embeddings `[n, L, W]` of texts, without positions; shorter texts are padded with
    /// token 0, which nothing reads. Prompt contexts are spliced into this by the caller.
    ///
    /// # Errors
    /// If a token lies outside the vocabulary.
    pub fn embed(&self, texts: &[impl AsRef<[u32]>]) -> Result<Tensor, TextError> {
        let longest = texts
            .iter()
            .map(|text| text.as_ref().len())
            .max()
            .unwrap_or(0);
        let mut ids = vec![0u32; texts.len() * longest];
        for (row, text) in ids.chunks_mut(longest.max(1)).zip(texts) {
            row[..text.as_ref().len()].copy_from_slice(text.as_ref());
        }
        let vocabulary = self.config.vocabulary;
        if let Some(&token) = ids.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(TextError::TokenOutOfRange { token, vocabulary });
        }
        let ids = Tensor::from_vec(ids, texts.len() * longest, &Device::Cpu)?;
        let rows = self
            .token_embedding
            .index_select(&ids, 0)?
            .to_dtype(self.dtype)?;
        Ok(rows.reshape((texts.len(), longest, self.config.width))?)
    }

    /// Input embeddings `x` (`[n, L, W]`, positions are added here) read at the positions `ends` to
    /// `[n, D]`, not normalised. The gradient goes to `x`; positions after `ends` receive zero.
    ///
    /// # Errors
    /// If the shapes do not fit the tower, or a position of `ends` lies outside `L` or the context.
    pub fn forward_embeddings(&self, x: &Tensor, ends: &[usize]) -> Result<Tensor, TextError> {
        let (n, length, width) = x.dims3()?;
        if n != ends.len() || width != self.config.width {
            return Err(TextError::WrongShape {
                name: "input embeddings".to_owned(),
                found: x.dims().to_vec(),
                expected: vec![ends.len(), length, self.config.width],
            });
        }
        // A begin token that is taken off needs no position.
        let first = usize::from(!self.config.begin);
        let limit = self.config.context_length + first;
        if let Some(&end) = ends
            .iter()
            .find(|&&end| end >= length || end >= limit || end < first)
        {
            return Err(TextError::TooLong { length, end, limit });
        }
        if n == 0 {
            return Ok(Tensor::zeros(
                (0, self.config.projection),
                self.dtype,
                x.device(),
            )?);
        }
        if let Body::Clip(body) = &self.body {
            if let Some(token) = self.config.padding {
                return self.forward_filled(body, x, ends, token);
            }
            if let (Some(class), Some(form)) = (&body.class, self.config.class) {
                return self.forward_class(body, x, ends, (class, form));
            }
        }
        let rows: Vec<usize> = ends
            .iter()
            .enumerate()
            .flat_map(|(i, &end)| (first..=end).map(move |at| i * length + at))
            .collect();
        let positions: Vec<usize> = ends.iter().flat_map(|&end| 0..=end - first).collect();
        let packed = select_rows(&x.reshape((n * length, width))?, &rows)?;
        let lengths: Vec<usize> = ends.iter().map(|end| end + 1 - first).collect();
        match &self.body {
            Body::Clip(body) => Ok(body.forward(&packed, &positions, &lengths)?),
            Body::Bert(encoder) => {
                let places = select_rows(&encoder.positions, &positions)?;
                Ok(encoder.forward(&(packed + places)?, &lengths)?)
            }
        }
    }

    /// The same for a tower that is read at a class token: behind `ends`, where a mask that was
    /// taken too far lets it see one more, and without seeing itself then.
    fn forward_class(
        &self,
        body: &ClipBody,
        x: &Tensor,
        ends: &[usize],
        (class, form): (&Tensor, ClassToken),
    ) -> Result<Tensor, TextError> {
        let (n, length, width) = x.dims3()?;
        let (context, first) = (self.config.context_length, usize::from(!self.config.begin));
        let filling = match form.shifted {
            Some(token) => self.embed(&[[token]])?.reshape((1, width))?,
            None => class.clone(),
        };
        // Behind all rows of `x`: the filling, the class token.
        let rows = x.reshape((n * length, width))?;
        let rows = Tensor::cat(&[&rows, &filling, class], 0)?;
        let (mut taken, mut positions, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &end) in ends.iter().enumerate() {
            let start = taken.len();
            let count = end + 1 - first;
            taken.extend((first..=end).map(|at| i * length + at));
            positions.extend(0..count);
            if form.shifted.is_some() {
                // In a text that needs no filling the class token does see itself.
                taken.push(n * length + usize::from(count == context));
                positions.push(count);
            }
            taken.push(n * length + 1);
            positions.push(context);
            lengths.push(taken.len() - start);
        }
        let packed = select_rows(&rows, &taken)?;
        Ok(body.forward(&packed, &positions, &lengths)?)
    }

    /// The same for a tower that sees a text whole: filled up with `token` behind `ends`.
    fn forward_filled(
        &self,
        body: &ClipBody,
        x: &Tensor,
        ends: &[usize],
        token: u32,
    ) -> Result<Tensor, TextError> {
        let (n, length, width) = x.dims3()?;
        let (context, first) = (self.config.context_length, usize::from(!self.config.begin));
        let filling = self.embed(&[[token]])?.reshape((1, width))?;
        // The token behind all rows of `x` is the filling.
        let rows = Tensor::cat(&[x.reshape((n * length, width))?, filling], 0)?;
        let (mut taken, mut positions) = (Vec::new(), Vec::new());
        for (i, &end) in ends.iter().enumerate() {
            let start = taken.len();
            taken.extend((first..=end).map(|at| i * length + at));
            taken.resize(start + context, n * length);
            positions.extend(0..context);
            // A transformer reads the last row. Where all see all, rows may stand in any order.
            let read = match self.config.read_out {
                ReadOutPosition::Last => context - 1,
                _ => end - first,
            };
            taken.swap(start + read, start + context - 1);
            positions.swap(start + read, start + context - 1);
        }
        let packed = select_rows(&rows, &taken)?;
        Ok(body.forward(&packed, &positions, &vec![context; n])?)
    }
}

#[cfg(test)]
mod tests;

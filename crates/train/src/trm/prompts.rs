//! Learned prompts: `[begin] context [name] [end]`, with contexts that are trained through the
//! frozen text tower.

use super::config::{PromptConfig, Start};
use candle_core::{DType, Device, Result, Tensor};
use tagstream_model::clip::text::{TextError, TextTower};
use tagstream_model::clip::tokenizer::{ClipTokenizer, TokenizerError};

/// A frozen text tower as prompts need it.
pub trait PromptEncoder {
    /// W, the width of token embeddings.
    fn width(&self) -> usize;
    /// D, the width of text features.
    fn dim(&self) -> usize;
    /// Embeddings of tokens, `[n, W]`, without positions.
    ///
    /// # Errors
    /// If a token is unknown.
    fn embed(&self, tokens: &[u32]) -> Result<Tensor>;
    /// Features of embedded prompts (`[n, L, W]`) read at `ends`, `[n, D]`, not normalised;
    /// differentiable in `prompts`.
    ///
    /// # Errors
    /// If a prompt is longer than the tower's positions.
    fn encode(&self, prompts: &Tensor, ends: &[usize]) -> Result<Tensor>;
}

impl PromptEncoder for TextTower {
    fn width(&self) -> usize {
        self.config().width
    }

    fn dim(&self) -> usize {
        self.config().projection
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        TextTower::embed(self, &[tokens])
            .map_err(wrapped)?
            .squeeze(0)
    }

    fn encode(&self, prompts: &Tensor, ends: &[usize]) -> Result<Tensor> {
        self.forward_embeddings(prompts, ends).map_err(wrapped)
    }
}

fn wrapped(error: TextError) -> candle_core::Error {
    match error {
        TextError::Tensor(error) => error,
        other => candle_core::Error::wrap(other),
    }
}

/// The tokens of a model's prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTokens {
    /// The token that begins every prompt.
    pub begin: u32,
    /// The token that ends it, at which the tower is read.
    pub end: u32,
    /// Words before the name, as in "a photo of a".
    pub template: Vec<u32>,
    /// The words of each category's name.
    pub names: Vec<Vec<u32>>,
}

impl PromptTokens {
    /// Tokenizes the template and the categories' names.
    ///
    /// # Errors
    /// If a prompt is longer than the tower's context, or the tokenizer fails.
    pub fn new(
        tokenizer: &ClipTokenizer,
        template: &str,
        names: &[String],
    ) -> std::result::Result<Self, TokenizerError> {
        let tokenized = |name: &String| {
            tokenizer.encode(&format!("{template} {name}"))?; // refuses what is too long
            tokenizer.words_behind(template, name)
        };
        Ok(Self {
            begin: tokenizer.begin(),
            end: tokenizer.end(),
            template: tokenizer.words(template)?,
            names: names
                .iter()
                .map(tokenized)
                .collect::<std::result::Result<_, _>>()?,
        })
    }
}

/// The fixed part of the prompts, and where contexts go.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// `[C, 1, W]`.
    begin: Tensor,
    /// Name and end token, padded to the longest, `[C, S, W]`.
    rest: Tensor,
    /// Tokens of each name.
    name_lengths: Vec<usize>,
    /// The template's embeddings, `[M, W]`.
    template: Tensor,
    /// Added to the features of positive prompts, `[C, D]`: what categories' other words say.
    offset: Option<Tensor>,
}

impl Prompts {
    /// Embeds the fixed tokens once.
    ///
    /// # Errors
    /// If a token is unknown.
    pub fn new(tokens: &PromptTokens, encoder: &dyn PromptEncoder) -> Result<Self> {
        let (c, w) = (tokens.names.len(), encoder.width());
        let longest = tokens.names.iter().map(Vec::len).max().unwrap_or(0) + 1;
        let mut ids = Vec::with_capacity(c * longest);
        for name in &tokens.names {
            ids.extend(name);
            // What follows the end token cannot influence the result: the tower is causal.
            ids.resize(ids.len() + longest - name.len(), tokens.end);
        }
        let begin = encoder.embed(&vec![tokens.begin; c])?.reshape((c, 1, w))?;
        let template = if tokens.template.is_empty() {
            Tensor::zeros((0, w), begin.dtype(), &Device::Cpu)?
        } else {
            encoder.embed(&tokens.template)?
        };
        Ok(Self {
            begin,
            rest: encoder.embed(&ids)?.reshape((c, longest, w))?,
            name_lengths: tokens.names.iter().map(Vec::len).collect(),
            template,
            offset: None,
        })
    }

    /// These prompts around `features` (`[C, D]`, rows of norm 1): with nothing learned, positive
    /// prompts have exactly these, and what is learned moves them from there. For categories of
    /// several words, of which a prompt has only one.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn around(mut self, features: &[f32], encoder: &dyn PromptEncoder) -> Result<Self> {
        let contexts = self.template.unsqueeze(0)?;
        let plain = self.features(&contexts, encoder)?.detach();
        let features = Tensor::from_slice(features, plain.shape(), &Device::Cpu)?;
        self.offset = Some((features.to_dtype(plain.dtype())? - plain)?);
        Ok(self)
    }

    /// C, the number of categories.
    pub fn categories(&self) -> usize {
        self.name_lengths.len()
    }

    /// Contexts to start from, `[C, M, W]`, or `[1, M, W]` where all categories share them;
    /// `normal` draws from N(0, 1).
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn start(&self, config: &PromptConfig, normal: &mut dyn FnMut() -> f64) -> Result<Tensor> {
        let sets = if config.class_specific {
            self.categories()
        } else {
            1
        };
        match config.start {
            Start::Informed => self.template.unsqueeze(0)?.repeat((sets, 1, 1)),
            Start::Random => self.random_start(sets, config.random_tokens, normal),
        }
    }

    /// `sets` contexts of `tokens` tokens drawn from N(0, 0.02²).
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn random_start(
        &self,
        sets: usize,
        tokens: usize,
        normal: &mut dyn FnMut() -> f64,
    ) -> Result<Tensor> {
        let width = self.template.dim(1)?;
        let values: Vec<f64> = (0..sets * tokens * width)
            .map(|_| 0.02 * normal())
            .collect();
        Tensor::from_vec(values, (sets, tokens, width), &Device::Cpu)?
            .to_dtype(self.template.dtype())
    }

    /// The template's prompts without anything learned, `[C, D]`, rows of norm 1.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn template_features(&self, encoder: &dyn PromptEncoder) -> Result<Tensor> {
        let contexts = self.template.unsqueeze(0)?;
        Ok(self.positive_features(&contexts, encoder)?.detach())
    }

    /// As [`Prompts::features`], of prompts that say what a category is.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn positive_features(
        &self,
        contexts: &Tensor,
        encoder: &dyn PromptEncoder,
    ) -> Result<Tensor> {
        let features = self.features(contexts, encoder)?;
        match &self.offset {
            None => Ok(features),
            Some(offset) => tagstream_kernels::l2_normalize(&(features + offset)?),
        }
    }

    /// Text features of the prompts with these contexts (`[C or 1, M, W]`), `[C, D]`, rows of
    /// norm 1.
    ///
    /// # Errors
    /// Those of the tower, for example if the prompts are too long.
    pub fn features(&self, contexts: &Tensor, encoder: &dyn PromptEncoder) -> Result<Tensor> {
        let (sets, tokens, width) = contexts.dims3()?;
        let categories = self.categories();
        let contexts = if sets == categories {
            contexts.clone()
        } else {
            contexts.broadcast_as((categories, tokens, width))?
        };
        let prompts = Tensor::cat(&[&self.begin, &contexts.contiguous()?, &self.rest], 1)?;
        let ends: Vec<usize> = self.name_lengths.iter().map(|n| 1 + tokens + n).collect();
        tagstream_kernels::l2_normalize(&encoder.encode(&prompts, &ends)?)
    }

    /// The element type of embeddings.
    pub fn dtype(&self) -> DType {
        self.template.dtype()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trm::testing::{TestEncoder, test_tokens};
    use tagstream_kernels::testing::{check_gradients, distance};

    #[test]
    fn contexts_from_words_give_the_words_features() {
        let encoder = TestEncoder::new(DType::F64);
        let tokens = test_tokens();
        let prompts = Prompts::new(&tokens, &encoder).unwrap();
        let config = PromptConfig::default();
        let contexts = prompts.start(&config, &mut || 0.0).unwrap();
        let features = prompts.features(&contexts, &encoder).unwrap();
        for (c, name) in tokens.names.iter().enumerate() {
            let mut whole = vec![tokens.begin];
            whole.extend(tokens.template.iter().chain(name));
            whole.push(tokens.end);
            let embedded = encoder.embed(&whole).unwrap().unsqueeze(0).unwrap();
            let direct = encoder.encode(&embedded, &[whole.len() - 1]).unwrap();
            let direct = tagstream_kernels::l2_normalize(&direct).unwrap();
            assert!(distance(&features.narrow(0, c, 1).unwrap(), &direct) < 1e-12);
        }
        assert!(distance(&features, &prompts.template_features(&encoder).unwrap()) < 1e-12);
    }

    #[test]
    fn prompts_around_features_start_there_and_move_by_what_is_learned() {
        let encoder = TestEncoder::new(DType::F64);
        let prompts = Prompts::new(&test_tokens(), &encoder).unwrap();
        let plain = prompts.template_features(&encoder).unwrap();
        let other = tagstream_kernels::l2_normalize(&(plain.roll(1, 1).unwrap() + &plain).unwrap());
        let other = other.unwrap();
        let flat = |features: &Tensor| {
            let flat = features
                .flatten_all()
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap();
            flat.to_vec1::<f32>().unwrap()
        };
        let around = prompts.clone().around(&flat(&other), &encoder).unwrap();
        assert!(distance(&around.template_features(&encoder).unwrap(), &other) < 1e-6);
        // What is no positive prompt stays where it was.
        let config = PromptConfig::default();
        let contexts = prompts.start(&config, &mut || 0.0).unwrap();
        assert!(distance(&around.features(&contexts, &encoder).unwrap(), &plain) < 1e-12);
        check_gradients(&|x| around.positive_features(&x[0], &encoder), &[contexts]);
        // Around its own features a category is as it is without.
        let same = prompts.clone().around(&flat(&plain), &encoder).unwrap();
        assert!(distance(&same.template_features(&encoder).unwrap(), &plain) < 1e-6);
    }

    #[test]
    fn gradients_reach_own_and_shared_contexts() {
        let encoder = TestEncoder::new(DType::F64);
        let prompts = Prompts::new(&test_tokens(), &encoder).unwrap();
        for class_specific in [true, false] {
            let config = PromptConfig {
                class_specific,
                ..PromptConfig::default()
            };
            let contexts = prompts.start(&config, &mut || 0.0).unwrap();
            assert_eq!(contexts.dim(0).unwrap() == 1, !class_specific);
            check_gradients(&|x| prompts.features(&x[0], &encoder), &[contexts]);
        }
    }
}

//! The text tower loaded: its tensors from safetensors, under Hugging Face's or OpenCLIP's names.

use super::text::{BertBlock, BertEncoder, BertPooling, Body, ClipBody, TextError, TextTower};
use super::text_config::{ClassToken, EncoderForm, TextConfig, TextForm};
use super::weights::{WeightFiles, WeightsError};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;
use tagstream_kernels::{FrozenBlock, FrozenLayerNorm, FrozenLinear, FrozenTransformer, Sight};

impl TextTower {
    /// Opens the tower in `folder`: `config.json` or `open_clip_config.json`, and its safetensors
    /// (the text tower alone or a whole CLIP, of which only the text tensors are read). Weights are
    /// held in f32, whatever the file has.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or does not fit.
    pub fn open(folder: &Path) -> Result<Self, TextError> {
        const CONFIGS: [&str; 2] = ["config.json", "open_clip_config.json"];
        const WEIGHTS: [&str; 4] = [
            "text_encoder.safetensors",
            "text.safetensors",
            "model.safetensors",
            "open_clip_model.safetensors",
        ];
        let find = |what, names: &[&str]| {
            let found = names
                .iter()
                .map(|name| folder.join(name))
                .find(|path| path.is_file());
            found.ok_or_else(|| TextError::NotFound {
                folder: folder.to_path_buf(),
                what,
                looked_for: names.join(", "),
            })
        };
        let config = Self::read_config(&find("configuration", &CONFIGS)?)?;
        let weights = find("weights", &WEIGHTS)?;
        Self::load(&WeightFiles::open(&[weights])?, config)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// If it cannot be read or asks for what this tower cannot do.
    pub fn read_config(path: &Path) -> Result<TextConfig, TextError> {
        let json = std::fs::read_to_string(path).map_err(|error| TextError::Unreadable {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        TextConfig::from_json(&json).map_err(|source| TextError::Config {
            path: path.to_path_buf(),
            source,
        })
    }

    /// Loads the text tower out of these weights.
    ///
    /// # Errors
    /// If they cannot be read, or their tensors do not fit the configuration.
    pub fn load(weights: &WeightFiles, config: TextConfig) -> Result<Self, TextError> {
        Self::load_as(weights, config, DType::F32)
    }

    /// The same, computing in `dtype`.
    pub(super) fn load_as(
        weights: &WeightFiles,
        config: TextConfig,
        dtype: DType,
    ) -> Result<Self, TextError> {
        Self::from_tensors(read(weights)?, config, dtype)
    }

    /// Builds the tower from tensors under Hugging Face's (`text_model.*`) or OpenCLIP's
    /// (`transformer.resblocks.*`) names. `dtype` is what it computes in: f32, or f64 to check
    /// gradients.
    ///
    /// # Errors
    /// If a tensor is missing or does not fit the configuration.
    pub fn from_tensors(
        tensors: HashMap<String, Tensor>,
        config: TextConfig,
        dtype: DType,
    ) -> Result<Self, TextError> {
        build(tensors, config, dtype)
    }
}

/// Reads the tensors of the text tower, and only those: a whole CLIP's vision tower is skipped.
fn read(weights: &WeightFiles) -> Result<HashMap<String, Tensor>, TextError> {
    let raw = weights.raw(is_text)?;
    raw.into_iter()
        .map(|raw| {
            let dtype = DType::try_from(raw.dtype).map_err(|_| WeightsError::Type {
                path: weights.path().to_path_buf(),
                name: raw.name.to_owned(),
                dtype: raw.dtype,
            })?;
            let tensor = Tensor::from_raw_buffer(&raw.bytes, dtype, raw.shape, &Device::Cpu)?;
            Ok((raw.name.to_owned(), tensor))
        })
        .collect()
}

fn is_text(name: &str) -> bool {
    let name = name.strip_prefix("text.").unwrap_or(name);
    let open_clip = [
        "transformer.",
        "token_embedding.",
        "positional_embedding",
        "cls_emb",
        "ln_final.",
        "text_projection",
        "proj.",
    ];
    name.starts_with("text_model.") || open_clip.iter().any(|prefix| name.starts_with(prefix))
}

/// Takes tensors out by name, checks their shapes, converts them.
struct TensorSource {
    tensors: HashMap<String, Tensor>,
    dtype: DType,
}

impl TensorSource {
    fn raw(&self, name: &str, shape: &[usize]) -> Result<Tensor, TextError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| TextError::MissingTensor {
                name: name.to_owned(),
            })?;
        if tensor.dims() != shape {
            return Err(TextError::WrongShape {
                name: name.to_owned(),
                found: tensor.dims().to_vec(),
                expected: shape.to_vec(),
            });
        }
        Ok(tensor.clone())
    }

    fn take(&self, name: &str, shape: &[usize]) -> Result<Tensor, TextError> {
        Ok(self.raw(name, shape)?.to_dtype(self.dtype)?)
    }

    fn norm(&self, name: &str, width: usize, eps: f64) -> Result<FrozenLayerNorm, TextError> {
        let weight = self.take(&format!("{name}.weight"), &[width])?;
        let bias = self.take(&format!("{name}.bias"), &[width])?;
        Ok(FrozenLayerNorm::new(weight, bias, eps)?)
    }

    fn linear(&self, name: &str, out: usize, inner: usize) -> Result<FrozenLinear, TextError> {
        let weight = self.take(&format!("{name}.weight"), &[out, inner])?;
        let bias = self.take(&format!("{name}.bias"), &[out])?;
        Ok(FrozenLinear::new(weight, Some(bias))?)
    }

    /// A linear map without a bias.
    fn bare(&self, name: &str, out: usize, inner: usize) -> Result<FrozenLinear, TextError> {
        let weight = self.take(&format!("{name}.weight"), &[out, inner])?;
        Ok(FrozenLinear::new(weight, None)?)
    }

    /// The shape of a matrix.
    fn sides(&self, name: &str) -> Result<[usize; 2], TextError> {
        match self.tensors.get(name).map(Tensor::dims) {
            Some(&[rows, columns]) => Ok([rows, columns]),
            _ => Err(TextError::MissingTensor {
                name: name.to_owned(),
            }),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A linear map with the layer scale `scale` multiplied in, if the weights have it.
    fn scaled(
        &self,
        name: &str,
        [out, inner]: [usize; 2],
        scale: &str,
    ) -> Result<FrozenLinear, TextError> {
        if !self.has(scale) {
            return self.linear(name, out, inner);
        }
        let scale = self.take(scale, &[out])?;
        let weight = self.take(&format!("{name}.weight"), &[out, inner])?;
        let bias = self.take(&format!("{name}.bias"), &[out])?;
        let weight = weight.broadcast_mul(&scale.reshape((out, 1))?)?;
        Ok(FrozenLinear::new(weight, Some((bias * scale)?))?)
    }

    /// The width of an MLP is in no OpenCLIP configuration file of the usual kind: the tensor says
    /// it.
    fn rows(&self, name: &str) -> Result<usize, TextError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| TextError::MissingTensor {
                name: name.to_owned(),
            })?;
        Ok(tensor.dims().first().copied().unwrap_or(0))
    }
}

/// Builds the tower from tensors under either naming.
fn build(
    tensors: HashMap<String, Tensor>,
    config: TextConfig,
    dtype: DType,
) -> Result<TextTower, TextError> {
    let encoder = config.encoder;
    if encoder.is_none()
        && (config.layers == 0 || config.heads == 0 || !config.width.is_multiple_of(config.heads))
    {
        return Err(TextError::WrongShape {
            name: "the configuration's layers, heads, width".to_owned(),
            found: vec![config.layers, config.heads, config.width],
            expected: vec![12, 8, 512],
        });
    }
    // OpenCLIP's CustomTextCLIP puts "text." before the names.
    let tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| match name.strip_prefix("text.") {
            Some(bare) => (bare.to_owned(), tensor),
            None => (name, tensor),
        })
        .collect();
    let hugging_face = tensors.keys().any(|name| name.starts_with("text_model."));
    let source = TensorSource { tensors, dtype };
    if let Some(form) = encoder {
        encoder_tower(&source, config, form)
    } else if hugging_face {
        hugging_face_tower(&source, config)
    } else {
        open_clip_tower(&source, config)
    }
}

fn transformer(
    config: &TextConfig,
    block: impl Fn(usize) -> Result<FrozenBlock, TextError>,
) -> Result<FrozenTransformer, TextError> {
    Ok(FrozenTransformer {
        blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
        heads: config.heads,
        activation: config.activation,
        sight: match (config.padding, config.class) {
            (Some(_), _) => Sight::All,
            (None, Some(ClassToken { shifted: Some(_) })) => Sight::BeforeLastApart,
            (None, _) => Sight::Before,
        },
    })
}

fn hugging_face_tower(source: &TensorSource, config: TextConfig) -> Result<TextTower, TextError> {
    let (w, eps) = (config.width, config.layer_norm_eps);
    let block = |index: usize| {
        let at = |part: &str| format!("text_model.encoder.layers.{index}.{part}");
        let part = |kind: &str, name: &str, shape: &[usize]| {
            source.take(&format!("{}.{kind}", at(name)), shape)
        };
        let both = |kind: &str, shape: &[usize]| -> Result<Tensor, TextError> {
            let key = part(kind, "self_attn.k_proj", shape)?;
            Ok(Tensor::cat(
                &[key, part(kind, "self_attn.v_proj", shape)?],
                0,
            )?)
        };
        let hidden = source.rows(&at("mlp.fc1.weight"))?;
        Ok(FrozenBlock {
            norm_1: source.norm(&at("layer_norm1"), w, eps)?,
            query: source.linear(&at("self_attn.q_proj"), w, w)?,
            key_value: FrozenLinear::new(both("weight", &[w, w])?, Some(both("bias", &[w])?))?,
            out: source.linear(&at("self_attn.out_proj"), w, w)?,
            norm_2: source.norm(&at("layer_norm2"), w, eps)?,
            mlp_in: source.linear(&at("mlp.fc1"), hidden, w)?,
            mlp_out: source.linear(&at("mlp.fc2"), w, hidden)?,
        })
    };
    Ok(TextTower {
        token_embedding: source.raw(
            "text_model.embeddings.token_embedding.weight",
            &[config.vocabulary, w],
        )?,
        body: Body::Clip(ClipBody {
            positional_embedding: source.take(
                "text_model.embeddings.position_embedding.weight",
                &[config.context_length, w],
            )?,
            transformer: transformer(&config, block)?,
            final_norm: source.norm("text_model.final_layer_norm", w, eps)?,
            class: None,
            projection: Some(match config.padding {
                None => source.bare("text_projection", config.projection, w)?,
                Some(_) => source.linear("text_model.head", config.projection, w)?,
            }),
        }),
        dtype: source.dtype,
        config,
    })
}

fn open_clip_tower(source: &TensorSource, config: TextConfig) -> Result<TextTower, TextError> {
    let (w, eps) = (config.width, config.layer_norm_eps);
    let block = |index: usize| {
        let at = |part: &str| format!("transformer.resblocks.{index}.{part}");
        let weight = source.take(&at("attn.in_proj_weight"), &[3 * w, w])?;
        let bias = source.take(&at("attn.in_proj_bias"), &[3 * w])?;
        let rows = |start: usize, count: usize| -> Result<FrozenLinear, TextError> {
            Ok(FrozenLinear::new(
                weight.narrow(0, start, count)?,
                Some(bias.narrow(0, start, count)?),
            )?)
        };
        let hidden = source.rows(&at("mlp.c_fc.weight"))?;
        Ok(FrozenBlock {
            norm_1: source.norm(&at("ln_1"), w, eps)?,
            query: rows(0, w)?,
            key_value: rows(w, 2 * w)?,
            out: source.scaled(&at("attn.out_proj"), [w, w], &at("ls_1.gamma"))?,
            norm_2: source.norm(&at("ln_2"), w, eps)?,
            mlp_in: source.linear(&at("mlp.c_fc"), hidden, w)?,
            mlp_out: source.scaled(&at("mlp.c_proj"), [w, hidden], &at("ls_2.gamma"))?,
        })
    };
    let projection = if source.has("text_projection.weight") {
        Some(source.linear("text_projection", config.projection, w)?)
    } else if source.has("text_projection") {
        // CLIP multiplies from the right (x P), a linear layer's weight is the transpose of that.
        let weight = source.take("text_projection", &[w, config.projection])?;
        Some(FrozenLinear::new(weight.t()?, None)?)
    } else if config.projection == w && config.texts == TextForm::SigLip {
        None
    } else {
        let name = "text_projection".to_owned();
        return Err(TextError::MissingTensor { name });
    };
    let (class, positions) = match config.class {
        None => (None, config.context_length),
        Some(_) => {
            let token = source.take("cls_emb", &[w])?.reshape((1, w))?;
            (Some(token), config.context_length + 1)
        }
    };
    Ok(TextTower {
        token_embedding: source.raw("token_embedding.weight", &[config.vocabulary, w])?,
        body: Body::Clip(ClipBody {
            positional_embedding: source.take("positional_embedding", &[positions, w])?,
            transformer: transformer(&config, block)?,
            final_norm: source.norm("ln_final", w, eps)?,
            class,
            projection,
        }),
        dtype: source.dtype,
        config,
    })
}

/// The names that an encoder's tensors begin with: AltCLIP's, Chinese-CLIP's, OpenCLIP's.
const ENCODERS: [&str; 3] = ["text_model.roberta.", "text_model.", "transformer."];

fn encoder_tower(
    source: &TensorSource,
    mut config: TextConfig,
    form: EncoderForm,
) -> Result<TextTower, TextError> {
    const WORDS: &str = "embeddings.word_embeddings.weight";
    let there = ENCODERS
        .iter()
        .find(|name| source.has(&format!("{name}{WORDS}")));
    let prefix = there.copied().unwrap_or(ENCODERS[2]);
    let at = |part: &str| format!("{prefix}{part}");
    let [vocabulary, w] = source.sides(&at(WORDS))?;
    // transformers 5 has another name for AltCLIP's in memory than in files.
    let stems = ["encoder.layers.", "encoder.layer."];
    let begins = |stem: &&str| {
        source
            .tensors
            .keys()
            .any(|name| name.starts_with(&at(stem)))
    };
    let stem = stems.into_iter().find(begins).unwrap_or(stems[1]);
    let blocks = at(stem);
    let numbers = source.tensors.keys().filter_map(|name| {
        let number = name.strip_prefix(&*blocks)?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    config.vocabulary = vocabulary;
    config.width = w;
    config.layers = numbers.max().map_or(0, |last| last + 1);
    if config.heads == 0 {
        config.heads = w / 64;
    }
    if config.layers == 0 || config.heads == 0 || !w.is_multiple_of(config.heads) {
        return Err(TextError::WrongShape {
            name: "the encoder's layers, heads, width".to_owned(),
            found: vec![config.layers, config.heads, w],
            expected: vec![12, 12, 768],
        });
    }
    let [rows, _] = source.sides(&at("embeddings.position_embeddings.weight"))?;
    let count = rows.saturating_sub(form.first_position);
    config.context_length = config.context_length.min(count);
    let places = source.take(&at("embeddings.position_embeddings.weight"), &[rows, w])?;
    let [kinds, _] = source.sides(&at("embeddings.token_type_embeddings.weight"))?;
    let kinds = source.take(&at("embeddings.token_type_embeddings.weight"), &[kinds, w])?;
    let places = places.narrow(0, form.first_position, count)?;
    let eps = config.layer_norm_eps;
    let layers =
        (0..config.layers).map(|layer| bert_block(source, &format!("{blocks}{layer}"), w, eps));
    let (head_norm, head, head_gelu) = encoder_head(source, w, &config)?;
    Ok(TextTower {
        token_embedding: source.raw(&at(WORDS), &[vocabulary, w])?,
        body: Body::Bert(BertEncoder {
            positions: places.broadcast_add(&kinds.narrow(0, 0, 1)?)?,
            norm: source.norm(&at("embeddings.LayerNorm"), w, eps)?,
            blocks: layers.collect::<Result<_, _>>()?,
            heads: config.heads,
            pooling: match form.mean {
                true => BertPooling::Mean,
                false => BertPooling::First,
            },
            head,
            head_norm,
            head_gelu,
        }),
        dtype: source.dtype,
        config,
    })
}

fn bert_block(
    source: &TensorSource,
    name: &str,
    w: usize,
    eps: f64,
) -> Result<BertBlock, TextError> {
    let at = |part: &str| format!("{name}.{part}");
    let hidden = source.rows(&at("intermediate.dense.weight"))?;
    Ok(BertBlock {
        query: source.linear(&at("attention.self.query"), w, w)?,
        key: source.linear(&at("attention.self.key"), w, w)?,
        value: source.linear(&at("attention.self.value"), w, w)?,
        out: source.linear(&at("attention.output.dense"), w, w)?,
        norm_1: source.norm(&at("attention.output.LayerNorm"), w, eps)?,
        mlp_in: source.linear(&at("intermediate.dense"), hidden, w)?,
        mlp_out: source.linear(&at("output.dense"), w, hidden)?,
        norm_2: source.norm(&at("output.LayerNorm"), w, eps)?,
    })
}

/// A norm, layers, and whether a GELU stands between them.
type EncoderHead = (Option<FrozenLayerNorm>, Vec<FrozenLinear>, bool);

/// What leads from an encoder into the joint space.
fn encoder_head(
    source: &TensorSource,
    w: usize,
    config: &TextConfig,
) -> Result<EncoderHead, TextError> {
    const TRANSFORMATION: &str = "text_model.transformation";
    let dim = config.projection;
    if source.has("proj.0.weight") {
        let hidden = source.rows("proj.0.weight")?;
        let layers = vec![
            source.bare("proj.0", hidden, w)?,
            source.bare("proj.2", dim, hidden)?,
        ];
        return Ok((None, layers, true));
    }
    if source.has("proj.weight") {
        return Ok((None, vec![source.bare("proj", dim, w)?], false));
    }
    if source.has(&format!("{TRANSFORMATION}.weight")) {
        let hidden = source.rows(&format!("{TRANSFORMATION}.weight"))?;
        let norm = source.norm("text_model.pre_LN", w, config.layer_norm_eps)?;
        let layers = vec![
            source.linear(TRANSFORMATION, hidden, w)?,
            source.bare("text_projection", dim, hidden)?,
        ];
        return Ok((Some(norm), layers, false));
    }
    if source.has("text_projection.weight") {
        let layer = source.bare("text_projection", dim, w)?;
        return Ok((None, vec![layer], false));
    }
    match w == dim {
        true => Ok((None, Vec::new(), false)),
        false => Err(TextError::MissingTensor {
            name: "proj.weight".to_owned(),
        }),
    }
}

//! What a text tower's configuration file says, in Hugging Face's and OpenCLIP's forms.

mod open_clip;

use serde::Deserialize;
use serde_json::Value;
use tagstream_kernels::Activation;

/// The shape of a text tower: CLIP's causal one, or SigLIP's, which sees a text whole.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Number of tokens.
    pub vocabulary: usize,
    /// W: width of the transformer.
    pub width: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Attention heads a block.
    pub heads: usize,
    /// Most tokens of a text.
    pub context_length: usize,
    /// D: width of the joint space.
    pub projection: usize,
    /// The MLP's activation.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Where the tower is read.
    pub read_out: ReadOutPosition,
    /// If every position sees all: the token with which a text is filled up to the context length.
    /// `None` is causal.
    pub padding: Option<u32>,
    /// How texts become tokens.
    pub texts: TextForm,
    /// Whether a text begins with a token of its own. Callers put one first in any case.
    pub begin: bool,
    /// Where the tower is read at a token of its own behind the text's, in place of `read_out`.
    pub class: Option<ClassToken>,
    /// BERT's form, if it has that; its vocabulary, width and layers are those of the tensors.
    pub encoder: Option<EncoderForm>,
}

/// CoCa's class token, whose position is the one behind the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassToken {
    /// OpenCLIP's first CoCa took the filling's mask one position too far: its class token sees one
    /// token of filling (this id), and not itself.
    pub shifted: Option<u32>,
}

/// What encoders of BERT's kind differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderForm {
    /// The row of the table of positions that a text's first token has: RoBERTa's begin behind that
    /// of the filling.
    pub first_position: usize,
    /// Whether the mean of a text's tokens is read, or the first.
    pub mean: bool,
}

/// How texts become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextForm {
    /// As typed, between begin and end token where the tokenizer has both (CLIP, MetaCLIP 2).
    Plain,
    /// The same, in small letters and without punctuation.
    Canonical,
    /// In small letters, without a begin token, filled up (SigLIP).
    SigLip,
    /// Between begin and end token, filled up with 0 (MobileCLIP).
    Filled,
    /// Behind a begin token, filled up with 0 in place of an end token (CLIPA).
    Unended,
}

/// The position of a text at which the tower is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutPosition {
    /// The first token with this id (Hugging Face, when `eos_token_id` is not 2).
    FirstOf(u32),
    /// The token with the largest id, the first of several: OpenAI's and OpenCLIP's rule, which
    /// relies on the end token being the last of the vocabulary. Hugging Face follows it too when a
    /// configuration says `eos_token_id: 2`: configurations written before transformers 4.24 say so
    /// although the tokenizer's end token is 49407.
    LargestId,
    /// The last token.
    Last,
}

impl ReadOutPosition {
    /// The index of that token, if the text has one.
    pub fn find(self, tokens: &[u32]) -> Option<usize> {
        match self {
            ReadOutPosition::FirstOf(id) => tokens.iter().position(|&token| token == id),
            ReadOutPosition::LargestId => {
                let largest = tokens.iter().max()?;
                tokens.iter().position(|token| token == largest)
            }
            ReadOutPosition::Last => tokens.len().checked_sub(1),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextConfigError {
    /// No JSON of a known form.
    #[error("not a text configuration: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A setting this tower does not have.
    #[error("the text tower has {key} = {value}, which is not supported: {hint}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is supported.
        hint: &'static str,
    },
}

impl TextConfig {
    /// An encoder of BERT's kind. No heads stand for heads of 64 numbers.
    fn encoder(projection: usize, form: EncoderForm) -> Self {
        Self {
            vocabulary: 0,
            width: 0,
            layers: 0,
            heads: 0,
            context_length: 0,
            projection,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            read_out: ReadOutPosition::Last,
            padding: None,
            texts: TextForm::Plain,
            begin: true,
            class: None,
            encoder: Some(form),
        }
    }

    /// Reads `config.json` of Hugging Face's `CLIPTextModelWithProjection`, `CLIPModel` or
    /// `SiglipModel`, or OpenCLIP's `open_clip_config.json`.
    ///
    /// # Errors
    /// If it is none of these, or asks for something that this tower cannot do.
    pub fn from_json(json: &str) -> Result<Self, TextConfigError> {
        let value = Value::Object(serde_json::from_str(json)?);
        if let Some(model) = value.get("model_cfg") {
            return open_clip::read(model);
        }
        if value.get("model_type").and_then(Value::as_str) == Some("siglip") {
            let empty = Value::Object(serde_json::Map::new());
            let text = value.get("text_config").unwrap_or(&empty);
            return siglip(SigLip::deserialize(text)?);
        }
        let kind = value.get("model_type").and_then(Value::as_str);
        if let Some(family @ ("chinese_clip" | "altclip")) = kind {
            return bert(&value, family == "altclip");
        }
        let first_end = kind.is_some_and(|kind| kind.starts_with("metaclip_2"));
        if let Some(text) = value.get("text_config") {
            let mut config = hugging_face(HuggingFace::deserialize(text)?, first_end)?;
            // A whole CLIPModel says the joint width outside the two towers' own configurations.
            if let Some(projection) = value.get("projection_dim") {
                config.projection = usize::deserialize(projection)?;
            }
            return Ok(config);
        }
        hugging_face(HuggingFace::deserialize(&value)?, first_end)
    }
}

/// `CLIPTextConfig`, with its defaults: configurations leave out what equals them.
#[derive(Deserialize)]
#[serde(default)]
struct HuggingFace {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    projection_dim: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    eos_token_id: u32,
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            projection_dim: 512,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

/// Hugging Face's names of activations.
fn activation(name: &str) -> Result<Activation, TextConfigError> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(TextConfigError::Unsupported {
            key: "hidden_act",
            value: other.to_owned(),
            hint: "quick_gelu, gelu or gelu_pytorch_tanh",
        }),
    }
}

/// `SiglipTextConfig`, with its defaults.
#[derive(Deserialize)]
#[serde(default)]
struct SigLip {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    projection_size: Option<usize>,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for SigLip {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            projection_size: None,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            layer_norm_eps: 1e-6,
        }
    }
}

fn siglip(config: SigLip) -> Result<TextConfig, TextConfigError> {
    Ok(TextConfig {
        vocabulary: config.vocab_size,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        context_length: config.max_position_embeddings,
        projection: config.projection_size.unwrap_or(config.hidden_size),
        activation: activation(&config.hidden_act)?,
        layer_norm_eps: config.layer_norm_eps,
        read_out: ReadOutPosition::Last,
        padding: Some(SIGLIP_PADDING),
        texts: TextForm::SigLip,
        begin: false,
        class: None,
        encoder: None,
    })
}

/// What SigLIP fills texts with (its end token) where the tokenizer says nothing else.
const SIGLIP_PADDING: u32 = 1;

/// `first_end`: the end token is looked for by its id, whatever that is (MetaCLIP 2).
fn hugging_face(config: HuggingFace, first_end: bool) -> Result<TextConfig, TextConfigError> {
    let activation = activation(&config.hidden_act)?;
    Ok(TextConfig {
        vocabulary: config.vocab_size,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        context_length: config.max_position_embeddings,
        projection: config.projection_dim,
        activation,
        layer_norm_eps: config.layer_norm_eps,
        read_out: match config.eos_token_id {
            2 if !first_end => ReadOutPosition::LargestId,
            id => ReadOutPosition::FirstOf(id),
        },
        padding: None,
        texts: TextForm::Plain,
        begin: true,
        class: None,
        encoder: None,
    })
}

/// `ChineseCLIPTextConfig` and `AltCLIPTextConfig`, as far as no tensor tells it.
#[derive(Deserialize)]
struct Bert {
    num_attention_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    pad_token_id: Option<usize>,
}

/// Reads an encoder of BERT's kind; `altclip` is the family, else it is Chinese-CLIP.
fn bert(config: &Value, altclip: bool) -> Result<TextConfig, TextConfigError> {
    let text = Bert::deserialize(config.get("text_config").unwrap_or(config))?;
    let projection = match config.get("projection_dim") {
        Some(dim) => usize::deserialize(dim)?,
        None if altclip => 768,
        None => 512,
    };
    let (heads, positions, epsilon) = match altclip {
        true => (16, 514, 1e-5),
        false => (12, 512, 1e-12),
    };
    let first_position = match altclip {
        true => text.pad_token_id.unwrap_or(1) + 1,
        false => 0,
    };
    let positions = text.max_position_embeddings.unwrap_or(positions);
    if let Some(other) = text.hidden_act.filter(|act| act != "gelu") {
        return Err(TextConfigError::Unsupported {
            key: "hidden_act",
            value: other,
            hint: "gelu",
        });
    }
    Ok(TextConfig {
        heads: text.num_attention_heads.unwrap_or(heads),
        context_length: positions.saturating_sub(first_position),
        layer_norm_eps: text.layer_norm_eps.unwrap_or(epsilon),
        ..TextConfig::encoder(
            projection,
            EncoderForm {
                first_position,
                mean: false,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_hugging_face_configuration_fills_in_defaults() {
        let config = TextConfig::from_json(
            r#"{"hidden_size": 256, "num_hidden_layers": 4, "projection_dim": 256}"#,
        )
        .unwrap();
        assert_eq!(
            (config.width, config.layers, config.heads, config.projection),
            (256, 4, 8, 256)
        );
        assert_eq!(config.read_out, ReadOutPosition::FirstOf(49_407));
        assert_eq!(config.activation, Activation::QuickGelu);
    }

    #[test]
    fn a_whole_clip_configuration_takes_the_outer_projection() {
        let config = TextConfig::from_json(
            r#"{"projection_dim": 768, "text_config": {"hidden_size": 768, "eos_token_id": 2}}"#,
        )
        .unwrap();
        assert_eq!((config.width, config.projection), (768, 768));
        assert_eq!(config.read_out, ReadOutPosition::LargestId);
    }

    #[test]
    fn open_clip_is_gelu_unless_it_says_quick() {
        let json = r#"{"model_cfg": {"embed_dim": 1024, "vision_cfg": {"layers": [3,4,6,3]},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512,
            "heads": 8, "layers": 12}}}"#;
        let config = TextConfig::from_json(json).unwrap();
        assert_eq!(
            (config.projection, config.activation),
            (1024, Activation::Gelu)
        );
        let quick = json.replace(r#""embed_dim""#, r#""quick_gelu": true, "embed_dim""#);
        assert_eq!(
            TextConfig::from_json(&quick).unwrap().activation,
            Activation::QuickGelu
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for text in [
            r#"{"pool_type": "last"}"#,
            r#"{"pool_type": "first", "no_causal_mask": true}"#,
            r#"{"pool_type": "eos"}"#,
            r#"{"no_causal_mask": true, "use_pad_mask": true}"#,
            r#"{"tokenizer_kwargs": {"clean": "upper"}}"#,
            r#"{"tokenizer_mode": "clips"}"#,
            r#"{"hf_model_name": "google/mt5-base"}"#,
            r#"{"hf_model_name": "roberta-base", "hf_pooler_type": "cls_pooler"}"#,
            r#"{"proj_type": "mlp"}"#,
        ] {
            let json = format!(r#"{{"model_cfg": {{"embed_dim": 8, "text_cfg": {text}}}}}"#);
            assert!(TextConfig::from_json(&json).is_err(), "{text}");
        }
        assert!(TextConfig::from_json(r#"{"hidden_act": "relu"}"#).is_err());
        assert!(TextConfig::from_json("[]").is_err());
    }

    #[test]
    fn the_read_out_is_the_first_end_token_or_the_first_largest() {
        let tokens = [9, 4, 5, 8, 8, 3];
        assert_eq!(ReadOutPosition::FirstOf(8).find(&tokens), Some(3));
        assert_eq!(ReadOutPosition::FirstOf(7).find(&tokens), None);
        assert_eq!(ReadOutPosition::LargestId.find(&[4, 5, 8, 8]), Some(2));
        assert_eq!(ReadOutPosition::LargestId.find(&[]), None);
    }
}

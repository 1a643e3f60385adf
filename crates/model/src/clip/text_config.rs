//! What a text tower's configuration file says, in Hugging Face's and OpenCLIP's forms.

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
    /// SigLIP's form, if it has that: a text has no begin token, is filled up to the context length
    /// with this token, every position sees all, and the last one is read. `None` is causal.
    pub padding: Option<u32>,
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
    /// Reads `config.json` of Hugging Face's `CLIPTextModelWithProjection`, `CLIPModel` or
    /// `SiglipModel`, or OpenCLIP's `open_clip_config.json`.
    ///
    /// # Errors
    /// If it is none of these, or asks for something that this tower cannot do.
    pub fn from_json(json: &str) -> Result<Self, TextConfigError> {
        let value = Value::Object(serde_json::from_str(json)?);
        if let Some(model) = value.get("model_cfg") {
            return open_clip(OpenClip::deserialize(model)?);
        }
        if value.get("model_type").and_then(Value::as_str) == Some("siglip") {
            let empty = Value::Object(serde_json::Map::new());
            let text = value.get("text_config").unwrap_or(&empty);
            return siglip(SigLip::deserialize(text)?);
        }
        if let Some(text) = value.get("text_config") {
            let mut config = hugging_face(HuggingFace::deserialize(text)?)?;
            // A whole CLIPModel says the joint width outside the two towers' own configurations.
            if let Some(projection) = value.get("projection_dim") {
                config.projection = usize::deserialize(projection)?;
            }
            return Ok(config);
        }
        hugging_face(HuggingFace::deserialize(&value)?)
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
    })
}

/// What SigLIP fills texts with (its end token) where the tokenizer says nothing else.
const SIGLIP_PADDING: u32 = 1;

fn hugging_face(config: HuggingFace) -> Result<TextConfig, TextConfigError> {
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
            2 => ReadOutPosition::LargestId,
            id => ReadOutPosition::FirstOf(id),
        },
        padding: None,
    })
}

/// OpenCLIP's `model_cfg`, as far as the text tower goes.
#[derive(Deserialize)]
struct OpenClip {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    text_cfg: OpenClipText,
}

#[derive(Deserialize)]
#[serde(default)]
struct OpenClipText {
    context_length: usize,
    vocab_size: usize,
    width: usize,
    heads: usize,
    layers: usize,
    no_causal_mask: bool,
    embed_cls: bool,
    pool_type: String,
    proj_type: String,
    proj_bias: bool,
    hf_model_name: Option<String>,
    ls_init_value: Option<f64>,
    norm_kwargs: Option<OpenClipNorm>,
    act_kwargs: Option<OpenClipActivation>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenClipNorm {
    eps: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenClipActivation {
    approximate: String,
}

/// Keys of `text_cfg` that say how text becomes tokens, or nothing about what is computed.
const NOT_COMPUTED: [&str; 10] = [
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "tokenizer_mode",
    "mlp_ratio",
    "pad_id",
    "eos_id",
    "bos_id",
    "output_tokens",
    "hf_model_pretrained",
    "correct_cls_mask",
];

impl Default for OpenClipText {
    fn default() -> Self {
        Self {
            context_length: 77,
            vocab_size: 49_408,
            width: 512,
            heads: 8,
            layers: 12,
            no_causal_mask: false,
            embed_cls: false,
            pool_type: "argmax".to_owned(),
            proj_type: "linear".to_owned(),
            proj_bias: false,
            hf_model_name: None,
            ls_init_value: None,
            norm_kwargs: None,
            act_kwargs: None,
            others: serde_json::Map::new(),
        }
    }
}

fn open_clip(config: OpenClip) -> Result<TextConfig, TextConfigError> {
    let text = config.text_cfg;
    let refuse = |key, value: String, hint| Err(TextConfigError::Unsupported { key, value, hint });
    if let Some(name) = text.hf_model_name {
        return refuse("hf_model_name", name, "OpenCLIP's own causal transformer");
    }
    if text.embed_cls || text.ls_init_value.is_some() {
        return refuse(
            "embed_cls or ls_init_value",
            "set".to_owned(),
            "a tower read at its end token, without layer scale",
        );
    }
    let off = |value: &Value| value.is_null() || value == &Value::Bool(false);
    let mut others = text.others.iter();
    if let Some((key, value)) =
        others.find(|(key, value)| !NOT_COMPUTED.contains(&key.as_str()) && !off(value))
    {
        let hint = "OpenCLIP's own transformer";
        return refuse("text_cfg", format!("{key}: {value}"), hint);
    }
    // Two forms of the tower: CLIP's, and SigLIP's.
    let padding = match (text.no_causal_mask, text.pool_type.as_str(), text.proj_bias) {
        (false, "argmax", false) => None,
        (true, "last", true) => Some(SIGLIP_PADDING),
        (no_mask, pool, bias) => {
            return refuse(
                "no_causal_mask, pool_type and proj_bias",
                format!("{no_mask}, {pool} and {bias}"),
                "false, argmax and false (CLIP), or true, last and true (SigLIP)",
            );
        }
    };
    if text.proj_type != "linear" {
        return refuse("proj_type", text.proj_type, "linear");
    }
    let activation = match (config.quick_gelu, text.act_kwargs) {
        (true, _) => Activation::QuickGelu,
        (false, Some(how)) if how.approximate == "tanh" => Activation::GeluTanh,
        (false, Some(how)) if how.approximate != "none" => {
            return refuse("act_kwargs.approximate", how.approximate, "none or tanh");
        }
        (false, _) => Activation::Gelu,
    };
    Ok(TextConfig {
        vocabulary: text.vocab_size,
        width: text.width,
        layers: text.layers,
        heads: text.heads,
        context_length: text.context_length,
        projection: config.embed_dim,
        activation,
        layer_norm_eps: text.norm_kwargs.map_or(1e-5, |norm| norm.eps),
        read_out: match padding {
            None => ReadOutPosition::LargestId,
            Some(_) => ReadOutPosition::Last,
        },
        padding,
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
            r#"{"no_causal_mask": true}"#,
            r#"{"hf_model_name": "roberta"}"#,
            r#"{"proj_bias": true}"#,
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

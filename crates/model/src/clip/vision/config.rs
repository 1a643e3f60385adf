//! What a vision tower's configuration file says, in Hugging Face's and OpenCLIP's forms.

use super::architecture::{Architecture, Naming, Pooling, TransformerForm};
use super::config_error::{VisionConfigError, unsupported};
use super::pixel_values::{self, PixelStatistics, PreprocessorFile};
use serde::Deserialize;
use serde_json::{Map, Value};
use tagstream_kernels::Activation;

/// A vision tower's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// The tower.
    pub architecture: Architecture,
    /// The names of its tensors.
    pub naming: Naming,
    /// D: width of the joint space.
    pub dim: usize,
    /// Side of the input that the tower was made for, pixels.
    pub image_size: usize,
    /// Pixel mean, of pixels in [0, 1], RGB.
    pub mean: [f32; 3],
    /// Pixel standard deviation.
    pub std: [f32; 3],
}

impl VisionConfig {
    /// Reads Hugging Face's `config.json` of a `CLIPModel`, a `CLIPVisionModelWithProjection` or a
    /// `SiglipModel`; `preprocessors` are the `preprocessor_config.json` and
    /// `processor_config.json` beside it, as far as they are there.
    ///
    /// # Errors
    /// Names the key that these towers cannot honour.
    pub fn hugging_face(
        json: &str,
        preprocessors: &[PreprocessorFile<'_>],
    ) -> Result<Self, VisionConfigError> {
        let value: Value = serde_json::from_str(json)?;
        let pooling = family(&value)?;
        let whole = value.get("vision_config");
        let given = match (whole, pooling) {
            (Some(given), _) => given.clone(),
            (None, Pooling::Attention) => Value::Object(Map::new()),
            (None, _) => value.clone(),
        };
        let mut config = HuggingFace::of(given, pooling)?;
        if let (Some(_), Some(dim)) = (whole, value.get("projection_dim")) {
            // A whole CLIPModel says the joint width outside the two towers' own configurations.
            config.projection_dim = usize::deserialize(dim)?;
        }
        if config.num_channels != 3 {
            return Err(unsupported(
                "num_channels",
                config.num_channels,
                "3 channels",
            ));
        }
        let activation = match config.hidden_act.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
            other => {
                let hint = "quick_gelu, gelu or gelu_pytorch_tanh";
                return Err(unsupported("hidden_act", other, hint));
            }
        };
        let (unsaid, dim) = match pooling {
            Pooling::Attention => (PixelStatistics::HALF, config.hidden_size),
            _ => (PixelStatistics::CLIP, config.projection_dim),
        };
        let pixels = pixel_values::hugging_face(preprocessors, unsaid)?;
        Ok(Self {
            architecture: Architecture::Transformer {
                pooling,
                form: TransformerForm::plain(
                    pooling == Pooling::ClassToken,
                    config.num_attention_heads,
                ),
                layers: config.num_hidden_layers,
                width: config.hidden_size,
                heads: config.num_attention_heads,
                patch: config.patch_size,
                activation,
                epsilon: config.layer_norm_eps,
            },
            naming: Naming::HuggingFace,
            dim,
            image_size: config.image_size,
            mean: pixels.mean,
            std: pixels.std,
        })
    }

    /// Reads OpenCLIP's `open_clip_config.json` of its own towers.
    ///
    /// # Errors
    /// Names the key that these towers cannot honour.
    pub fn open_clip(json: &str) -> Result<Self, VisionConfigError> {
        let file: OpenClipFile = serde_json::from_str(json)?;
        let vision = file.model_cfg.vision_cfg;
        refuse_what_is_not_read(&vision.others)?;
        let head_width = vision.head_width.unwrap_or(64);
        let heads = |width: usize| {
            if head_width == 0 || !width.is_multiple_of(head_width) {
                return Err(unsupported(
                    "vision_cfg.head_width",
                    head_width,
                    "a divisor of the width",
                ));
            }
            Ok(width / head_width)
        };
        let width = vision.width.unwrap_or(768);
        let architecture = match vision.layers.unwrap_or(Layers::Blocks(12)) {
            Layers::Stages(layers) => Architecture::ModifiedResNet {
                layers,
                width,
                heads: heads(width * 32)?,
            },
            Layers::Blocks(layers) => Architecture::Transformer {
                pooling: pooling(&vision)?,
                form: TransformerForm {
                    first_norm: !vision.no_ln_pre,
                    pool_heads: vision.attn_pooler_heads.unwrap_or(8),
                    ..TransformerForm::plain(true, heads(width)?)
                },
                layers,
                width,
                heads: heads(width)?,
                patch: vision.patch_size.unwrap_or(16),
                activation: if file.model_cfg.quick_gelu {
                    Activation::QuickGelu
                } else {
                    Activation::Gelu
                },
                epsilon: vision.norm_kwargs.and_then(|norm| norm.eps).unwrap_or(1e-5),
            },
        };
        let pixels = pixel_values::open_clip(file.preprocess_cfg.as_ref())?;
        Ok(Self {
            architecture,
            naming: Naming::OpenClip,
            dim: file.model_cfg.embed_dim,
            image_size: match vision.image_size {
                None => 224,
                Some(ImageSize::Square(side)) => side,
                Some(ImageSize::Sides(height, width)) if height == width => height,
                Some(ImageSize::Sides(height, width)) => {
                    let sides = format!("{height}x{width}");
                    return Err(unsupported("vision_cfg.image_size", sides, "square inputs"));
                }
            },
            mean: pixels.mean,
            std: pixels.std,
        })
    }
}

/// Where OpenCLIP's transformer is read.
fn pooling(vision: &OpenClipVision) -> Result<Pooling, VisionConfigError> {
    let attends = match &vision.attentional_pool {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        other => {
            let hint = "true or false: CoCa as OpenCLIP trained it";
            return Err(unsupported("vision_cfg.attentional_pool", other, hint));
        }
    };
    match (vision.pool_type.as_deref(), attends) {
        // Of CoCa's queries the first is the picture's.
        (None | Some("tok"), true) => Ok(Pooling::Attention),
        (None | Some("tok"), false) => Ok(Pooling::ClassToken),
        (Some("avg"), false) => Ok(Pooling::Mean {
            norm_behind: vision.final_ln_after_pool,
        }),
        (Some(other), true) => {
            let hint = "tok beside an attentional_pool";
            Err(unsupported("vision_cfg.pool_type", other, hint))
        }
        (Some(other), false) => Err(unsupported("vision_cfg.pool_type", other, "tok or avg")),
    }
}

/// The family of a `config.json`. Refused are, by their name, towers that are not known, and
/// weights that are stored as something else than numbers.
fn family(config: &Value) -> Result<Pooling, VisionConfigError> {
    if let Some(how) = config.get("quantization_config").filter(|v| !v.is_null()) {
        let method = how.get("quant_method").unwrap_or(how);
        let hint = "quantized weights are not read: take the repository that they were made from";
        return Err(unsupported("quantization_config", method, hint));
    }
    match config.get("model_type").and_then(Value::as_str) {
        None
        | Some(
            "clip"
            | "clip_vision_model"
            | "clip_text_model"
            | "chinese_clip"
            | "altclip"
            | "metaclip_2"
            | "metaclip_2_vision_model"
            | "metaclip_2_text_model",
        ) => Ok(Pooling::ClassToken),
        Some("siglip") => {
            let head = config.pointer("/vision_config/vision_use_head");
            match head {
                Some(Value::Bool(false)) => {
                    let hint = "SigLIP with its attention pool";
                    Err(unsupported("vision_use_head", false, hint))
                }
                _ => Ok(Pooling::Attention),
            }
        }
        Some(other @ "siglip2") => {
            let hint = "its pictures have sizes of their own (NaFlex); SigLIP 2 of a fixed size, \
                        as google/siglip2-base-patch16-224, is read";
            Err(unsupported("model_type", other, hint))
        }
        Some(other) => {
            let hint =
                "clip, chinese_clip, altclip, metaclip_2 and siglip are read: docs/models.md";
            Err(unsupported("model_type", other, hint))
        }
    }
}

/// Refuses keys of `vision_cfg` that change what is computed.
fn refuse_what_is_not_read(others: &Map<String, Value>) -> Result<(), VisionConfigError> {
    for (key, value) in others {
        let harmless = match key.as_str() {
            // Training only, or of the text tower.
            "patch_dropout" | "output_tokens" | "timm_model_pretrained" | "attn_pooler_queries" => {
                true
            }
            // The tensors say whether there is layer scale.
            "ls_init_value" => true,
            // Either is stored as a tensor.
            "pos_embed_type" => value == "learnable" || value == "sin_cos_2d",
            _ => value.is_null() || value == &Value::Bool(false) || key == "mlp_ratio",
        };
        if !harmless {
            let hint = "OpenCLIP's ModifiedResNet and its plain vision transformer are read";
            return Err(unsupported(&format!("vision_cfg.{key}"), value, hint));
        }
    }
    Ok(())
}

/// `CLIPVisionConfig` with its defaults: configurations leave out what equals them.
#[derive(Deserialize)]
#[serde(default)]
struct HuggingFace {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    projection_dim: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl HuggingFace {
    /// Reads a vision tower's configuration; what it leaves out equals its family's defaults.
    fn of(mut given: Value, pooling: Pooling) -> Result<Self, VisionConfigError> {
        if let (Pooling::Attention, Some(given)) = (pooling, given.as_object_mut()) {
            // Where SiglipVisionConfig's differ from CLIPVisionConfig's.
            for (key, value) in [
                ("patch_size", Value::from(16)),
                ("hidden_act", Value::from("gelu_pytorch_tanh")),
                ("layer_norm_eps", Value::from(1e-6)),
            ] {
                given.entry(key).or_insert(value);
            }
        }
        Ok(Self::deserialize(given)?)
    }
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            projection_dim: 512,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

#[derive(Deserialize)]
struct OpenClipFile {
    model_cfg: OpenClipModel,
    preprocess_cfg: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct OpenClipModel {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: OpenClipVision,
}

#[derive(Deserialize)]
struct OpenClipVision {
    layers: Option<Layers>,
    width: Option<usize>,
    head_width: Option<usize>,
    patch_size: Option<usize>,
    image_size: Option<ImageSize>,
    norm_kwargs: Option<NormOptions>,
    pool_type: Option<String>,
    #[serde(default)]
    no_ln_pre: bool,
    #[serde(default)]
    final_ln_after_pool: bool,
    attn_pooler_heads: Option<usize>,
    #[serde(default)]
    attentional_pool: Value,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Layers {
    Blocks(usize),
    Stages([usize; 4]),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ImageSize {
    Square(usize),
    Sides(usize, usize),
}

#[derive(Deserialize)]
struct NormOptions {
    eps: Option<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::vision::CLIP_MEAN;

    #[test]
    fn defaults_of_hugging_face_are_those_of_vit_b_32() {
        let config = VisionConfig::hugging_face(
            r#"{"model_type":"clip","projection_dim":640,"text_config":{},
                "vision_config":{"patch_size":16}}"#,
            &[PreprocessorFile {
                name: "preprocessor_config.json",
                json: r#"{"image_mean":[0.5,0.5,0.5],"image_std":[0.25,0.25,0.25],"size":224}"#,
            }],
        )
        .unwrap();
        assert_eq!(config.dim, 640);
        assert_eq!((config.mean, config.std), ([0.5; 3], [0.25; 3]));
        let Architecture::Transformer {
            layers,
            patch,
            activation,
            ..
        } = config.architecture
        else {
            panic!("a transformer");
        };
        assert_eq!((layers, patch, activation), (12, 16, Activation::QuickGelu));
    }

    #[test]
    fn open_clip_tells_its_two_kinds_apart() {
        let config = VisionConfig::open_clip(
            r#"{"model_cfg":{"embed_dim":1024,"vision_cfg":{"image_size":224,"layers":[3,4,6,3],
                "width":64,"patch_size":null}},
                "preprocess_cfg":{"mean":[0,0,0],"std":[1,1,1]}}"#,
        )
        .unwrap();
        let expected = Architecture::ModifiedResNet {
            layers: [3, 4, 6, 3],
            width: 64,
            heads: 32,
        };
        assert_eq!(config.architecture, expected);
        assert_eq!(config.mean, [0.0; 3]);
        let config = VisionConfig::open_clip(
            r#"{"model_cfg":{"embed_dim":512,"quick_gelu":true,"vision_cfg":{"layers":12,
                "width":768,"patch_size":32,"norm_kwargs":{"eps":1e-6},"patch_dropout":0.5}}}"#,
        )
        .unwrap();
        let Architecture::Transformer {
            heads,
            activation,
            epsilon,
            ..
        } = config.architecture
        else {
            panic!("a transformer");
        };
        assert_eq!(
            (heads, activation, epsilon),
            (12, Activation::QuickGelu, 1e-6)
        );
        assert_eq!(config.mean, CLIP_MEAN);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let open_clip = |extra: &str| {
            let json =
                format!(r#"{{"model_cfg":{{"embed_dim":8,"vision_cfg":{{"layers":2,{extra}}}}}}}"#);
            VisionConfig::open_clip(&json).unwrap_err().to_string()
        };
        assert!(open_clip(r#""timm_model_name":"convnext_base""#).contains("timm_model_name"));
        assert!(open_clip(r#""attentional_pool":"cascade""#).contains("attentional_pool"));
        assert!(open_clip(r#""pool_type":"map""#).contains("pool_type"));
        assert!(open_clip(r#""qk_norm":true"#).contains("qk_norm"));
        assert!(open_clip(r#""image_size":[224,336]"#).contains("224x336"));
        assert!(open_clip(r#""head_width":100"#).contains("head_width"));
        for (json, word) in [
            (r#"{"hidden_act":"relu"}"#, "relu"),
            (r#"{"model_type":"blip"}"#, "blip"),
            (
                r#"{"quantization_config":{"quant_method":"bitsandbytes"}}"#,
                "bitsandbytes",
            ),
        ] {
            let error = VisionConfig::hugging_face(json, &[]).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(VisionConfig::open_clip("{}").is_err());
    }
}

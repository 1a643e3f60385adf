//! timm's trunks inside OpenCLIP's models (`timm_model_name`).
//!
//! Most sizes are those of the tensors; what no tensor tells is in the table here, by the trunk's
//! name.

use super::config_error::{VisionConfigError, unsupported};
use super::maps::counted;
use super::{
    Architecture, Naming, Pooling, Rotary, TransformerForm, VisionConfig, convnext, fastvit,
    projection, stem, vitamin,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use serde_json::{Map, Value};
use tagstream_kernels::Activation;

/// What timm builds under a name, as far as no tensor tells it.
#[derive(Clone, Copy)]
struct Trunk {
    /// The name without the input's size.
    name: &'static str,
    kind: Kind,
    epsilon: f32,
}

#[derive(Clone, Copy)]
enum Kind {
    Transformer {
        heads: usize,
        activation: Activation,
        /// Where it is read if `timm_pool` is empty.
        pool: &'static str,
        pool_heads: usize,
        norms_behind: bool,
        rotary: Option<Rotary>,
        positions: bool,
    },
    ConvNeXt,
    FastVit,
}

const fn vit(name: &'static str, heads: usize) -> Trunk {
    let kind = Kind::Transformer {
        heads,
        activation: Activation::Gelu,
        pool: "token",
        pool_heads: heads,
        norms_behind: false,
        rotary: None,
        positions: true,
    };
    Trunk {
        name,
        kind,
        epsilon: 1e-6,
    }
}

/// A SigLIP; newer ones take the GELU by the hyperbolic tangent.
const fn siglip(name: &'static str, heads: usize, tanh: bool) -> Trunk {
    let activation = match tanh {
        true => Activation::GeluTanh,
        false => Activation::Gelu,
    };
    with(vit(name, heads), activation, "map")
}

const fn with(mut trunk: Trunk, act: Activation, read: &'static str) -> Trunk {
    if let Kind::Transformer {
        activation, pool, ..
    } = &mut trunk.kind
    {
        *activation = act;
        *pool = read;
    }
    trunk
}

/// OpenAI's form, whose norms add a larger epsilon.
const fn clip(name: &'static str, heads: usize, activation: Activation) -> Trunk {
    let mut trunk = with(vit(name, heads), activation, "token");
    trunk.epsilon = 1e-5;
    trunk
}

const fn turned(mut trunk: Trunk, table: Rotary) -> Trunk {
    if let Kind::Transformer { rotary, .. } = &mut trunk.kind {
        *rotary = Some(table);
    }
    trunk
}

const EVA_02: Rotary = Rotary {
    reference: 16.0,
    offset: 0.0,
    columns_first: false,
};

const fn eva_02_enormous(mut trunk: Trunk) -> Trunk {
    if let Kind::Transformer { norms_behind, .. } = &mut trunk.kind {
        *norms_behind = true;
    }
    trunk
}

const fn pe_core(name: &'static str, heads: usize, reference: f32, offset: f32) -> Trunk {
    let rotary = Rotary {
        reference,
        offset,
        columns_first: true,
    };
    let mut trunk = turned(with(vit(name, heads), Activation::Gelu, "map"), rotary);
    trunk.epsilon = 1e-5;
    if let Kind::Transformer { pool_heads, .. } = &mut trunk.kind {
        *pool_heads = 8;
    }
    trunk
}

const fn conv_next(name: &'static str, epsilon: f32) -> Trunk {
    Trunk {
        name,
        kind: Kind::ConvNeXt,
        epsilon,
    }
}

/// A ViTamin, read at the mean of its locations.
const fn vitamin(name: &'static str, heads: usize, placed: bool) -> Trunk {
    let mut trunk = with(vit(name, heads), Activation::Gelu, "avg");
    if let Kind::Transformer { positions, .. } = &mut trunk.kind {
        *positions = placed;
    }
    trunk
}

/// MobileCLIP's; others of the family lack an activation.
const FAST_VIT: Trunk = Trunk {
    name: "fastvit_mci",
    kind: Kind::FastVit,
    epsilon: 1e-5,
};

/// The trunks that are read.
const TRUNKS: [Trunk; 55] = [
    siglip("vit_base_patch16_siglip_", 12, false),
    siglip("vit_base_patch32_siglip_", 12, true),
    siglip("vit_large_patch16_siglip_256", 16, false),
    siglip("vit_large_patch16_siglip_384", 16, false),
    siglip("vit_large_patch16_siglip_512", 16, true),
    siglip("vit_so400m_patch14_siglip_", 16, false),
    siglip("vit_so400m_patch16_siglip_", 16, true),
    siglip("vit_giantopt_patch16_siglip_", 16, true),
    vit("eva_giant_patch14_", 16),
    turned(vit("eva02_base_patch16_clip_", 12), EVA_02),
    turned(vit("eva02_large_patch14_clip_", 16), EVA_02),
    eva_02_enormous(vit("eva02_enormous_patch14_clip_", 16)),
    pe_core("vit_pe_core_tiny_patch16_", 3, 24.0, 1.0),
    pe_core("vit_pe_core_small_patch16_", 6, 24.0, 1.0),
    pe_core("vit_pe_core_base_patch16_", 12, 14.0, 1.0),
    pe_core("vit_pe_core_large_patch14_", 16, 24.0, 1.0),
    pe_core("vit_pe_core_gigantic_patch14_", 16, 32.0, 0.0),
    vit("vit_base_mci_", 12),
    clip("vit_medium_patch32_clip_", 8, Activation::Gelu),
    clip("vit_medium_patch16_clip_", 8, Activation::Gelu),
    clip("vit_base_patch32_clip_", 12, Activation::Gelu),
    clip("vit_base_patch16_clip_", 12, Activation::Gelu),
    clip("vit_large_patch14_clip_", 16, Activation::Gelu),
    clip("vit_huge_patch14_clip_", 16, Activation::Gelu),
    clip("vit_giant_patch14_clip_", 16, Activation::Gelu),
    clip("vit_gigantic_patch14_clip_", 16, Activation::Gelu),
    clip(
        "vit_base_patch32_clip_quickgelu_",
        12,
        Activation::QuickGelu,
    ),
    clip(
        "vit_base_patch16_clip_quickgelu_",
        12,
        Activation::QuickGelu,
    ),
    clip(
        "vit_large_patch14_clip_quickgelu_",
        16,
        Activation::QuickGelu,
    ),
    clip(
        "vit_huge_patch14_clip_quickgelu_",
        16,
        Activation::QuickGelu,
    ),
    with(vit("vit_medium_patch16_gap_", 8), Activation::Gelu, "avg"),
    vit("vit_tiny_patch16_", 3),
    vit("vit_small_patch32_", 6),
    vit("vit_small_patch16_", 6),
    vit("vit_small_patch8_", 6),
    vit("vit_base_patch32_", 12),
    vit("vit_base_patch16_", 12),
    vit("vit_base_patch8_", 12),
    vit("vit_large_patch32_", 16),
    vit("vit_large_patch16_", 16),
    vit("vit_large_patch14_", 16),
    vit("vit_huge_patch14_", 16),
    vit("vit_giant_patch14_", 16),
    vitamin("vitamin_small_", 6, true),
    vitamin("vitamin_base_", 12, true),
    vitamin("vitamin_large_", 16, true),
    vitamin("vitamin_large2_", 16, true),
    vitamin("vitamin_xlarge_", 16, false),
    FAST_VIT,
    conv_next("convnext_tiny", 1e-6),
    conv_next("convnext_small", 1e-6),
    conv_next("convnext_base", 1e-6),
    conv_next("convnext_large", 1e-6),
    conv_next("convnext_xlarge", 1e-6),
    conv_next("convnext_xxlarge", 1e-5),
];

impl VisionConfig {
    /// Reads OpenCLIP's `open_clip_config.json`; where it names a trunk of timm's, the sizes are
    /// those of `weights`.
    ///
    /// # Errors
    /// Names the key that these towers cannot honour.
    pub fn open_clip_of(json: &str, weights: &WeightFiles) -> Result<Self, VisionConfigError> {
        let mut value: Value = serde_json::from_str(json)?;
        let options = value.pointer_mut("/model_cfg/vision_cfg");
        let Some(options) = options.and_then(Value::as_object_mut) else {
            return Self::open_clip(json);
        };
        let Some(Value::String(name)) = options.remove("timm_model_name") else {
            return Self::open_clip(json);
        };
        let mut given = options.clone();
        given.remove("image_size");
        let (architecture, width) = trunk(&name, &given, weights)?;
        // The rest is said as for OpenCLIP's own towers.
        options.retain(|key, _| key == "image_size");
        let plain = Self::open_clip(&value.to_string())?;
        if plain.dim != width && !projection::is_there(weights) {
            let hint = "the width of the trunk, since its features are not projected";
            return Err(unsupported("embed_dim", plain.dim, hint));
        }
        Ok(Self {
            architecture,
            naming: Naming::Timm,
            ..plain
        })
    }
}

/// The trunk that `vision_cfg` names, with the sizes that its tensors have, and its width.
///
/// # Errors
/// If it is not known, or the tensors are not that trunk's.
fn trunk(
    name: &str,
    options: &Map<String, Value>,
    weights: &WeightFiles,
) -> Result<(Architecture, usize), VisionConfigError> {
    // What follows the dot names weights.
    let bare = name.split('.').next().unwrap_or(name);
    let known = TRUNKS.iter().find(|trunk| {
        let rest = bare.strip_prefix(trunk.name);
        rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
    });
    let Some(known) = known else {
        let hint = "of timm's trunks ViT, SigLIP, EVA-02, PE-Core, MobileCLIP's FastViT, ViTamin \
                    and ConvNeXt are read (docs/models.md)";
        return Err(unsupported("vision_cfg.timm_model_name", name, hint));
    };
    let pool = pool(options)?;
    let of_tensors = |error| unsupported("vision_cfg.timm_model_name", error, THE_WEIGHTS);
    match known.kind {
        Kind::ConvNeXt => {
            if !matches!(pool, "" | "avg") {
                return Err(unsupported("vision_cfg.timm_pool", pool, "avg"));
            }
            let made = convnext::architecture(weights, known.epsilon).map_err(of_tensors)?;
            let width = match made {
                Architecture::ConvNeXt { widths, .. } => widths[3],
                _ => 0,
            };
            Ok((made, width))
        }
        Kind::FastVit => {
            if !matches!(pool, "" | "avg") {
                return Err(unsupported("vision_cfg.timm_pool", pool, "avg"));
            }
            let made = fastvit::architecture(weights).map_err(of_tensors)?;
            Ok((made, fastvit::width(weights).map_err(of_tensors)?))
        }
        Kind::Transformer { .. } => transformer(known, pool, weights),
    }
}

const THE_WEIGHTS: &str = "the weights of that trunk";

/// Tensors of parts that no trunk in the table has.
const FOREIGN: [(&str, &str); 4] = [
    ("attn.q_norm.", "normalised queries"),
    ("reg_token", "register tokens"),
    ("relative_position", "relative positions"),
    ("attn.gate.", "gated attention"),
];

fn transformer(
    known: &Trunk,
    pool: &str,
    weights: &WeightFiles,
) -> Result<(Architecture, usize), VisionConfigError> {
    let Kind::Transformer {
        heads,
        activation,
        pool: usual,
        pool_heads,
        norms_behind,
        rotary,
        positions,
    } = known.kind
    else {
        unreachable!("called for transformers only");
    };
    for name in weights
        .names()
        .filter(|name| name.starts_with("visual.trunk."))
    {
        if let Some((_, part)) = FOREIGN.iter().find(|(part, _)| name.contains(part)) {
            let hint = "a trunk as timm builds it under this name";
            return Err(unsupported(name, part, hint));
        }
    }
    let there = |part: &str| weights.contains(&format!("visual.trunk.{part}"));
    let pooling = match if pool.is_empty() { usual } else { pool } {
        "token" => Pooling::ClassToken,
        "map" => Pooling::Attention,
        _ => Pooling::Mean {
            norm_behind: there("fc_norm.weight"),
        },
    };
    let (width, patch) = patch(weights)?;
    let architecture = Architecture::Transformer {
        pooling,
        form: TransformerForm {
            class_token: there("cls_token"),
            first_norm: there("norm_pre.weight"),
            norms_behind,
            rotary,
            positions,
            pool_heads,
        },
        layers: counted(weights, "visual.trunk.blocks."),
        width,
        heads,
        patch,
        activation,
        epsilon: known.epsilon,
    };
    if pooling == Pooling::ClassToken && !there("cls_token") {
        let hint = "a trunk with a class token, or another timm_pool";
        return Err(unsupported("vision_cfg.timm_pool", "token", hint));
    }
    if (pooling == Pooling::Attention) != there("attn_pool.latent") {
        let hint = "map where the weights have an attention pool, and nowhere else";
        return Err(unsupported("vision_cfg.timm_pool", pool, hint));
    }
    Ok((architecture, width))
}

/// Width and side of the patches.
fn patch(weights: &WeightFiles) -> Result<(usize, usize), VisionConfigError> {
    const NAME: &str = "visual.trunk.patch_embed.proj.weight";
    let missing =
        |error: WeightsError| unsupported("vision_cfg.timm_model_name", error, THE_WEIGHTS);
    if stem::is_there(weights) {
        let shape = weights.shape("visual.trunk.patch_embed.backbone.2.conv.weight");
        let width = shape.map_err(missing)?.first().copied();
        return Ok((width.unwrap_or(0), stem::STEP));
    }
    if vitamin::is_there(weights) {
        return Ok((vitamin::width(weights).map_err(missing)?, vitamin::STEP));
    }
    match weights.shape(NAME).map_err(missing)? {
        &[width, _, patch, _] => Ok((width, patch)),
        shape => Err(unsupported(
            NAME,
            format!("{shape:?}"),
            "a convolution's weights",
        )),
    }
}

/// `timm_pool`, after every key was looked at.
fn pool(options: &Map<String, Value>) -> Result<&str, VisionConfigError> {
    for (key, value) in options {
        let harmless = match key.as_str() {
            // The tensors say which projection there is.
            "timm_proj" | "timm_proj_bias" | "timm_pool" => true,
            // Training only.
            "timm_model_pretrained" | "timm_drop" | "timm_drop_path" | "patch_dropout" => true,
            _ => value.is_null() || value == &Value::Bool(false) || value.as_f64() == Some(0.0),
        };
        if !harmless {
            let hint = "a trunk as timm builds it under its name";
            return Err(unsupported(&format!("vision_cfg.{key}"), value, hint));
        }
    }
    match options.get("timm_pool") {
        // OpenCLIP's default.
        None => Ok("avg"),
        Some(Value::Null) => Ok(""),
        Some(Value::String(pool)) if ["", "token", "avg", "map"].contains(&&**pool) => Ok(pool),
        Some(other) => Err(unsupported(
            "vision_cfg.timm_pool",
            other,
            "token, avg or map",
        )),
    }
}

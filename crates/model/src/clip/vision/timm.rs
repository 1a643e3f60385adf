//! timm's trunks inside OpenCLIP's models (`timm_model_name`), as far as they are read: SigLIP's.

use super::config_error::{VisionConfigError, unsupported};
use super::{Architecture, Naming, Pooling, VisionConfig};
use crate::clip::weights::WeightFiles;
use serde_json::{Map, Value};
use tagstream_kernels::Activation;

/// Names of SigLIP's trunks without their input size, their heads, and whether timm builds them
/// with the GELU by the hyperbolic tangent. No tensor tells either.
const SIGLIP: [(&str, usize, bool); 8] = [
    ("vit_base_patch16_siglip_", 12, false),
    ("vit_base_patch32_siglip_", 12, true),
    ("vit_large_patch16_siglip_256", 16, false),
    ("vit_large_patch16_siglip_384", 16, false),
    ("vit_large_patch16_siglip_512", 16, true),
    ("vit_so400m_patch14_siglip_", 16, false),
    ("vit_so400m_patch16_siglip_", 16, true),
    ("vit_giantopt_patch16_siglip_", 16, true),
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
        let (architecture, naming, width) = trunk(&name, &given, weights)?;
        // The rest is said as for OpenCLIP's own towers.
        options.retain(|key, _| key == "image_size");
        let plain = Self::open_clip(&value.to_string())?;
        if plain.dim != width {
            let hint = "the width of the trunk, since its features are not projected";
            return Err(unsupported("embed_dim", plain.dim, hint));
        }
        Ok(Self {
            architecture,
            naming,
            ..plain
        })
    }
}

/// The trunk that `vision_cfg` names, with the sizes that its tensors have.
///
/// # Errors
/// If it is no SigLIP, or the tensors are not a trunk's.
fn trunk(
    name: &str,
    options: &Map<String, Value>,
    weights: &WeightFiles,
) -> Result<(Architecture, Naming, usize), VisionConfigError> {
    let known = SIGLIP.iter().find(|(start, ..)| {
        let rest = name.strip_prefix(start);
        rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
    });
    let Some(&(_, heads, tanh)) = known else {
        let hint = "of timm's trunks SigLIP's are read, as vit_base_patch16_siglip_224; a plain \
                    OpenCLIP ViT or ResNet will do, too";
        return Err(unsupported("vision_cfg.timm_model_name", name, hint));
    };
    for (key, value) in options {
        let harmless = match key.as_str() {
            "timm_pool" => value == "map",
            "timm_proj" => value == "none" || value == "",
            "timm_model_pretrained" => true,
            _ => value.is_null() || value == &Value::Bool(false) || value.as_f64() == Some(0.0),
        };
        if !harmless {
            let hint = "SigLIP's trunk has an attention pool (map) and no projection";
            return Err(unsupported(&format!("vision_cfg.{key}"), value, hint));
        }
    }
    let patches = weights.shape("visual.trunk.patch_embed.proj.weight");
    let &[width, _, patch, _] = patches.map_err(missing)? else {
        let hint = "a convolution's weights";
        return Err(unsupported(
            "visual.trunk.patch_embed.proj.weight",
            "a matrix",
            hint,
        ));
    };
    let numbers = weights.names().filter_map(|name| {
        let number = name
            .strip_prefix("visual.trunk.blocks.")?
            .split('.')
            .next()?;
        number.parse::<usize>().ok()
    });
    let architecture = Architecture::Transformer {
        pooling: Pooling::Attention,
        layers: numbers.max().map_or(0, |last| last + 1),
        width,
        heads,
        patch,
        activation: match tanh {
            true => Activation::GeluTanh,
            false => Activation::Gelu,
        },
        epsilon: 1e-6,
    };
    Ok((architecture, Naming::Timm, width))
}

fn missing(error: crate::clip::weights::WeightsError) -> VisionConfigError {
    unsupported(
        "vision_cfg.timm_model_name",
        error,
        "the weights of that trunk",
    )
}

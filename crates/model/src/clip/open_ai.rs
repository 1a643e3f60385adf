//! The configuration that OpenAI's TorchScript files stand for: they hold no file that says it, but
//! the shapes of their tensors do.

use super::weights::{WeightFiles, WeightsError};
use serde_json::{Value, json};

/// Width of an attention head in all of OpenAI's towers.
const HEAD_WIDTH: usize = 64;

/// The content of the `open_clip_config.json` that says the same.
///
/// # Errors
/// If the weights are not one of OpenAI's programs, or lack a tensor that tells a size.
pub(crate) fn config(weights: &WeightFiles) -> Result<String, WeightsError> {
    let format = |reason: &str| WeightsError::Format {
        path: weights.path().to_path_buf(),
        reason: reason.to_owned(),
    };
    if !weights.is_open_ai_script() {
        return Err(format(
            "without a configuration beside it, only OpenAI's own TorchScript files are known; put \
             the open_clip_config.json or config.json of its model into the folder",
        ));
    }
    let size = |name: &str, axis: usize| {
        let shape = weights.shape(name)?;
        let size = shape.get(axis).copied();
        size.ok_or_else(|| format(&format!("`{name}` has the shape {shape:?}")))
    };
    let vision = if weights.contains("visual.proj") {
        let patch = size("visual.conv1.weight", 3)?;
        let grid = side(size("visual.positional_embedding", 0)?);
        json!({
            "image_size": grid * patch,
            "layers": blocks(weights, "visual.transformer.resblocks."),
            "width": size("visual.conv1.weight", 0)?,
            "head_width": HEAD_WIDTH,
            "patch_size": patch,
        })
    } else {
        let stages = [1, 2, 3, 4].map(|stage| blocks(weights, &format!("visual.layer{stage}.")));
        let grid = side(size("visual.attnpool.positional_embedding", 0)?);
        json!({
            "image_size": grid * 32,
            "layers": stages,
            "width": size("visual.layer1.0.conv1.weight", 0)?,
            "head_width": HEAD_WIDTH,
            "patch_size": Value::Null,
        })
    };
    let width = size("ln_final.weight", 0)?;
    let config = json!({
        "model_cfg": {
            "embed_dim": size("text_projection", 1)?,
            "quick_gelu": true,
            "vision_cfg": vision,
            "text_cfg": {
                "context_length": size("positional_embedding", 0)?,
                "vocab_size": size("token_embedding.weight", 0)?,
                "width": width,
                "heads": width / HEAD_WIDTH,
                "layers": blocks(weights, "transformer.resblocks."),
            },
        },
    });
    Ok(config.to_string())
}

/// Locations a side, of a table of positions that begins with the class token's.
fn side(positions: usize) -> usize {
    positions.saturating_sub(1).isqrt()
}

/// How many numbers stand behind `prefix` in the tensors' names.
fn blocks(weights: &WeightFiles, prefix: &str) -> usize {
    let numbers = weights.names().filter_map(|name| {
        let number = name.strip_prefix(prefix)?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    numbers.max().map_or(0, |last| last + 1)
}

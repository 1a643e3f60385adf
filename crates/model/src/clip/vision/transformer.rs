//! Vision transformers: CLIP's, read at a class token; those read at the mean of their locations;
//! SigLIP's and PE-Core's, with an attention pool.

use super::base::{Norm, Transformer};
use super::dense::{Whole, concatenated};
use super::rotary::Rotation;
use super::{
    Architecture, DenseMode, Features, Naming, Pooling, Resampling, Sides, TowerError, TowerGraph,
    VisionConfig, patches, projection, resample_grid, stem, vitamin,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::Value;

/// The tower and its first blocks, up to the last one.
struct Begun<'a> {
    tower: Transformer<'a>,
    last: usize,
    /// Tokens before the last block.
    x: Value,
}

/// Writes all blocks but the last after the pixels `[B, side, side, 3]`.
fn begin<'a>(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &'a WeightFiles,
    sides: Sides,
    pixels: &Value,
) -> Result<Begun<'a>, TowerError> {
    let Architecture::Transformer {
        form,
        layers,
        width,
        heads,
        patch,
        activation,
        epsilon,
        ..
    } = config.architecture
    else {
        unreachable!("called for transformers only");
    };
    if layers == 0 || heads == 0 || !width.is_multiple_of(heads) {
        return Err(TowerError::Sizes(format!(
            "{layers} layers, width {width}, {heads} heads"
        )));
    }
    let mut tower = Transformer {
        weights,
        naming: config.naming,
        width,
        heads,
        grid: sides.grid,
        form,
        activation,
        rotation: None,
        epsilon,
    };
    if let Some(rotary) = form.rotary {
        let places = (sides.grid, tower.first());
        tower.rotation = Some(Rotation::write(graph, rotary, places, width / heads)?);
    }
    let mut x = tower.embed(graph, config, sides, patch, pixels)?;
    for layer in 0..layers - 1 {
        let block = tower.block(layer)?;
        x = tower.whole_block(graph, layer, &block, &x);
    }
    let last = layers - 1;
    Ok(Begun { tower, last, x })
}

/// What an attention pool looks at.
pub(super) struct Tokens<'a> {
    pub tower: Transformer<'a>,
    /// All tokens, normalised, `[B, T, W]`.
    pub all: Value,
    /// The locations, `[B, N, W]`, where the last block makes them anew; else they are the last of
    /// `all`.
    pub places: Option<Value>,
}

/// Writes the tower after the pixels `[B, side, side, 3]`, up to its normalised tokens.
pub(super) fn tokens<'a>(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &'a WeightFiles,
    (sides, mode): (Sides, DenseMode),
    pixels: &Value,
) -> Result<Tokens<'a>, TowerError> {
    let Begun { tower, last, x } = begin(graph, config, weights, sides, pixels)?;
    let block = tower.block(last)?;
    let norm = match tower.naming {
        // CoCa's pool has a norm of its own before it, and the tower's behind it.
        Naming::OpenClip => tower.read_norm("visual.attn_pool.ln_k")?,
        Naming::HuggingFace | Naming::Timm => tower.final_norm()?,
    };
    if matches!(mode, DenseMode::Value | DenseMode::ValueBare) {
        let x = tower.whole_block(graph, last, &block, &x);
        let all = tower.norm(graph, &x, "final_norm", &norm);
        let places = None;
        return Ok(Tokens { tower, all, places });
    }
    let x = tower.last_block(graph, last, &block, &x, (mode, Whole::All));
    let x = tower.norm(graph, &x, "final_norm", &norm);
    let count = (tower.first() + sides.grid * sides.grid) as i64;
    let all = graph.g.slice(&x, 1, 0, count);
    let places = Some(graph.g.slice(&x, 1, count, i64::MAX));
    Ok(Tokens { tower, all, places })
}

/// Writes a tower without an attention pool after the pixels `[B, side, side, 3]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    (sides, mode, pooling): (Sides, DenseMode, Pooling),
    pixels: &Value,
) -> Result<Features, TowerError> {
    if mode == DenseMode::ValuePositional {
        return Err(TowerError::DenseMode {
            mode,
            available: "value, self, neighbour, plain and value_bare",
        });
    }
    let Begun { tower, last, x } = begin(graph, config, weights, sides, pixels)?;
    let block = tower.block(last)?;
    let first = tower.first() as i64;
    let x = match (mode, pooling) {
        (DenseMode::Plain, Pooling::ClassToken) => tower.whole_block(graph, last, &block, &x),
        (mode, Pooling::ClassToken) => {
            tower.last_block(graph, last, &block, &x, (mode, Whole::ClassToken))
        }
        (DenseMode::Plain, _) => {
            let all = tower.whole_block(graph, last, &block, &x);
            let places = graph.g.slice(&all, 1, first, i64::MAX);
            concatenated(graph, &[&places, &places])
        }
        (mode, _) => {
            let all = tower.last_block(graph, last, &block, &x, (mode, Whole::All));
            graph.g.slice(&all, 1, first, i64::MAX)
        }
    };
    // Row 0 becomes the whole picture.
    let norm = tower.final_norm()?;
    let count = (sides.grid * sides.grid) as i64;
    let x = match pooling {
        Pooling::Mean { norm_behind: true } => {
            let x = tower.mean_first(graph, &x, count);
            tower.norm(graph, &x, "final_norm", &norm)
        }
        Pooling::Mean { norm_behind: false } => {
            let x = tower.norm(graph, &x, "final_norm", &norm);
            tower.mean_first(graph, &x, count)
        }
        _ => tower.norm(graph, &x, "final_norm", &norm),
    };
    let x = projection::write(graph, config, weights, tower.width, &x)?;
    let picture = graph.g.slice(&x, 1, 0, 1);
    Ok(Features {
        dense: graph.g.slice(&x, 1, 1, count + 1),
        global: graph.g.reshape(&picture, &[-1, config.dim as i64]),
    })
}

impl Transformer<'_> {
    /// The mean of the first `count` tokens in their place.
    fn mean_first(&self, graph: &mut TowerGraph, x: &Value, count: i64) -> Value {
        let whole = graph.g.slice(x, 1, 0, count);
        let mean = graph.g.mean(&whole, 1, true);
        let rest = graph.g.slice(x, 1, count, i64::MAX);
        concatenated(graph, &[&mean, &rest])
    }

    /// Where timm puts the norm behind the pooling it gives it another name.
    fn final_norm(&self) -> Result<Norm, WeightsError> {
        let name = self.name("post_layernorm", "ln_post", "norm");
        let behind = self.name("", "", "fc_norm");
        match self.weights.contains(&format!("{behind}.weight")) {
            true => self.read_norm(&behind),
            false => self.read_norm(&name),
        }
    }

    /// Tokens `[B, T, W]`: class token, patches, positions, first norm, as far as the tower has
    /// them.
    fn embed(
        &self,
        graph: &mut TowerGraph,
        config: &VisionConfig,
        sides: Sides,
        patch: usize,
        pixels: &Value,
    ) -> Result<Value, TowerError> {
        let (w, count) = (self.width, sides.grid * sides.grid);
        let pixels = kept(graph, sides, patch, pixels);
        let (class, mut grid) = self.places(sides)?;
        let patches = if stem::is_there(self.weights) {
            stem::write(graph, config, self.weights, w, &pixels)?
        } else if vitamin::is_there(self.weights) {
            vitamin::write(graph, config, self.weights, w, &pixels)?
        } else {
            let name = self.name("embeddings.patch_embedding", "conv1", "patch_embed.proj");
            let kernel = self
                .weights
                .read(&format!("{name}.weight"), &[w, 3, patch, patch])?;
            let side = (sides.grid, patch);
            let (patches, mut bias) = patches::write(graph, config, side, &pixels, (&kernel, w));
            let given = format!("{name}.bias");
            if self.weights.contains(&given) {
                let given = self.weights.read(&given, &[w])?;
                bias.iter_mut()
                    .zip(given)
                    .for_each(|(sum, given)| *sum += given);
            }
            for place in grid.chunks_exact_mut(w) {
                place.iter_mut().zip(&bias).for_each(|(p, b)| *p += b);
            }
            patches
        };
        let tokens = match class {
            None => patches,
            // Patches are put below a row of zeros and the table is added, which needs neither the
            // batch size nor a copy of the class token for each image.
            Some(_) => {
                let pads = graph.g.integers(&[0, 1, 0, 0, 0, 0]);
                graph.g.node("Pad", &[&patches, &pads], &[])
            }
        };
        let mut table = class.unwrap_or_default();
        table.extend(grid);
        let table = graph.weight("positions", &[1, count + self.first(), w], &table);
        let tokens = graph.g.add(&tokens, &table);
        if !self.form.first_norm {
            return Ok(tokens);
        }
        // The name's spelling is that of the published weights.
        let norm = self.read_norm(&self.name("pre_layrnorm", "ln_pre", "norm_pre"))?;
        Ok(self.norm(graph, &tokens, "first_norm", &norm))
    }

    /// The class token with its position, and the positions of the grid.
    fn places(&self, sides: Sides) -> Result<(Option<Vec<f32>>, Vec<f32>), WeightsError> {
        let w = self.width;
        if !self.form.positions {
            return Ok((None, vec![0.0; sides.grid * sides.grid * w]));
        }
        let name = self.name(
            "embeddings.position_embedding.weight",
            "positional_embedding",
            "pos_embed",
        );
        let native = sides.native * sides.native;
        let count = native + self.first();
        let positions = match self.naming {
            // Some of timm's class tokens have no position.
            Naming::Timm if self.weights.shape(&name)? == [1, native, w] => {
                self.weights.read(&name, &[1, native, w])?
            }
            Naming::Timm => self.weights.read(&name, &[1, count, w])?,
            _ => self.weights.read(&name, &[count, w])?,
        };
        let (placed, on_grid) = positions.split_at(positions.len() - native * w);
        let resampling = match self.naming {
            Naming::HuggingFace => Resampling::Plain,
            Naming::OpenClip | Naming::Timm => Resampling::Antialiased,
        };
        let (from, to) = ((sides.native, sides.native), (sides.grid, sides.grid));
        let grid = resample_grid(on_grid, w, from, to, resampling);
        if !self.form.class_token {
            return Ok((None, grid));
        }
        let name = self.name("embeddings.class_embedding", "class_embedding", "cls_token");
        let mut class = match self.naming {
            Naming::Timm => self.weights.read(&name, &[1, 1, w])?,
            _ => self.weights.read(&name, &[w])?,
        };
        class.iter_mut().zip(placed).for_each(|(c, p)| *c += p);
        Ok((Some(class), grid))
    }
}

/// The pixels that belong to a patch; a rest at the right and the bottom is dropped, as a
/// convolution drops it.
fn kept(graph: &mut TowerGraph, sides: Sides, patch: usize, pixels: &Value) -> Value {
    if sides.left_over == 0 {
        return pixels.clone();
    }
    let side = (sides.grid * patch) as i64;
    let rows = graph.g.slice(pixels, 1, 0, side);
    graph.g.slice(&rows, 2, 0, side)
}

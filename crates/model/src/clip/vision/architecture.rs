//! The kinds of vision towers, and the sizes that no tensor tells.

use super::Rotary;
use tagstream_kernels::Activation;

/// How the tower's tensors are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `vision_model.*`, `visual_projection.weight`.
    HuggingFace,
    /// `visual.*`.
    OpenClip,
    /// timm's, inside OpenCLIP's: `visual.trunk.*`.
    Timm,
}

/// Where a transformer's feature of the whole picture comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The class token, projected (CLIP).
    ClassToken,
    /// The mean of all locations (CLIPA).
    Mean {
        /// Whether the final norm follows the mean, or goes before it.
        norm_behind: bool,
    },
    /// A learned query that attends to all tokens, and an MLP (SigLIP, PE-Core).
    Attention,
}

/// What a transformer has, and others have not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformerForm {
    /// A class token before the locations.
    pub class_token: bool,
    /// A norm before the first block.
    pub first_norm: bool,
    /// Norms behind a block's attention and MLP in place of those before them.
    pub norms_behind: bool,
    /// Queries and keys turned by their places.
    pub rotary: Option<Rotary>,
    /// Learned positions.
    pub positions: bool,
    /// Heads of the attention pool, if there is one.
    pub pool_heads: usize,
}

impl TransformerForm {
    /// CLIP's, or without a class token SigLIP's, with this many heads.
    pub(super) fn plain(class_token: bool, heads: usize) -> Self {
        Self {
            class_token,
            first_norm: class_token,
            norms_behind: false,
            rotary: None,
            positions: true,
            pool_heads: heads,
        }
    }
}

/// The kind of tower and the sizes that no tensor tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// A vision transformer.
    Transformer {
        /// Its head.
        pooling: Pooling,
        /// Its parts.
        form: TransformerForm,
        /// Blocks.
        layers: usize,
        /// Width of the residual stream.
        width: usize,
        /// Attention heads.
        heads: usize,
        /// Side of a patch, pixels.
        patch: usize,
        /// The MLP's activation.
        activation: Activation,
        /// Added to the variance in every layer norm.
        epsilon: f32,
    },
    /// CLIP's ResNet with an attention pool.
    ModifiedResNet {
        /// Bottlenecks in each of the four stages.
        layers: [usize; 4],
        /// Channels after the stem.
        width: usize,
        /// Heads of the attention pool.
        heads: usize,
    },
    /// ConvNeXt, read at the mean of its locations.
    ConvNeXt {
        /// Blocks in each of the four stages.
        layers: [usize; 4],
        /// Channels of the stages.
        widths: [usize; 4],
        /// Added to the variance in every layer norm.
        epsilon: f32,
    },
    /// MobileCLIP's FastViT, read at the mean of its locations; its tensors tell the rest.
    FastVit {
        /// Stages, which halve the map between them.
        stages: usize,
    },
}

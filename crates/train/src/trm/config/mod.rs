//! The method's settings: a preset for each method, a switch for each ingredient.

use super::kernel_ridge::images::MemoryConfig;
use super::kernel_ridge::regions::RegionalConfig;
use super::losses::{Asymmetric, Distillation};
use super::prototypes::PrototypeConfig;
use super::pseudo_labels::PseudoLabelRule;
use tagstream_core::config::{choice, nearest, settings};

mod method;

pub use super::settings::MethodError;
pub use method::Method;

choice! {
    /// The negative side of matching.
    NegativeMode {
        /// A second learned prompt a category.
        Prompt = "prompt",
        /// A free vector a category that starts at 0 and is not normalised.
        Embedding = "embedding",
        /// Only the bias.
        Bias = "bias",
    }
}

choice! {
    /// How contexts, queries or maps start.
    Start {
        /// From what the frozen towers know: the words of the template, text features, scaled
        /// identities.
        Informed = "informed",
        /// At random.
        Random = "random",
    }
}

settings! {
    /// Prompts: `[begin] context words [end]`.
    PromptConfig {
        /// The words the contexts start from. No full stop: it costs 2 to 3 points.
        template: String = "a photo of a".into(),
        /// Informed: the template's embeddings; random: N(0, 0.02²).
        start: Start = Start::Informed,
        /// Context tokens a prompt where they start at random (negative prompts always do).
        random_tokens: usize = 16,
        /// Every category has contexts of its own (else one set for all).
        class_specific: bool = true,
        /// Whether contexts are trained; if not, text features are computed once.
        train: bool = true,
        /// The negative side.
        negative: NegativeMode = NegativeMode::Embedding,
    }
}

choice! {
    /// What attends to positions.
    AttendBy {
        /// Category queries through learned maps (text-region matching).
        Queries = "queries",
        /// The prompts' own text features (text-pixel matching: DualCoOp).
        Text = "text",
    }
}

settings! {
    /// Saliency and the region-level branch.
    RegionConfig {
        /// Whether there is a region-level branch.
        enabled: bool = true,
        /// What attends.
        attend_by: AttendBy = AttendBy::Queries,
        /// Informed: queries are text features, maps scaled identities, so that saliency starts as
        /// the softmax of cosine / 0.05; random: N(0, 1) and Xavier.
        start: Start = Start::Informed,
        /// Attention heads.
        heads: usize = 1,
        /// Whether queries and maps are trained.
        train: bool = true,
    }
}

settings! {
    /// The query-level branch.
    QueryConfig {
        /// Whether there is one.
        enabled: bool = true,
        /// The value map starts as this multiple of the identity (with an informed start).
        value_scale: f64 = 4.0,
        /// Width of the MLP's hidden layer in multiples of D.
        hidden: f64 = 4.0,
    }
}

settings! {
    /// The global branch: the same texts against the global feature.
    GlobalConfig {
        /// Whether there is one.
        enabled: bool = false,
        /// Whether it matches texts (off for a pure linear probe).
        match_text: bool = true,
        /// Whether a linear map of the standardised global feature is added.
        residual: bool = true,
        /// L2 penalty on that map.
        shrinkage: f64 = 0.03,
    }
}

settings! {
    /// The supervised loss.
    LossConfig {
        /// Focusing and margin; all zero is binary cross-entropy.
        asymmetric: Asymmetric = Asymmetric::default(),
        /// Divide by the known entries a category (true) or by the batch (false).
        by_known_count: bool = true,
        /// Where no absent label is known at all (single positives): weight with which unknown
        /// counts as absent.
        assume_negative: f64 = 0.1,
    }
}

settings! {
    /// Region-level to query-level distillation.
    DistillationConfig {
        /// Weight; 0 switches it off.
        weight: f64 = 1.0,
        /// The weight is multiplied by the unknown share to this power: where labels are known,
        /// they are the better teacher.
        unknown_power: f64 = 1.0,
        /// What of the two branches is compared.
        form: Distillation = Distillation::Class,
        /// T.
        temperature: f64 = 4.0,
    }
}

settings! {
    /// The multimodal contrastive loss.
    ContrastiveConfig {
        /// Weight; 0 switches it off.
        weight: f64 = 1.0,
        /// tau.
        temperature: f64 = 0.07,
    }
}

choice! {
    /// What unknown entries are taught with.
    PseudoForm {
        /// Nothing.
        None = "none",
        /// Calibrated pseudo-labels from prototypes.
        Prototype = "prototype",
        /// Probabilities of the averaged model, all branches together.
        Ensemble = "ensemble",
    }
}

settings! {
    /// Targets for unknown entries.
    PseudoConfig {
        /// Where targets for what is unknown come from.
        form: PseudoForm = PseudoForm::Ensemble,
        /// Weight of unknown entries in the supervised loss; 0 switches it off.
        weight: f64 = 1.0,
        /// The weight is multiplied by (1 - known share) to this power.
        unknown_power: f64 = 2.0,
        /// Whether the memories have a say in the ensemble's targets. They then speak twice:
        /// through the branches that learnt from them, and for themselves.
        memories: bool = false,
        /// Share of the steps without.
        warm_up: f64 = 0.25,
        /// Share of the steps over which the weight then rises.
        ramp: f64 = 0.1,
        /// The rule of prototype pseudo-labels.
        rule: PseudoLabelRule = PseudoLabelRule::default(),
    }
}

settings! {
    /// Optimisation.
    OptimizerConfig {
        /// Passes over the training set.
        epochs: usize = 12,
        /// The trained branches stay at their start, in closed form, where the known labels give
        /// them less than this share beside the memories.
        least_share: f64 = 0.5,
        /// Images a step.
        batch: usize = 64,
        /// Peak learning rate of prompt contexts.
        context_rate: f64 = 5e-4,
        /// Peak learning rate of queries, maps, layers, negative vectors and scales.
        rate: f64 = 3e-4,
        /// Peak learning rate of biases.
        bias_rate: f64 = 1e-2,
        /// Peak learning rate of the linear residual.
        residual_rate: f64 = 3e-3,
        /// Decoupled weight decay of contexts, maps and layers.
        weight_decay: f64 = 5e-4,
        /// Share of the steps in which the rate rises.
        warm_up: f64 = 0.3,
        /// Largest norm of all gradients together; 0: no bound.
        clip_norm: f64 = 1.0,
        /// Decay of the averaged weights, reached slowly: min(this, (1 + t) / (10 + t)).
        average: f64 = 0.999,
        /// Share of feature dimensions dropped, one mask an image, in place of augmentation.
        feature_dropout: f64 = 0.5,
    }
}

settings! {
    /// How much each branch counts at inference; shares of the branches that exist are divided by
    /// their sum.
    ShareConfig {
        /// Whether what the memories count, beside the trained branches together, is found from the
        /// known labels; their two numbers below are then not used.
        automatic: bool = true,
        /// Region-level.
        region: f64 = 1.0,
        /// Query-level.
        query: f64 = 1.0,
        /// Of the similarity to the whole picture.
        global: f64 = 1.0,
        /// Memory of whole images.
        memory: f64 = 3.0,
        /// Memory of regions.
        regional: f64 = 3.0,
    }
}

settings! {
    /// Everything about a method. `--set key=value` changes one setting by its path, for example
    /// `distillation.weight=0`.
    MethodConfig {
        /// The learnt context in front of each category's name.
        prompts: PromptConfig = PromptConfig::default(),
        /// Saliency and region-level branch.
        region: RegionConfig = RegionConfig::default(),
        /// Query-level branch.
        query: QueryConfig = QueryConfig::default(),
        /// Global branch.
        global: GlobalConfig = GlobalConfig::default(),
        /// Memory of whole images.
        memory: MemoryConfig = MemoryConfig::default(),
        /// Memory of regions.
        regional: RegionalConfig = RegionalConfig::default(),
        /// Supervised loss.
        loss: LossConfig = LossConfig::default(),
        /// Region-level to query-level distillation.
        distillation: DistillationConfig = DistillationConfig::default(),
        /// Contrastive loss.
        contrastive: ContrastiveConfig = ContrastiveConfig::default(),
        /// The visual prototypes of each category.
        prototypes: PrototypeConfig = PrototypeConfig::default(),
        /// Targets for unknown entries.
        pseudo: PseudoConfig = PseudoConfig::default(),
        /// Fit one scale and one offset a branch to the known labels before training.
        calibrated_start: bool = true,
        /// Scale of cosines where the start is not calibrated.
        scale: f64 = 50.0,
        /// Optimisation.
        optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// Shares at inference.
        shares: ShareConfig = ShareConfig::default(),
    }
}

impl MethodConfig {
    /// The settings of a method.
    pub fn preset(method: Method) -> Self {
        let mut config = Self::default();
        let pixel = |config: &mut Self| {
            config.region.attend_by = AttendBy::Text;
            config.query.enabled = false;
            config.distillation.weight = 0.0;
            config.contrastive.weight = 0.0;
            config.pseudo.form = PseudoForm::None;
        };
        match method {
            Method::ZeroShot => {
                pixel(&mut config);
                config.prompts.train = false;
                config.prompts.negative = NegativeMode::Bias;
                config.global.enabled = true;
                config.global.residual = false;
                config.optimizer.epochs = 0;
            }
            Method::LinearProbe => {
                pixel(&mut config);
                config.prompts.train = false;
                config.prompts.negative = NegativeMode::Bias;
                config.region.enabled = false;
                config.global.enabled = true;
                config.global.match_text = false;
                config.optimizer.epochs = 60;
            }
            Method::Dualcoop => {
                pixel(&mut config);
                config.prompts.negative = NegativeMode::Prompt;
            }
            Method::PositiveCoop => pixel(&mut config),
            Method::TrmMlBase => {
                config.pseudo.form = PseudoForm::Prototype;
                config.pseudo.weight = 0.5;
            }
            Method::TrmMl => {
                config.prompts.train = false;
                config.global.enabled = true;
                config.memory.enabled = true;
                config.regional.enabled = true;
            }
        }
        config
    }

    /// Whether there is something to learn from pictures without any label.
    pub fn learns_without_labels(&self) -> bool {
        self.memory.enabled && self.memory.soft.unknown_weight > 0.0
    }

    /// Changes one setting: `key=value`, the key a path as in `optimizer.epochs=20`.
    ///
    /// # Errors
    /// If there is no such setting, or the value has another type or is out of range.
    pub fn set(&mut self, change: &str) -> Result<(), MethodError> {
        let (key, value) = change
            .split_once('=')
            .ok_or_else(|| MethodError::NotAnOverride(change.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        let bad = |reason: String| MethodError::BadValue {
            key: key.to_owned(),
            reason,
        };
        let mut all = serde_json::to_value(&*self).map_err(|e| bad(e.to_string()))?;
        let mut at = &mut all;
        let mut above = String::new();
        for part in key.split('.') {
            let names: Vec<String> = at
                .as_object()
                .map(|map| map.keys().cloned().collect())
                .unwrap_or_default();
            at = at.get_mut(part).ok_or_else(|| MethodError::UnknownKey {
                key: key.to_owned(),
                hint: match nearest(part, names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{above}{near}`?"),
                    None => format!("beside it there are: {}", names.join(", ")),
                },
            })?;
            above = format!("{above}{part}.");
        }
        if at.is_object() {
            return Err(bad("is a group of settings, name one of them".into()));
        }
        *at = match serde_json::from_str(value) {
            Ok(value) if !at.is_string() => value,
            _ => serde_json::Value::String(value.to_owned()),
        };
        let changed: Self = serde_json::from_value(all).map_err(|e| bad(e.to_string()))?;
        changed.validate()?;
        *self = changed;
        Ok(())
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`MethodError::BadValue`] names the first setting that cannot be right.
    pub fn validate(&self) -> Result<(), MethodError> {
        let bad = |key: &str, reason: &str| {
            Err(MethodError::BadValue {
                key: key.into(),
                reason: reason.into(),
            })
        };
        let o = &self.optimizer;
        if o.batch == 0 {
            return bad("optimizer.batch", "must be at least 1");
        }
        if !(0.0..1.0).contains(&o.feature_dropout) {
            return bad("optimizer.feature_dropout", "must lie in [0, 1)");
        }
        if !(0.0..1.0).contains(&o.average) {
            return bad("optimizer.average", "must lie in [0, 1)");
        }
        if !(0.0..=1.0).contains(&o.warm_up) {
            return bad("optimizer.warm_up", "must lie in [0, 1]");
        }
        if self.region.heads == 0 {
            return bad("region.heads", "must be at least 1");
        }
        if self.query.enabled && self.region.attend_by == AttendBy::Text {
            return bad("query.enabled", "needs region.attend_by = queries");
        }
        let rates = [
            o.context_rate,
            o.rate,
            o.bias_rate,
            o.residual_rate,
            o.weight_decay,
            o.clip_norm,
        ];
        let weights = [
            self.distillation.weight,
            self.contrastive.weight,
            self.pseudo.weight,
            self.distillation.unknown_power,
            self.pseudo.unknown_power,
        ];
        if rates
            .iter()
            .chain(&weights)
            .any(|x| !x.is_finite() || *x < 0.0)
        {
            return bad(
                "optimizer",
                "rates, weights and their powers must be numbers of at least 0",
            );
        }
        let positive = [
            self.distillation.temperature,
            self.contrastive.temperature,
            self.scale,
        ];
        if positive.iter().any(|x| x.is_nan() || *x <= 0.0) {
            return bad(
                "temperature",
                "temperatures and the scale must be greater than 0",
            );
        }
        self.memory.validate()?;
        self.regional.validate()
    }
}

#[cfg(test)]
mod tests;

//! AdamW with a learning rate for each kind of tensor, the one-cycle schedule, clipping of the
//! gradients' norm, and an exponential moving average of the weights.
//!
//! ```text
//! g     = gradient * min(1, clip_norm / |all gradients|)
//! m     = beta1 m + (1 - beta1) g                       v = beta2 v + (1 - beta2) g²
//! x     = x (1 - lr weight_decay) - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
//! ema   = d ema + (1 - d) x                             d = min(average, (1 + t) / (10 + t))
//! ```

use crate::trm::config::OptimizerConfig;
use crate::trm::weights::{Weights, names};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, Var};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use tagstream_kernels::with_elements;
use tagstream_multiversion::multiversioned;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Elements that a thread takes at once: fixed, so that sums do not depend on threads.
const BLOCK: usize = 16_384;

/// Factor of the peak learning rate at `step` of `steps`: a cosine from 1/25 to 1 over the first
/// `warm_up` share, then a cosine to 1/250000 (Smith and Topin's one-cycle policy with PyTorch's
/// constants).
pub fn one_cycle(step: usize, steps: usize, warm_up: f64) -> f64 {
    const START: f64 = 1.0 / 25.0;
    const END: f64 = START / 1e4;
    let cosine = |from: f64, to: f64, share: f64| {
        to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * share).cos())
    };
    let peak = warm_up * steps as f64 - 1.0;
    let (last, at) = (steps.saturating_sub(1) as f64, step as f64);
    if at <= peak {
        cosine(START, 1.0, if peak > 0.0 { at / peak } else { 1.0 })
    } else {
        cosine(1.0, END, ((at - peak) / (last - peak).max(1.0)).min(1.0))
    }
}

/// Peak learning rate and weight decay of a tensor.
fn group(name: &str, config: &OptimizerConfig) -> (f64, f64) {
    if name == names::CONTEXT || name == names::NEGATIVE_CONTEXT {
        (config.context_rate, config.weight_decay)
    } else if name == names::RESIDUAL {
        (config.residual_rate, 0.0)
    } else if name.ends_with(".bias")
        && !name.starts_with("query.mlp")
        && !name.starts_with("query.norm")
    {
        (config.bias_rate, 0.0)
    } else if name == names::QUERY
        || name == names::NEGATIVE
        || name.ends_with("log_scale")
        || name.ends_with("bias")
        || name == names::NORM_WEIGHT
    {
        (config.rate, 0.0)
    } else {
        (config.rate, config.weight_decay)
    }
}

/// A part of the state: its name, its shape, its values.
pub type StateTensor = (String, Vec<usize>, Vec<f32>);

/// One trained tensor and what the optimizer knows about it, named as in PyTorch's AdamW.
#[derive(Debug)]
struct Parameter {
    var: Var,
    /// First moment of the gradient.
    exp_avg: Vec<f32>,
    /// Second moment of the gradient.
    exp_avg_sq: Vec<f32>,
    /// Exponential moving average of the values: what is exported.
    ema: Vec<f32>,
}

/// The scalars of one update of one tensor.
#[derive(Debug, Clone, Copy)]
struct Scalars {
    /// Multiplies the gradient: clipping of the norm of all gradients.
    clip_coef: f32,
    /// `lr / (1 - beta1^t)`.
    step_size: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    bias_correction2_rsqrt: f32,
    /// `1 - lr * weight_decay`, which multiplies the values.
    weight_decay_factor: f32,
    /// Share of the moving average that stays.
    ema_decay: f32,
}

impl Parameter {
    /// Updates the tensor where it lies, with its moments and its moving average.
    fn update(&mut self, gradient: &Tensor, scalars: Scalars) -> Result<()> {
        let Parameter {
            var,
            exp_avg,
            exp_avg_sq,
            ema,
        } = self;
        with_elements::<f32, _>(gradient, |gradient| {
            var.inplace_op1(&AdamW {
                gradient,
                state: RefCell::new((exp_avg, exp_avg_sq, ema)),
                scalars,
            })
        })
    }
}

/// First moment, second moment and moving average of a tensor.
type State<'a> = (&'a mut Vec<f32>, &'a mut Vec<f32>, &'a mut Vec<f32>);

/// One update of one tensor.
struct AdamW<'a> {
    gradient: &'a [f32],
    state: RefCell<State<'a>>,
    scalars: Scalars,
}

impl InplaceOp1 for AdamW<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("trained tensors are contiguous and in f32")
        };
        let mut state = self.state.borrow_mut();
        let (exp_avg, exp_avg_sq, ema) = &mut *state;
        let Scalars {
            clip_coef,
            step_size,
            bias_correction2_rsqrt,
            weight_decay_factor,
            ema_decay,
        } = self.scalars;
        let (beta1, beta2, eps) = (BETA_1 as f32, BETA_2 as f32, EPSILON as f32);
        let moments = exp_avg
            .par_chunks_mut(BLOCK)
            .zip(exp_avg_sq.par_chunks_mut(BLOCK));
        values[start..end]
            .par_chunks_mut(BLOCK)
            .zip(self.gradient.par_chunks(BLOCK))
            .zip(moments)
            .zip(ema.par_chunks_mut(BLOCK))
            .for_each(|(((values, gradient), (exp_avg, exp_avg_sq)), ema)| {
                let state = exp_avg.iter_mut().zip(exp_avg_sq).zip(ema);
                multiversioned(|| {
                    for ((x, g), ((m, v), ema)) in values.iter_mut().zip(gradient).zip(state) {
                        let g = g * clip_coef;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        let denom = v.sqrt() * bias_correction2_rsqrt + eps;
                        *x = *x * weight_decay_factor - step_size * *m / denom;
                        *ema = ema_decay * *ema + (1.0 - ema_decay) * *x;
                    }
                });
            });
        Ok(())
    }
}

/// Over eight sums that do not wait for each other.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let blocks = x.chunks_exact(8);
    let rest: f64 = blocks
        .remainder()
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The trained tensors, their moments and their moving average.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    parameters: BTreeMap<String, Parameter>,
    steps: usize,
}

/// The parts of a tensor's state by the names that checkpoints keep them under: the values,
/// `exp_avg`, `exp_avg_sq` and the moving average.
pub const STATE_PARTS: [&str; 4] = ["live", "mean", "square", "average"];

impl Optimizer {
    /// Takes the tensors `trained` of `weights` (f32).
    ///
    /// # Errors
    /// If one of them is missing.
    pub fn new(weights: &Weights, trained: &[String], config: &OptimizerConfig) -> Result<Self> {
        let parameters = trained
            .iter()
            .map(|name| {
                let start = weights.get(name)?;
                let ema = weights.values(name)?;
                let parameter = Parameter {
                    var: Var::from_tensor(start)?,
                    exp_avg: vec![0.0; ema.len()],
                    exp_avg_sq: vec![0.0; ema.len()],
                    ema,
                };
                Ok((name.clone(), parameter))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            parameters,
            steps: 0,
        })
    }

    /// Updates made so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The live weights over `base` (which holds what is not trained): gradients flow to them.
    pub fn live(&self, base: &Weights) -> Weights {
        let mut weights = base.clone();
        for (name, parameter) in &self.parameters {
            weights.insert(name.clone(), parameter.var.as_tensor().clone());
        }
        weights
    }

    /// The averaged weights over `base`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn averaged(&self, base: &Weights) -> Result<Weights> {
        let mut weights = base.clone();
        for (name, parameter) in &self.parameters {
            let tensor = Tensor::from_slice(&parameter.ema, parameter.var.dims(), &Device::Cpu)?;
            weights.insert(name.clone(), tensor);
        }
        Ok(weights)
    }

    /// One step at `factor` of the peak rates. Returns the norm of all gradients before clipping.
    ///
    /// # Errors
    /// If a trained tensor has no gradient: something in the forward pass has lost it, or it is not
    /// used at all.
    pub fn update(&mut self, gradients: &GradStore, factor: f64) -> Result<f64> {
        self.steps += 1;
        let t = self.steps as i32;
        let mut all = Vec::with_capacity(self.parameters.len());
        let mut square = 0.0;
        for (name, parameter) in &self.parameters {
            let Some(gradient) = gradients.get(&parameter.var) else {
                candle_core::bail!("no gradient reaches the trained tensor `{name}`");
            };
            let gradient = gradient.contiguous()?;
            // Partial sums of fixed blocks: the same on any number of threads.
            let sums: Vec<f64> = with_elements::<f32, _>(&gradient, |gradient| {
                let blocks = gradient.par_chunks(BLOCK);
                Ok(blocks
                    .map(|block| multiversioned(|| sum_of_squares(block)))
                    .collect())
            })?;
            square += sums.iter().sum::<f64>();
            all.push(gradient);
        }
        let norm = square.sqrt();
        let clip_norm = self.config.clip_norm;
        let clip_coef = if clip_norm > 0.0 && norm > clip_norm {
            clip_norm / norm
        } else {
            1.0
        };
        // The average follows quickly at first, when there is little to average.
        let warm_up = (1.0 + self.steps as f64) / (10.0 + self.steps as f64);
        let ema_decay = self.config.average.min(warm_up);
        let bias_correction1 = 1.0 - BETA_1.powi(t);
        let bias_correction2 = 1.0 - BETA_2.powi(t);
        for ((name, parameter), gradient) in self.parameters.iter_mut().zip(all) {
            let (peak, weight_decay) = group(name, &self.config);
            let lr = peak * factor;
            let scalars = Scalars {
                clip_coef: clip_coef as f32,
                step_size: (lr / bias_correction1) as f32,
                bias_correction2_rsqrt: (1.0 / bias_correction2.sqrt()) as f32,
                weight_decay_factor: (1.0 - lr * weight_decay) as f32,
                ema_decay: ema_decay as f32,
            };
            parameter.update(&gradient, scalars)?;
        }
        Ok(norm)
    }

    /// Everything a later run needs to go on: `(part, name, shape, values)`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn state(&self) -> Result<Vec<StateTensor>> {
        let mut state = Vec::new();
        for (name, parameter) in &self.parameters {
            let live = parameter.var.flatten_all()?.to_vec1::<f32>()?;
            let parts = [
                live,
                parameter.exp_avg.clone(),
                parameter.exp_avg_sq.clone(),
                parameter.ema.clone(),
            ];
            for (part, values) in STATE_PARTS.iter().zip(parts) {
                state.push((
                    format!("{part}.{name}"),
                    parameter.var.dims().to_vec(),
                    values,
                ));
            }
        }
        Ok(state)
    }

    /// Continues from a state that [`Optimizer::state`] gave, after `steps` updates.
    ///
    /// # Errors
    /// If a tensor is missing or has another size.
    pub fn restore(&mut self, state: &BTreeMap<String, Vec<f32>>, steps: usize) -> Result<()> {
        for (name, parameter) in &mut self.parameters {
            let part = |part: &str| match state.get(&format!("{part}.{name}")) {
                Some(values) if values.len() == parameter.ema.len() => Ok(values.clone()),
                _ => {
                    candle_core::bail!("the checkpoint has no tensor `{part}.{name}` of this size")
                }
            };
            let live = part(STATE_PARTS[0])?;
            parameter.exp_avg = part(STATE_PARTS[1])?;
            parameter.exp_avg_sq = part(STATE_PARTS[2])?;
            parameter.ema = part(STATE_PARTS[3])?;
            parameter
                .var
                .set(&Tensor::from_vec(live, parameter.var.dims(), &Device::Cpu)?)?;
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn optimizer(config: &OptimizerConfig) -> (Optimizer, Weights) {
        let mut weights = Weights::default();
        let x = Tensor::new(&[[1.0f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
        weights.insert(names::WQ, x);
        weights.insert(
            "region.bias",
            Tensor::new(&[0.0f32, 1.0], &Device::Cpu).unwrap(),
        );
        let trained = vec![names::WQ.to_owned(), "region.bias".to_owned()];
        (Optimizer::new(&weights, &trained, config).unwrap(), weights)
    }

    fn gradients(optimizer: &Optimizer, base: &Weights) -> GradStore {
        let live = optimizer.live(base);
        let wq = live
            .get(names::WQ)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        let bias = live.get("region.bias").unwrap().sum_all().unwrap();
        (wq + bias).unwrap().backward().unwrap()
    }

    #[test]
    fn the_schedule_rises_and_falls_like_pytorchs() {
        // torch.optim.lr_scheduler.OneCycleLR(max_lr=1, total_steps=10, pct_start=0.3)
        let expected = [
            0.04,
            0.52,
            1.0,
            0.950_484_6,
            0.811_745_3,
            0.611_262,
            0.388_742,
            0.188_258_3,
            0.049_519_4,
            4e-6,
        ];
        for (step, expected) in expected.iter().enumerate() {
            let found = one_cycle(step, 10, 0.3);
            assert!(
                (found - expected).abs() < 1e-6,
                "step {step}: {found} {expected}"
            );
        }
    }

    #[test]
    fn the_first_step_is_the_rate_times_the_sign() {
        let config = OptimizerConfig {
            rate: 0.1,
            bias_rate: 0.01,
            weight_decay: 0.5,
            clip_norm: 0.0,
            ..OptimizerConfig::default()
        };
        let (mut optimizer, base) = optimizer(&config);
        let gradients = gradients(&optimizer, &base);
        let norm = optimizer.update(&gradients, 1.0).unwrap();
        // Gradients 2 x and 1.
        assert!((norm - (4.0 * (1.0 + 4.0 + 0.25 + 9.0) + 2.0f64).sqrt()).abs() < 1e-5);
        let live = optimizer.live(&base);
        let wq = live.values(names::WQ).unwrap();
        for (found, start) in wq.iter().zip([1.0f32, -2.0, 0.5, 3.0]) {
            let expected = start * (1.0 - 0.1 * 0.5) - 0.1 * start.signum();
            assert!((found - expected).abs() < 1e-5);
        }
        for (found, start) in live
            .values("region.bias")
            .unwrap()
            .iter()
            .zip([0.0f32, 1.0])
        {
            assert!((found - (start - 0.01)).abs() < 1e-6);
        }
        // The average starts quickly: min(0.999, 2 / 11) of the old.
        let average = optimizer
            .averaged(&base)
            .unwrap()
            .values("region.bias")
            .unwrap();
        assert!((average[0] + 0.01 * 9.0 / 11.0).abs() < 1e-6);
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_for_bit() {
        let config = OptimizerConfig::default();
        let (mut one, base) = optimizer(&config);
        for _ in 0..3 {
            one.update(&gradients(&one, &base), 0.7).unwrap();
        }
        let state = one
            .state()
            .unwrap()
            .into_iter()
            .map(|(name, _, values)| (name, values))
            .collect();
        let (mut two, _) = optimizer(&config);
        two.restore(&state, one.steps()).unwrap();
        for optimizer in [&mut one, &mut two] {
            optimizer.update(&gradients(optimizer, &base), 0.5).unwrap();
        }
        assert_eq!(one.state().unwrap(), two.state().unwrap());
        assert!(two.restore(&BTreeMap::new(), 0).is_err());
    }

    #[test]
    fn a_lost_gradient_is_an_error() {
        let (mut optimizer, base) = optimizer(&OptimizerConfig::default());
        let live = optimizer.live(&base);
        let loss = live.get("region.bias").unwrap().sum_all().unwrap();
        let error = optimizer
            .update(&loss.backward().unwrap(), 1.0)
            .unwrap_err()
            .to_string();
        assert!(error.contains(names::WQ), "{error}");
    }
}

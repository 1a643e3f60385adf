//! The losses: classification with unknown labels, distillation, and the multimodal contrastive
//! loss.
//!
//! Written with `s` for a logit, `p = sigmoid(s)`, and labels +1 (present), -1 (absent), 0
//! (unknown).

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use tagstream_core::config::{choice, settings};
use tagstream_kernels::composed;
use tagstream_kernels::{Real, dispatch, elements, with_elements};

settings! {
    /// The asymmetric loss on known entries (Ridnik et al., 2021; focusing factors constant in the
    /// gradient as in DualCoOp).
    ///
    /// ```text
    /// y = +1: -(1 - p)^g+ log p
    /// y = -1: -p_m^g- log(1 - p_m),  p_m = max(p - m, 0)
    /// y =  0: 0
    /// ```
    ///
    /// With g+ = g- = m = 0 it is the binary cross-entropy.
    #[derive(Copy)]
    Asymmetric {
        /// g+.
        positive_focus: f64 = 0.0,
        /// g-.
        negative_focus: f64 = 0.0,
        /// m: negatives below this probability cost nothing.
        margin: f64 = 0.0,
    }
}

impl Asymmetric {
    /// The loss of every entry, `[B, C]`. `labels` are +1, -1, 0 in the type of `logits`; 0 costs
    /// nothing.
    ///
    /// # Errors
    /// If the shapes or element types differ.
    pub fn elements(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        if logits.dims() != labels.dims() || logits.dtype() != labels.dtype() {
            bail!("labels {:?} for logits {:?}", labels.dims(), logits.dims());
        }
        logits.contiguous()?.apply_op1(AsymmetricOp {
            loss: *self,
            labels: labels.detach().contiguous()?,
        })
    }

    /// (loss, slope) of one entry.
    fn at<T: Real>(&self, s: T, y: T) -> (T, T) {
        let p = sigmoid(s);
        let number = |x: f64| <T as WithDType>::from_f64(x);
        let power = |x: T, exponent: f64| {
            number(if exponent == 0.0 {
                1.0
            } else {
                x.to_f64().powf(exponent)
            })
        };
        if y > T::zero() {
            let focus = power(T::one() - p, self.positive_focus);
            (
                focus * softplus(T::zero() - s),
                T::zero() - focus * (T::one() - p),
            )
        } else if y < T::zero() {
            let margin = number(self.margin);
            if self.margin == 0.0 {
                let focus = power(p, self.negative_focus);
                return (focus * softplus(s), focus * p);
            }
            if p <= margin {
                return (T::zero(), T::zero());
            }
            let shifted = p - margin;
            let focus = power(shifted, self.negative_focus);
            let rest = T::one() - shifted;
            (
                number(-rest.to_f64().ln()) * focus,
                focus * p * (T::one() - p) / rest,
            )
        } else {
            (T::zero(), T::zero())
        }
    }
}

/// Binary cross-entropy against probabilities, every entry with its weight:
/// `w (softplus(s) - t s)`, `[B, C]`.
///
/// # Errors
/// If the shapes differ.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    if logits.dims() != targets.dims() || logits.dims() != weights.dims() {
        bail!(
            "targets {:?} for logits {:?}",
            targets.dims(),
            logits.dims()
        );
    }
    logits.contiguous()?.apply_op1(SoftOp {
        targets: targets.detach().contiguous()?,
        weights: weights.detach().contiguous()?,
    })
}

fn sigmoid<T: Real>(s: T) -> T {
    T::one() / (T::one() + Real::exp(T::zero() - s))
}

/// log(1 + e^s) without overflow, in 64 bit.
fn softplus<T: Real>(s: T) -> T {
    let s = s.to_f64();
    <T as WithDType>::from_f64(s.max(0.0) + (-s.abs()).exp().ln_1p())
}

struct AsymmetricOp {
    loss: Asymmetric,
    labels: Tensor,
}

impl CustomOp1 for AsymmetricOp {
    fn name(&self) -> &'static str {
        "asymmetric-loss"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = dispatch!(s, self.name(), T => with_elements::<T, _>(&self.labels, |labels| {
            let s: &[T] = elements(s, layout)?;
            let all = s.iter().zip(labels).map(|(&s, &y)| self.loss.at(s, y).0);
            Ok(T::to_cpu_storage_owned(all.collect()))
        })?);
        Ok((loss, layout.shape().clone()))
    }

    fn bwd(&self, s: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let slope = s
            .detach()
            .apply_op2_no_bwd(&self.labels, &Slope(self.loss))?;
        Ok(Some((slope * grad)?))
    }
}

struct Slope(Asymmetric);

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "asymmetric-loss-slope"
    }

    fn cpu_fwd(
        &self,
        s: &CpuStorage,
        layout: &Layout,
        labels: &CpuStorage,
        labels_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let slope = dispatch!(s, self.name(), T => {
            let s: &[T] = elements(s, layout)?;
            let entries = s.iter().zip(elements::<T>(labels, labels_layout)?);
            T::to_cpu_storage_owned(entries.map(|(&s, &y)| self.0.at(s, y).1).collect())
        });
        Ok((slope, layout.shape().clone()))
    }
}

struct SoftOp {
    targets: Tensor,
    weights: Tensor,
}

impl CustomOp1 for SoftOp {
    fn name(&self) -> &'static str {
        "soft-cross-entropy"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = dispatch!(s, self.name(), T => with_elements::<T, _>(&self.targets, |targets| {
            with_elements::<T, _>(&self.weights, |weights| {
                let s: &[T] = elements(s, layout)?;
                let all = s.iter().zip(targets.iter().zip(weights));
                let losses = all.map(|(&s, (&t, &w))| w * (softplus(s) - t * s));
                Ok(T::to_cpu_storage_owned(losses.collect()))
            })
        })?);
        Ok((loss, layout.shape().clone()))
    }

    fn bwd(&self, s: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let p = composed::sigmoid(&s.detach())?;
        Ok(Some((((p - &self.targets)? * &self.weights)? * grad)?))
    }
}

choice! {
    /// How the query-level branch learns from the region-level one.
    Distillation {
        /// KL divergence of softmaxes over categories.
        Class = "class",
        /// Sum of the KL divergences of the categories' Bernoulli distributions.
        Bernoulli = "bernoulli",
        /// `1 - F^ . R^` over known positives.
        Feature = "feature",
    }
}

/// `T²/B sum_i KL(softmax_c(teacher_i / T) || softmax_c(student_i / T))` (Hinton et al., 2015). No
/// gradient reaches the teacher.
///
/// # Errors
/// If the shapes differ.
pub fn class_distillation(teacher: &Tensor, student: &Tensor, temperature: f64) -> Result<Tensor> {
    let (batch, _) = teacher.dims2()?;
    let log_p = composed::log_softmax(&(teacher.detach() / temperature)?)?;
    let log_q = composed::log_softmax(&(student / temperature)?)?;
    let divergence = (log_p.exp()? * (log_p - log_q)?)?.sum_all()?;
    divergence * (temperature * temperature / batch.max(1) as f64)
}

/// `T²/B sum_ic KL(Bern(sigmoid(teacher/T)) || Bern(sigmoid(student/T)))`. No gradient reaches the
/// teacher.
///
/// # Errors
/// If the shapes differ.
pub fn bernoulli_distillation(
    teacher: &Tensor,
    student: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let (batch, _) = teacher.dims2()?;
    let teacher = (teacher.detach() / temperature)?;
    let p = composed::sigmoid(&teacher)?;
    let ones = p.ones_like()?;
    // KL = cross-entropy - entropy, and the entropy of p is the cross-entropy against its own
    // logit.
    let cross = soft_cross_entropy(&(student / temperature)?, &p, &ones)?.sum_all()?;
    let entropy = soft_cross_entropy(&teacher, &p, &ones)?.sum_all()?;
    (cross - entropy)? * (temperature * temperature / batch.max(1) as f64)
}

/// Mean of `1 - F^ . sg(R^)` over entries known to be present; 0 if there are none.
///
/// # Errors
/// If the shapes differ.
pub fn feature_distillation(query: &Tensor, region: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let Some((rows, _)) = present(labels)? else {
        return Tensor::zeros((), query.dtype(), query.device());
    };
    let (_, _, d) = query.dims3()?;
    let count = rows.len() as f64;
    let query = tagstream_kernels::select_rows(&query.reshape(((), d))?, &rows)?;
    let region = tagstream_kernels::select_rows(&region.detach().reshape(((), d))?, &rows)?;
    ((query * region)?.sum_all()? * (-1.0 / count))? + 1.0
}

/// The multimodal contrastive loss over E = {(b, c): label +1}; 0, without a gradient, if E is
/// empty.
///
/// ```text
/// den_bc = log sum_k [ exp(z_bc . Pv_k / tau) + exp(z_bc . Pt_k / tau) ]
/// L = -1/|E| sum_E 1/2 [ (z_bc . Pv_c / tau - den_bc) + (z_bc . Pt_c / tau - den_bc) ]
/// ```
///
/// `z` is `[B, C, D]` (R^), `visual` and `text` the prototypes, `[C, D]`. The visual prototypes are
/// constants; the gradient flows through `z` and `text`.
///
/// # Errors
/// If the shapes differ.
pub fn contrastive(
    z: &Tensor,
    visual: &Tensor,
    text: &Tensor,
    labels: &Tensor,
    tau: f64,
) -> Result<Tensor> {
    let (_, _, d) = z.dims3()?;
    let all = z.reshape(((), d))?;
    contrastive_rows(
        &|rows| tagstream_kernels::select_rows(&all, rows),
        visual,
        text,
        labels,
        tau,
    )
}

/// [`contrastive`] where the rows of z are computed on demand: `rows` gives those of the flat
/// indices `b C + c`, ascending.
///
/// # Errors
/// If the shapes differ.
pub fn contrastive_rows(
    rows: &dyn Fn(&[usize]) -> Result<Tensor>,
    visual: &Tensor,
    text: &Tensor,
    labels: &Tensor,
    tau: f64,
) -> Result<Tensor> {
    let Some((chosen, categories)) = present(labels)? else {
        return Tensor::zeros((), text.dtype(), text.device());
    };
    let (c, count) = (text.dim(0)?, chosen.len());
    let anchors = rows(&chosen)?;
    let prototypes = Tensor::cat(&[&visual.detach(), text], 0)?;
    let scores = (anchors.matmul(&prototypes.t()?)? / tau)?;
    let log_share = composed::log_softmax(&scores)?.reshape(((), 1))?;
    let own = (0..count)
        .zip(&categories)
        .flat_map(|(row, &category)| [0, c].map(|side| row * 2 * c + side + category))
        .collect::<Vec<_>>();
    tagstream_kernels::select_rows(&log_share, &own)?.sum_all()? * (-0.5 / count as f64)
}

/// Flat indices (b C + c) and categories of the entries labelled +1, or nothing.
fn present(labels: &Tensor) -> Result<Option<(Vec<usize>, Vec<usize>)>> {
    let (_, c) = labels.dims2()?;
    let flat = labels
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let rows: Vec<usize> = (0..flat.len()).filter(|&at| flat[at] > 0.5).collect();
    let categories = rows.iter().map(|at| at % c).collect();
    Ok((!rows.is_empty()).then_some((rows, categories)))
}

#[cfg(test)]
mod tests;

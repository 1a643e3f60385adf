//! The activations of CLIP's text towers.

use super::{Real, dispatch, elements, multiversioned};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// `x σ(1.702 x)`: the activation of OpenAI's CLIP weights.
///
/// # Errors
/// If the element type is neither f32 nor f64.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activation::QuickGelu)
}

/// `x Φ(x)`, with the error function: the activation of most OpenCLIP weights.
///
/// # Errors
/// If the element type is neither f32 nor f64.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activation::Gelu)
}

/// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`: the activation of SigLIP's weights.
///
/// # Errors
/// If the element type is neither f32 nor f64.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activation::GeluTanh)
}

/// The activation of a transformer's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// [`quick_gelu`]: OpenAI's CLIP weights.
    QuickGelu,
    /// [`gelu`], with the error function: most OpenCLIP weights.
    Gelu,
    /// [`gelu_tanh`]: SigLIP's weights.
    GeluTanh,
}

/// Elements a thread takes at once.
const BLOCK: usize = 16_384;

#[inline(always)]
fn quick_gelu_of<T: Real>(x: T) -> T {
    x / (T::one() + Real::exp(T::from_f64(-1.702) * x))
}

/// σ + 1.702 x σ (1 - σ).
#[inline(always)]
fn quick_gelu_slope<T: Real>(x: T) -> T {
    let sigma = T::one() / (T::one() + Real::exp(T::from_f64(-1.702) * x));
    sigma * (T::one() + T::from_f64(1.702) * x * (T::one() - sigma))
}

/// `x Φ(x)` and its derivative `Φ(x) + x φ(x)`.
#[inline(always)]
pub(super) fn gelu_and_slope<T: Real>(x: T) -> (T, T) {
    let (cdf, density) = x.normal();
    (
        x * cdf,
        cdf + x * density * T::from_f64(0.398_942_280_401_432_7),
    )
}

/// `x σ(2u)` and its derivative `σ(2u) + x σ(2u) (1 - σ(2u)) 2u'`, with
/// `u = √(2/π) (x + 0.044715 x³)`.
#[inline(always)]
fn gelu_tanh_and_slope<T: Real>(x: T) -> (T, T) {
    /// 2 √(2/π).
    const DOUBLE: f64 = 1.595_769_121_605_731;
    const CUBIC: f64 = 0.044_715;
    let square = x * x;
    let twice = T::from_f64(DOUBLE) * x * (T::one() + T::from_f64(CUBIC) * square);
    let sigma = T::one() / (T::one() + Real::exp(T::zero() - twice));
    let rise = T::from_f64(DOUBLE) * (T::one() + T::from_f64(3.0 * CUBIC) * square);
    (x * sigma, sigma + x * sigma * (T::one() - sigma) * rise)
}

impl Activation {
    /// Replaces every row of `x` (`[rows, bias.len()]`) by the activation of `x + bias`, and
    /// returns its derivative.
    pub(super) fn apply_rows<T: Real>(self, x: &mut [T], bias: &[T]) -> Vec<T> {
        let mut slopes = vec![T::zero(); x.len()];
        let rows = x
            .chunks_exact_mut(bias.len())
            .zip(slopes.chunks_exact_mut(bias.len()));
        match self {
            Activation::Gelu => multiversioned(|| {
                for (x, slope) in rows {
                    for ((x, slope), &bias) in x.iter_mut().zip(slope).zip(bias) {
                        (*x, *slope) = gelu_and_slope(*x + bias);
                    }
                }
            }),
            Activation::GeluTanh => multiversioned(|| {
                for (x, slope) in rows {
                    for ((x, slope), &bias) in x.iter_mut().zip(slope).zip(bias) {
                        (*x, *slope) = gelu_tanh_and_slope(*x + bias);
                    }
                }
            }),
            Activation::QuickGelu => multiversioned(|| {
                for (x, slope) in rows {
                    for ((x, slope), &bias) in x.iter_mut().zip(slope).zip(bias) {
                        let sum = *x + bias;
                        (*x, *slope) = (quick_gelu_of(sum), quick_gelu_slope(sum));
                    }
                }
            }),
        }
        slopes
    }

    fn compute<T: Real>(self, x: &[T]) -> Vec<T> {
        let mut y = vec![T::zero(); x.len()];
        y.par_chunks_mut(BLOCK)
            .zip(x.par_chunks(BLOCK))
            .for_each(|(y, x)| {
                let pairs = y.iter_mut().zip(x);
                match self {
                    Activation::QuickGelu => {
                        multiversioned(|| pairs.for_each(|(y, &x)| *y = quick_gelu_of(x)));
                    }
                    Activation::Gelu => {
                        multiversioned(|| pairs.for_each(|(y, &x)| *y = gelu_and_slope(x).0));
                    }
                    Activation::GeluTanh => {
                        multiversioned(|| pairs.for_each(|(y, &x)| *y = gelu_tanh_and_slope(x).0));
                    }
                }
            });
        y
    }

    fn compute_backward<T: Real>(self, x: &[T], grad: &[T]) -> Vec<T> {
        let mut dx = grad.to_vec();
        dx.par_chunks_mut(BLOCK)
            .zip(x.par_chunks(BLOCK))
            .for_each(|(dx, x)| {
                let pairs = dx.iter_mut().zip(x);
                match self {
                    Activation::QuickGelu => {
                        multiversioned(|| pairs.for_each(|(dx, &x)| *dx *= quick_gelu_slope(x)));
                    }
                    Activation::Gelu => {
                        multiversioned(|| pairs.for_each(|(dx, &x)| *dx *= gelu_and_slope(x).1));
                    }
                    Activation::GeluTanh => {
                        let slope = |x: T| gelu_tanh_and_slope(x).1;
                        multiversioned(|| pairs.for_each(|(dx, &x)| *dx *= slope(x)));
                    }
                }
            });
        dx
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        match self {
            Activation::QuickGelu => "quick-gelu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu-tanh",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = dispatch!(x, self.name(), T => {
            T::to_cpu_storage_owned(self.compute::<T>(elements(x, layout)?))
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(
            x.detach()
                .contiguous()?
                .apply_op2_no_bwd(&grad.contiguous()?, &Backward(*self))?,
        ))
    }
}

struct Backward(Activation);

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "activation-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        grad: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dx = dispatch!(x, self.name(), T => {
            let (x, grad) = (elements(x, xl)?, elements(grad, gl)?);
            T::to_cpu_storage_owned(self.0.compute_backward::<T>(x, grad))
        });
        Ok((dx, xl.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composed;
    use crate::testing::{check_equal, check_gradients, noise};

    #[test]
    fn the_gradients_agree_with_differences() {
        check_gradients(&|x| quick_gelu(&(&x[0] * 4.0)?), &[noise(3, &[2, 13])]);
        check_gradients(&|x| gelu(&(&x[0] * 4.0)?), &[noise(3, &[2, 13])]);
        check_gradients(&|x| gelu_tanh(&(&x[0] * 4.0)?), &[noise(3, &[2, 13])]);
    }

    #[test]
    fn they_equal_the_composed_operations() {
        check_equal(
            &|x| quick_gelu(&(&x[0] * 4.0)?),
            &|x| {
                let x = (&x[0] * 4.0)?;
                &x * composed::sigmoid(&(&x * 1.702)?)?
            },
            &[noise(3, &[4, 50])],
        );
        // Not candle's `gelu_erf`: the constants of its backward have single precision.
        let composed = |x: &[Tensor]| {
            let x = (&x[0] * 4.0)?;
            (&x * ((&x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?)? * 0.5
        };
        check_equal(&|x| gelu(&(&x[0] * 4.0)?), &composed, &[noise(3, &[4, 50])]);
        let composed = |x: &[Tensor]| {
            let x = (&x[0] * 4.0)?;
            let cube = (x.sqr()? * &x)?;
            let inner = (&x + (cube * 0.044_715)?)?;
            let inner = (inner * (2.0 / std::f64::consts::PI).sqrt())?;
            (&x * (inner.tanh()? + 1.0)?)? * 0.5
        };
        check_equal(
            &|x| gelu_tanh(&(&x[0] * 4.0)?),
            &composed,
            &[noise(3, &[4, 50])],
        );
    }

    #[test]
    fn the_fast_exponential_is_accurate_over_its_range() {
        for step in -8_700..=8_800 {
            let x = step as f32 / 100.0;
            let exact = (x as f64).exp();
            let error = (Real::exp(x) as f64 - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
        assert!(Real::exp(-1e9f32) < 1e-37 && Real::exp(1e9f32).is_finite());
    }
}

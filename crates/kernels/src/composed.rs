//! The readable forms, made of candle's elementary operations with their gradients: what the fused
//! operations are compared with, and what runs where speed does not matter.

use candle_core::{D, Result, Tensor};

/// `1 / (1 + e^-x)`, element by element, as `(1 + tanh(x / 2)) / 2`: nothing overflows.
///
/// # Errors
/// If the element type has no `tanh`.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? * 0.5)? + 0.5
}

/// `x - max(x) - log(sum(exp(x - max(x))))` over the last dimension.
///
/// # Errors
/// If the tensor has no dimension.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// `exp(x) / sum(exp(x))` over the last dimension.
///
/// # Errors
/// If the tensor has no dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, noise};
    use candle_core::Device;

    #[test]
    fn the_gradients_agree_with_differences() {
        let input = || [noise(3, &[2, 7])];
        check_gradients(&|x| sigmoid(&x[0]), &input());
        check_gradients(&|x| log_softmax(&x[0])?.sqr(), &input());
        check_gradients(&|x| softmax(&x[0])?.sqr(), &input());
    }

    #[test]
    fn the_values_are_those_of_the_formulas_also_far_out() {
        let far = [-800.0f64, -3.0, 0.0, 2.0, 800.0];
        let x = Tensor::new(&far, &Device::Cpu).unwrap();
        let got = sigmoid(&x).unwrap().to_vec1::<f64>().unwrap();
        for (x, got) in far.iter().zip(got) {
            assert!((got - 1.0 / (1.0 + (-x).exp())).abs() < 1e-12, "{x}: {got}");
        }
        let log = log_softmax(&x).unwrap().to_vec1::<f64>().unwrap();
        assert!((log[0] + 1600.0).abs() < 1e-9 && log[4].abs() < 1e-12);
        let p = softmax(&x).unwrap().to_vec1::<f64>().unwrap();
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12 && p[4] == 1.0);
    }
}

//! Gradient checks: the analytic gradient against central differences in f64.

use candle_core::{DType, Device, Result, Tensor, Var};

/// Numbers without a pattern, the same at every run (a multiplicative congruential generator), in
/// [-1, 1).
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The gradients of `sum(f(inputs) * weights)` with fixed random weights, from autograd.
pub fn gradients(
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|input| Var::from_tensor(input).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let output = f(&tensors).unwrap();
    let weights = noise(99, output.dims()).to_dtype(output.dtype()).unwrap();
    let grads = (&output * &weights)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let grads = vars
        .iter()
        .map(|var| grads.get(var).expect("a gradient for every input").clone())
        .collect();
    (output, grads)
}

/// Asserts that autograd through `f` agrees with central differences at every element of every
/// input (all f64).
pub fn check_gradients(f: &dyn Fn(&[Tensor]) -> Result<Tensor>, inputs: &[Tensor]) {
    let (output, analytic) = gradients(f, inputs);
    let weights = noise(99, output.dims());
    let value = |inputs: &[Tensor]| -> f64 {
        (f(inputs).unwrap() * &weights)
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    let step = 1e-5;
    for (at, input) in inputs.iter().enumerate() {
        let base: Vec<f64> = input.flatten_all().unwrap().to_vec1().unwrap();
        let analytic: Vec<f64> = analytic[at].flatten_all().unwrap().to_vec1().unwrap();
        for element in 0..base.len() {
            let moved = |by: f64| {
                let mut values = base.clone();
                values[element] += by;
                let mut inputs = inputs.to_vec();
                inputs[at] = Tensor::from_vec(values, input.dims(), &Device::Cpu).unwrap();
                value(&inputs)
            };
            let numeric = (moved(step) - moved(-step)) / (2.0 * step);
            let error = (numeric - analytic[element]).abs() / (1.0 + numeric.abs());
            assert!(
                error < 1e-7,
                "input {at} element {element}: differences give {numeric}, autograd {}",
                analytic[element]
            );
        }
    }
}

/// Asserts that two functions of the same inputs have the same values and gradients, in f64 and in
/// f32.
pub fn check_equal(
    ours: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    composed: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
) {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        let inputs: Vec<Tensor> = inputs
            .iter()
            .map(|input| input.to_dtype(dtype).unwrap())
            .collect();
        let (a, a_grads) = gradients(ours, &inputs);
        let (b, b_grads) = gradients(composed, &inputs);
        assert!(
            distance(&a, &b) < tolerance,
            "{dtype:?} values differ by {}",
            distance(&a, &b)
        );
        for (at, (a, b)) in a_grads.iter().zip(&b_grads).enumerate() {
            assert!(
                distance(a, b) < tolerance,
                "{dtype:?} gradient {at} differs by {}",
                distance(a, b)
            );
        }
    }
}

/// The largest absolute difference.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    difference
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

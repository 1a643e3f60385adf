//! Runs written graphs in ONNX Runtime, for tests of the writers.

use crate::runtime::Runtime;
use ort::session::builder::SessionBuilder;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// There may be only one environment a process, so it is the runtime's own.
fn builder() -> SessionBuilder {
    let runtime = Runtime::load().expect("ONNX Runtime, to test the graph writers");
    Session::builder(runtime.environment())
        .unwrap()
        .with_intra_threads(1)
        .unwrap()
}

/// An input of a run.
pub enum Input<'a> {
    /// Shape and values in 32 bit.
    F32(Vec<usize>, &'a [f32]),
    /// Shape and bytes.
    U8(Vec<usize>, &'a [u8]),
}

/// What a run gave, by output name: shape and content (integers as floats).
pub type Outputs = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn execute(session: &mut Session, inputs: &[(&str, Input)]) -> Outputs {
    let inputs: Vec<(String, SessionInputValue)> = inputs
        .iter()
        .map(|(name, input)| {
            let value: SessionInputValue = match input {
                Input::F32(shape, data) => Tensor::from_array((shape.clone(), data.to_vec()))
                    .unwrap()
                    .into(),
                Input::U8(shape, data) => Tensor::from_array((shape.clone(), data.to_vec()))
                    .unwrap()
                    .into(),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    let outputs = session.run(inputs).unwrap();
    outputs
        .iter()
        .map(|(name, value)| {
            let (shape, data) = match value.try_extract_tensor::<f32>() {
                Ok((shape, data)) => (shape, data.to_vec()),
                Err(_) => {
                    let (shape, data) = value.try_extract_tensor::<i64>().unwrap();
                    (shape, data.iter().map(|&x| x as f32).collect())
                }
            };
            let shape = shape.iter().map(|&d| d as usize).collect();
            (name.to_owned(), (shape, data))
        })
        .collect()
}

/// Runs a model held in memory, on one CPU thread.
pub fn run(model: &[u8], inputs: &[(&str, Input)]) -> Outputs {
    let mut session = builder().commit_from_memory(model).unwrap();
    execute(&mut session, inputs)
}

/// Runs a model from its file, so that external data beside it is found.
pub fn run_file(path: &Path, inputs: &[(&str, Input)]) -> Outputs {
    let mut session = builder().commit_from_file(path).unwrap();
    execute(&mut session, inputs)
}

/// The largest absolute difference.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| {
            assert!(x.is_finite() && y.is_finite());
            (x - y).abs()
        })
        .fold(0.0, f32::max)
}

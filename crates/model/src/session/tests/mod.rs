//! Runs of the tiny model of `tests/fixtures/tiny-model` (its `make.py` says what it computes).

mod device;

use super::*;
use crate::onnx::proto;
use prost::Message;

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/tiny-model")
        .join(name)
}

/// Grey with a pure square of one colour in the 8x8 patches (rows 1..3, columns 2..4) of the 4x4
/// grid.
pub(super) fn picture(colour: [u8; 3]) -> Vec<u8> {
    let mut pixels = vec![90u8; 32 * 32 * 3];
    for y in 8..24 {
        for x in 16..32 {
            pixels[(y * 32 + x) * 3..][..3].copy_from_slice(&colour);
        }
    }
    pixels
}

pub(super) fn open(runtime: &Runtime) -> (EncoderSession, HeadSession) {
    let options = SessionOptions::cpu();
    let encoder = EncoderModel::read(runtime, &fixture("encoder.onnx")).unwrap();
    let encoder = encoder.open(runtime, &options).unwrap();
    let head =
        HeadModel::read(runtime, &fixture("head.onnx"), &fixture("head.safetensors")).unwrap();
    let head = head.open(runtime, &options, encoder.shape()).unwrap();
    (encoder, head)
}

#[test]
fn a_batch_is_encoded_and_scored_by_its_colours() {
    let runtime = Runtime::load().unwrap();
    let (mut encoder, mut head) = open(&runtime);
    let shape = encoder.shape();
    assert_eq!(
        (shape.height, shape.width, shape.locations, shape.dim),
        (32, 32, 16, 4)
    );
    let pixels = [picture([250, 20, 20]), picture([20, 20, 250])].concat();
    let features = encoder.features(&pixels, 2).unwrap();
    let out = head.score(&features, true).unwrap();
    let won: Vec<usize> = out
        .logits
        .chunks(3)
        .map(|row| (0..3).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap())
        .collect();
    assert_eq!(won, [0, 2]);
    // Red's evidence in the first image lies in the four patches of the square.
    let red: Vec<usize> = (0..16).filter(|n| out.saliency[*n] > 0.2).collect();
    assert_eq!(red, [6, 7, 10, 11]);
    assert_eq!(out.region.len(), 2 * 3 * 4);
    let norm: f32 = out.embedding[..4].iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5);

    let encoded = encoder.encode(&pixels, 2).unwrap();
    assert_eq!(encoded.dense_of(1).len(), 16 * 4);
    assert_eq!(head.score_encoded(&encoded, true).unwrap(), out);
    assert!(head.score(&features, false).unwrap().region.is_empty());
}

#[test]
fn a_bad_batch_is_an_error_and_the_next_batch_is_not_harmed() {
    let runtime = Runtime::load().unwrap();
    let (mut encoder, _) = open(&runtime);
    let mut poison = picture([250, 20, 20]);
    poison[0] = 255;
    let error = encoder.encode(&poison, 1).unwrap_err();
    assert!(
        matches!(&error, SessionError::Run { reason, .. } if reason.contains("Gather")),
        "{error}"
    );
    assert!(matches!(
        encoder.encode(&poison, 2),
        Err(SessionError::Input { .. })
    ));
    assert!(matches!(
        encoder.encode(&Vec::new(), 0),
        Err(SessionError::Input { .. })
    ));
    encoder.encode(&picture([250, 20, 20]), 1).unwrap();
}

/// The encoder with a changed graph.
fn altered(change: impl FnOnce(&mut proto::GraphProto)) -> Result<EncoderSession, SessionError> {
    let runtime = Runtime::load().unwrap();
    let bytes = fs::read(fixture("encoder.onnx")).unwrap();
    let mut model = proto::ModelProto::decode(bytes.as_slice()).unwrap();
    change(model.graph.as_mut().unwrap());
    EncoderModel::from_bytes(&runtime, "altered.onnx".into(), model.encode_to_vec())?
        .open(&runtime, &SessionOptions::cpu())
}

fn reason_of(result: Result<EncoderSession, SessionError>) -> String {
    match result {
        Err(SessionError::Contract { reason, .. }) => reason,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}

fn batch_axis(value: &mut proto::ValueInfoProto) -> &mut proto::tensor_shape_proto::Dimension {
    let Some(proto::type_proto::Value::TensorType(tensor)) =
        value.r#type.as_mut().unwrap().value.as_mut()
    else {
        panic!("not a tensor");
    };
    &mut tensor.shape.as_mut().unwrap().dim[0]
}

#[test]
fn the_contract_is_checked_when_a_graph_is_opened() {
    use proto::tensor_shape_proto::dimension::Value::DimValue;
    altered(|_| ()).unwrap();
    let fixed = reason_of(altered(|g| {
        for value in g.input.iter_mut().chain(&mut g.output) {
            batch_axis(value).value = Some(DimValue(1));
        }
    }));
    assert!(
        fixed.contains("batch axis of `pixels` is fixed to 1"),
        "{fixed}"
    );
    let missing = reason_of(altered(|g| {
        g.output.retain(|o| o.name() == "dense");
    }));
    assert!(
        missing.contains("`global` is missing (there is: dense)"),
        "{missing}"
    );
    let renamed = reason_of(altered(|g| {
        g.input[0].name = Some("image".into());
        for node in &mut g.node {
            for input in &mut node.input {
                if input == "pixels" {
                    *input = "image".into();
                }
            }
        }
    }));
    assert!(
        renamed.contains("`pixels` is missing (there is: image)"),
        "{renamed}"
    );
    let runtime = Runtime::load().unwrap();
    let garbage = EncoderModel::from_bytes(&runtime, "x".into(), b"<html>".to_vec());
    assert!(matches!(garbage, Err(SessionError::Contract { .. })));
}

#[test]
fn the_heads_weights_are_taken_by_name_and_checked() {
    let runtime = Runtime::load().unwrap();
    let graph = fs::read(fixture("head.onnx")).unwrap();
    let weights = fs::read(fixture("head.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let without = |name: &str| {
        let kept = stored.tensors().into_iter().filter(|(n, _)| n != name);
        safetensors::serialize(kept, None).unwrap()
    };
    let error = HeadModel::from_bytes(
        &runtime,
        "head".into(),
        graph.clone(),
        &without("region.bias"),
    );
    let text = error.err().unwrap().to_string();
    assert!(text.contains("region.bias is missing"), "{text}");

    let bias = [0u8; 8];
    let short =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &bias).unwrap();
    let wrong = stored.tensors().into_iter().map(|(n, t)| {
        if n == "region.bias" {
            (n, short.clone())
        } else {
            (n, t)
        }
    });
    let wrong = safetensors::serialize(wrong, None).unwrap();
    let error = HeadModel::from_bytes(&runtime, "head".into(), graph, &wrong);
    let text = error.err().unwrap().to_string();
    assert!(text.contains("region.bias must be F32 [3]"), "{text}");
}

#[test]
fn sessions_of_one_model_share_weights_and_agree() {
    let runtime = Runtime::load().unwrap();
    // A weight large enough to be shared: a table of 64 KiB that the output depends on.
    let bytes = fs::read(fixture("encoder.onnx")).unwrap();
    let mut model = proto::ModelProto::decode(bytes.as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let table = graph
        .initializer
        .iter_mut()
        .find(|t| t.name() == "table")
        .unwrap();
    let values: Vec<u8> = (0..16384).flat_map(|i| (i as f32).to_le_bytes()).collect();
    table.dims = vec![16384];
    table.raw_data = Some(values.into());
    let model = EncoderModel::from_bytes(&runtime, "shared".into(), model.encode_to_vec()).unwrap();
    assert_eq!(model.graph.shared.len(), 1);
    let mut pixels = picture([20, 250, 20]);
    pixels[0] = 77;
    let mut first = model.open(&runtime, &SessionOptions::cpu()).unwrap();
    let mut second = model.open(&runtime, &SessionOptions::cpu()).unwrap();
    let (a, b) = (
        first.encode(&pixels, 1).unwrap(),
        second.encode(&pixels, 1).unwrap(),
    );
    assert_eq!(a, b);
    // The last component's mean is the constant 0.05; the table's 77th entry is added to it.
    assert!((a.global[3] - 77.05).abs() < 1e-3, "{:?}", a.global);
    drop((first, model));
    assert_eq!(second.encode(&pixels, 1).unwrap(), b);
}

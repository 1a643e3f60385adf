use super::*;
use crate::clip::weights::WeightFiles;
use candle_core::Var;
use serde::Deserialize;
use std::path::Path;
use tagstream_kernels::testing::{check_gradients, distance, noise};
use tagstream_kernels::{Segment, causal_attention, quick_gelu};

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    output: Vec<f32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/fixtures/text")
        .join(name)
}

/// The goldens come from `transformers` and `open_clip` (scripts/make_text_goldens.py).
#[test]
fn it_agrees_with_transformers_and_open_clip() {
    for name in [
        "hugging_face",
        "hugging_face_fp16_gelu",
        "hugging_face_legacy",
        "open_clip",
        "open_clip_quick",
    ] {
        let tower = TextTower::open(&folder(name)).unwrap();
        let json = std::fs::read_to_string(folder(name).join("expected.json")).unwrap();
        let goldens: Vec<Golden> = serde_json::from_str(&json).unwrap();
        let texts: Vec<Vec<u32>> = goldens.iter().map(|golden| golden.tokens.clone()).collect();
        let outputs = tower
            .forward_tokens(&texts)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (golden, output) in goldens.iter().zip(outputs) {
            for (expected, found) in golden.output.iter().zip(output) {
                assert!(
                    (expected - found).abs() < 2e-5,
                    "{name}: {expected} and {found}"
                );
            }
        }
    }
}

fn tower(dtype: DType) -> TextTower {
    let config = TextTower::read_config(&folder("hugging_face").join("config.json")).unwrap();
    let weights = WeightFiles::open(&[folder("hugging_face").join("model.safetensors")]).unwrap();
    TextTower::load_as(&weights, config, dtype).unwrap()
}

#[test]
fn the_gradient_of_the_embeddings_agrees_with_differences() {
    let tower = tower(DType::F64);
    check_gradients(
        &|x| Ok(tower.forward_embeddings(&x[0], &[4, 1, 2]).unwrap()),
        &[noise(5, &[3, 5, 16])],
    );
}

/// Cutting prompts at the longest end token changes neither values nor gradients.
#[test]
fn cut_prompts_equal_all_77_positions_in_values_and_gradients() {
    let tower = tower(DType::F64);
    let ends = [6, 9, 3];
    let full = noise(6, &[3, 77, 16]);
    let run = |x: &Tensor| {
        let x = Var::from_tensor(x).unwrap();
        let output = tower.forward_embeddings(&x, &ends).unwrap();
        let loss = (&output * noise(7, output.dims()))
            .unwrap()
            .sum_all()
            .unwrap();
        (
            output.detach(),
            loss.backward().unwrap().get(&x).unwrap().clone(),
        )
    };
    let (full_output, full_gradient) = run(&full);
    let (cut_output, cut_gradient) = run(&full.narrow(1, 0, 10).unwrap().contiguous().unwrap());
    assert!(distance(&full_output, &cut_output) < 1e-12);
    assert!(distance(&full_gradient.narrow(1, 0, 10).unwrap(), &cut_gradient) < 1e-12);
    assert_eq!(
        distance(
            &full_gradient.narrow(1, 10, 67).unwrap(),
            &noise(0, &[3, 67, 16]).zeros_like().unwrap()
        ),
        0.0
    );

    // And the packed computation equals a plain transformer over all 77 positions.
    let (plain_output, plain_gradient) = {
        let x = Var::from_tensor(&full).unwrap();
        let output = plain_forward(&tower, &x, &ends).unwrap();
        let loss = (&output * noise(7, output.dims()))
            .unwrap()
            .sum_all()
            .unwrap();
        (
            output.detach(),
            loss.backward().unwrap().get(&x).unwrap().clone(),
        )
    };
    assert!(
        distance(&plain_output, &cut_output) < 1e-10,
        "{}",
        distance(&plain_output, &cut_output)
    );
    assert!(distance(&plain_gradient, &full_gradient) < 1e-10);
}

/// The tower as a textbook has it: every position of every block, sequences unpacked.
fn plain_forward(tower: &TextTower, x: &Tensor, ends: &[usize]) -> candle_core::Result<Tensor> {
    let (n, length, width) = x.dims3()?;
    let mut x = x
        .broadcast_add(&tower.positional_embedding.narrow(0, 0, length)?)?
        .reshape((n * length, width))?;
    let segments = vec![
        Segment {
            queries: length,
            keys: length
        };
        n
    ];
    for block in tower.transformer.blocks.iter() {
        let normal = block.norm_1.forward(&x)?;
        let (query, key_value) = (
            block.query.forward(&normal)?,
            block.key_value.forward(&normal)?,
        );
        let attended = causal_attention(&query, &key_value, tower.config.heads, &segments)?;
        x = (x + block.out.forward(&attended)?)?;
        let hidden = quick_gelu(&block.mlp_in.forward(&block.norm_2.forward(&x)?)?)?;
        x = (x + block.mlp_out.forward(&hidden)?)?;
    }
    let rows: Vec<usize> = ends
        .iter()
        .enumerate()
        .map(|(index, end)| index * length + end)
        .collect();
    tower.project(&tower.final_norm.forward(&select_rows(&x, &rows)?)?)
}

#[test]
fn tokens_after_the_end_change_nothing() {
    let tower = tower(DType::F32);
    let a = tower
        .forward_tokens(&[vec![57, 4, 58], vec![57, 4, 9, 58]])
        .unwrap();
    let b = tower
        .forward_tokens(&[vec![57, 4, 58, 3, 3, 3], vec![57, 4, 9, 58, 58]])
        .unwrap();
    assert_eq!(a.to_vec2::<f32>().unwrap(), b.to_vec2::<f32>().unwrap());
}

#[test]
fn bad_input_is_a_named_error() {
    let tower = tower(DType::F32);
    assert!(matches!(
        tower.forward_tokens(&[vec![57, 4]]),
        Err(TextError::NoEndToken { index: 0 })
    ));
    assert!(matches!(
        tower.forward_tokens(&[vec![57, 59, 58]]),
        Err(TextError::TokenOutOfRange {
            token: 59,
            vocabulary: 59
        })
    ));
    let long: Vec<u32> = std::iter::repeat_n(4, 80).chain([58]).collect();
    assert!(matches!(
        tower.forward_tokens(&[long]),
        Err(TextError::TooLong {
            end: 80,
            limit: 77,
            ..
        })
    ));
    let x = Tensor::zeros((1, 4, 16), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(
        tower.forward_embeddings(&x, &[4]),
        Err(TextError::TooLong { .. })
    ));
    assert!(matches!(
        tower.forward_embeddings(&x, &[1, 2]),
        Err(TextError::WrongShape { .. })
    ));
    assert_eq!(tower.forward_tokens(&[]).unwrap().dims(), [0, 12]);
}

#[test]
fn what_a_folder_lacks_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = TextTower::open(empty.path()).unwrap_err().to_string();
    assert!(error.contains("open_clip_config.json"), "{error}");
    std::fs::copy(
        folder("hugging_face").join("config.json"),
        empty.path().join("config.json"),
    )
    .unwrap();
    let error = TextTower::open(empty.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    std::fs::write(empty.path().join("model.safetensors"), b"short").unwrap();
    assert!(matches!(
        TextTower::open(empty.path()),
        Err(TextError::Weights(_))
    ));
    std::fs::write(
        empty.path().join("model.safetensors"),
        u64::MAX.to_le_bytes(),
    )
    .unwrap();
    assert!(matches!(
        TextTower::open(empty.path()),
        Err(TextError::Weights(_))
    ));
    // Weights of another tower.
    let other = folder("open_clip").join("open_clip_model.safetensors");
    std::fs::copy(other, empty.path().join("model.safetensors")).unwrap();
    let json = std::fs::read_to_string(empty.path().join("config.json")).unwrap();
    std::fs::write(
        empty.path().join("config.json"),
        json.replace("\"hidden_size\": 16", "\"hidden_size\": 32"),
    )
    .unwrap();
    assert!(matches!(
        TextTower::open(empty.path()),
        Err(TextError::WrongShape { .. })
    ));
}

//! Against the same blocks composed of single operations.

use super::super::testing::{check_equal, check_gradients, distance, noise};
use super::super::{causal_attention, gelu, gelu_tanh, quick_gelu, select_rows};
use super::*;

const W: usize = 4;
const HIDDEN: usize = 6;

fn transformer(blocks: usize, activation: Activation, dtype: DType) -> FrozenTransformer {
    let mut seed = 0;
    let mut random = |shape: &[usize]| {
        seed += 1;
        noise(seed, shape).to_dtype(dtype).unwrap()
    };
    let mut block = || {
        let mut linear = |out: usize, inner: usize| {
            FrozenLinear::new(random(&[out, inner]), Some(random(&[out]))).unwrap()
        };
        let (query, key_value) = (linear(W, W), linear(2 * W, W));
        let (out, mlp_in, mlp_out) = (linear(W, W), linear(HIDDEN, W), linear(W, HIDDEN));
        let mut norm = || FrozenLayerNorm::new(random(&[W]), random(&[W]), 1e-3).unwrap();
        FrozenBlock {
            norm_1: norm(),
            query,
            key_value,
            out,
            norm_2: norm(),
            mlp_in,
            mlp_out,
        }
    };
    FrozenTransformer {
        blocks: (0..blocks).map(|_| block()).collect(),
        heads: 2,
        activation,
        sight: Sight::Before,
    }
}

fn composed(this: &FrozenTransformer, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let segments: Vec<Segment> = lengths
        .iter()
        .map(|&keys| Segment {
            queries: keys,
            keys,
        })
        .collect();
    let mut x = x.clone();
    for block in this.blocks.iter() {
        let y = block.norm_1.forward(&x)?;
        let (q, kv) = (block.query.forward(&y)?, block.key_value.forward(&y)?);
        let attended = causal_attention(&q, &kv, this.heads, &segments)?;
        x = (x + block.out.forward(&attended)?)?;
        let hidden = block.mlp_in.forward(&block.norm_2.forward(&x)?)?;
        let hidden = match this.activation {
            Activation::Gelu => gelu(&hidden)?,
            Activation::QuickGelu => quick_gelu(&hidden)?,
            Activation::GeluTanh => gelu_tanh(&hidden)?,
        };
        x = (x + block.mlp_out.forward(&hidden)?)?;
    }
    let ends: Vec<usize> = lengths
        .iter()
        .scan(0, |sum, length| {
            *sum += length;
            Some(*sum - 1)
        })
        .collect();
    select_rows(&x, &ends)
}

#[test]
fn the_gradient_agrees_with_differences() {
    for activation in [
        Activation::QuickGelu,
        Activation::Gelu,
        Activation::GeluTanh,
    ] {
        let transformer = transformer(2, activation, DType::F64);
        check_gradients(
            &|x| transformer.forward(&x[0], &[3, 1, 2]),
            &[noise(50, &[6, W])],
        );
    }
}

#[test]
fn it_equals_the_composed_operations_over_several_groups() {
    // More rows than one group takes, sequences of different length.
    let lengths: Vec<usize> = (0..90).map(|at| 1 + at % 4).collect();
    let rows: usize = lengths.iter().sum();
    assert!(rows > 3 * ROWS_PER_GROUP);
    for activation in [
        Activation::QuickGelu,
        Activation::Gelu,
        Activation::GeluTanh,
    ] {
        for blocks in [1, 2] {
            check_equal(
                &|x| transformer(blocks, activation, x[0].dtype()).forward(&x[0], &lengths),
                &|x| {
                    let transformer = transformer(blocks, activation, x[0].dtype());
                    composed(&transformer, &x[0], &lengths)
                },
                &[noise(51, &[rows, W])],
            );
        }
    }
}

/// Where every position sees all, the order of those that are not read means nothing, and what
/// stands behind counts as much as what stands before.
#[test]
fn without_a_mask_every_position_sees_all() {
    let whole = FrozenTransformer {
        sight: Sight::All,
        ..transformer(2, Activation::GeluTanh, DType::F64)
    };
    check_gradients(&|x| whole.forward(&x[0], &[3, 1, 2]), &[noise(50, &[6, W])]);
    let x = noise(52, &[4, W]);
    let turned = select_rows(&x, &[1, 2, 0, 3]).unwrap();
    let read = |this: &FrozenTransformer, x: &Tensor| this.forward(x, &[4]).unwrap();
    assert!(distance(&read(&whole, &x), &read(&whole, &turned)) < 1e-12);
    let masked = FrozenTransformer {
        sight: Sight::Before,
        ..whole.clone()
    };
    assert!(distance(&read(&masked, &x), &read(&masked, &turned)) > 1e-3);
    // One block reads at its end, where a mask hides nothing.
    let one = FrozenTransformer {
        blocks: whole.blocks[..1].into(),
        ..whole
    };
    let same = FrozenTransformer {
        sight: Sight::Before,
        ..one.clone()
    };
    assert!(distance(&read(&one, &x), &read(&same, &x)) < 1e-12);
}

/// The last position sees those before it as any position behind them would; what it is itself
/// counts by its residual only.
#[test]
fn a_last_position_that_stands_apart_does_not_see_itself() {
    let apart = FrozenTransformer {
        sight: Sight::BeforeLastApart,
        ..transformer(2, Activation::Gelu, DType::F64)
    };
    check_gradients(&|x| apart.forward(&x[0], &[3, 2]), &[noise(53, &[5, W])]);
    let masked = FrozenTransformer {
        sight: Sight::Before,
        ..apart.clone()
    };
    // A second copy of the last position, where one stands apart, is what it would see of itself.
    let x = noise(54, &[3, W]);
    let twice = select_rows(&x, &[0, 1, 2, 2]).unwrap();
    let read = |this: &FrozenTransformer, x: &Tensor, length| this.forward(x, &[length]).unwrap();
    assert!(distance(&read(&apart, &twice, 4), &read(&masked, &x, 3)) < 1e-12);
    assert!(distance(&read(&apart, &x, 3), &read(&masked, &x, 3)) > 1e-3);
    assert!(apart.forward(&x, &[2, 1]).is_err(), "nothing to see");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let transformer = transformer(1, Activation::Gelu, DType::F64);
    let x = noise(1, &[3, W]);
    assert!(transformer.forward(&x, &[3]).is_ok());
    assert!(transformer.forward(&x, &[2]).is_err());
    assert!(transformer.forward(&x, &[3, 0]).is_err());
    let narrow = x.to_dtype(DType::F32).unwrap();
    assert!(transformer.forward(&narrow, &[3]).is_err());
    assert!(transformer.forward(&noise(1, &[3, 6]), &[3]).is_err());
    let heads = FrozenTransformer {
        heads: 3,
        ..transformer
    };
    assert!(heads.forward(&x, &[3]).is_err());
}

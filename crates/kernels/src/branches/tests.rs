//! Against the same branches composed of single operations.

use super::super::testing::{check_equal, check_gradients, distance, noise};
use super::super::{attention_pool, l2_normalize, row_products, select_rows};
use super::*;

fn inputs(c: usize, d: usize, hidden: usize) -> Vec<Tensor> {
    let shapes: [&[usize]; 11] = [
        &[c, d],
        &[d, d],
        &[c, d],
        &[c, d],
        &[c, d],
        &[d],
        &[d],
        &[hidden, d],
        &[hidden],
        &[d, hidden],
        &[d],
    ];
    let numbered = shapes.iter().enumerate();
    numbered
        .map(|(at, shape)| noise(at as u64 + 1, shape))
        .collect()
}

fn branches(x: &[Tensor]) -> Branches<'_> {
    Branches {
        keys: &x[0],
        values: &x[1],
        region_direction: &x[2],
        query_direction: &x[3],
        mlp: ResidualMlp {
            queries: &x[4],
            norm_weight: &x[5],
            norm_bias: &x[6],
            mlp_in: (&x[7], &x[8]),
            mlp_out: (&x[9], &x[10]),
            epsilon: 1e-5,
        },
    }
}

fn positions(b: usize, n: usize, d: usize, like: &Tensor) -> Result<Tensor> {
    l2_normalize(&noise(20, &[b, n, d]))?.to_dtype(like.dtype())
}

/// Rows of R^ whose gradient is looked at too; one of them twice.
const ROWS: [usize; 4] = [5, 1, 2, 1];

/// Both branches' logits and some rows of R^.
fn ours(x: &[Tensor], b: usize, n: usize) -> Result<Tensor> {
    let positions = positions(b, n, x[0].dim(1)?, &x[0])?;
    let found = branches(x).forward(&positions)?;
    let rows = found.region_rows(&ROWS)?;
    let all = [rows, found.region_logits, found.query_logits];
    Tensor::cat(
        &all.map(|x| x.flatten_all())
            .into_iter()
            .collect::<Result<Vec<_>>>()?,
        0,
    )
}

fn composed(x: &[Tensor], b: usize, n: usize) -> Result<Tensor> {
    let positions = positions(b, n, x[0].dim(1)?, &x[0])?;
    let pooled = attention_pool(&x[0], &positions)?;
    let (_, c, d) = pooled.dims3()?;
    let region = l2_normalize(&pooled)?;
    let rows = select_rows(&region.reshape((b * c, d))?, &ROWS)?;
    let region = row_products(&region, &x[2])?;
    let attended = pooled.reshape((b * c, d))?.matmul(&x[1])?;
    let query = branches(x).mlp.forward(&attended.reshape((b, c, d))?)?;
    let all = [rows, region, row_products(&l2_normalize(&query)?, &x[3])?];
    Tensor::cat(
        &all.map(|x| x.flatten_all())
            .into_iter()
            .collect::<Result<Vec<_>>>()?,
        0,
    )
}

#[test]
fn the_gradients_agree_with_differences() {
    check_gradients(&|x| ours(x, 3, 5), &inputs(2, 4, 3));
}

#[test]
fn they_equal_the_composed_operations() {
    // More images than groups, and not a multiple of them.
    check_equal(
        &|x| ours(x, 11, 6),
        &|x| composed(x, 11, 6),
        &inputs(3, 8, 6),
    );
}

#[test]
fn rows_alone_have_a_gradient() {
    let rows = |x: &[Tensor]| {
        let positions = positions(3, 5, 4, &x[0])?;
        branches(x).forward(&positions)?.region_rows(&ROWS)
    };
    check_gradients(&rows, &inputs(2, 4, 3));
    let x = inputs(2, 4, 3);
    let found = branches(&x).forward(&positions(3, 5, 4, &x[0]).unwrap());
    assert!(found.unwrap().region_rows(&[6]).is_err());
}

#[test]
fn region_features_are_the_normalised_pool() {
    let x = inputs(3, 8, 6);
    let positions = positions(9, 5, 8, &x[0]).unwrap();
    let found = branches(&x).forward(&positions).unwrap();
    let expected = l2_normalize(&attention_pool(&x[0], &positions).unwrap()).unwrap();
    assert!(distance(&found.region, &expected) < 1e-12);
}

#[test]
fn shapes_and_types_that_do_not_fit_are_errors() {
    let x = inputs(3, 8, 6);
    let positions = noise(20, &[2, 5, 8]);
    assert!(branches(&x).forward(&noise(20, &[2, 5, 7])).is_err());
    let narrow = positions.to_dtype(DType::F32).unwrap();
    assert!(branches(&x).forward(&narrow).is_err());
    let mut x = x;
    x[9] = noise(1, &[6, 8]);
    assert!(branches(&x).forward(&positions).is_err());
}

use super::*;
use serde_json::Value;
use std::path::Path;

/// Twenty-four maps and the regions that SciPy finds (`scripts/make_box_goldens.py`).
#[test]
fn regions_are_those_that_scipy_finds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read(root.join("tests/fixtures/goldens/regions.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let floats = |value: &Value| -> Vec<f32> {
        let values = value.as_array().unwrap().iter();
        values.map(|v| v.as_f64().unwrap() as f32).collect()
    };
    let (mut several, mut none) = (0, 0);
    for case in &cases {
        let columns = case["columns"].as_u64().unwrap() as usize;
        let found = regions(&floats(&case["map"]), columns);
        let wanted = case["regions"].as_array().unwrap();
        several += usize::from(wanted.len() > 1);
        none += usize::from(wanted.is_empty());
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            let b = found.bounding_box;
            let close = |a: f32, b: f32| (a - b).abs() < 1e-5;
            let edges = floats(&wanted["box"]);
            assert!(
                [b.x, b.y, b.w, b.h]
                    .iter()
                    .zip(edges)
                    .all(|(a, b)| close(*a, b))
            );
            assert!(close(
                found.strength,
                wanted["strength"].as_f64().unwrap() as f32
            ));
            assert_eq!(u64::from(found.mask.columns), wanted["columns"]);
            assert_eq!(serde_json::json!(found.mask.runs), wanted["runs"]);
        }
    }
    assert!(several > 2 && none > 1, "{several} {none}");
}

#[test]
fn a_map_that_does_not_say_where_has_no_region() {
    let peak = |columns: usize, count: usize| {
        let mut map = vec![0.001; count];
        map[columns + 1] = 0.9;
        map
    };
    assert_eq!(regions(&peak(6, 36), 6).len(), 1);
    // Too coarse a grid, in one direction or both.
    assert!(regions(&peak(3, 36), 3).is_empty());
    assert!(regions(&peak(12, 36), 12).is_empty());
    // Even, a slope, not a map at all.
    assert!(regions(&[1.0 / 36.0; 36], 6).is_empty());
    let slope: Vec<f32> = (0..36).map(|at| ((at % 6) as f32).exp()).collect();
    assert!(regions(&slope, 6).is_empty());
    for broken in [
        vec![f32::NAN; 36],
        vec![-1.0; 36],
        vec![0.0; 36],
        vec![],
        vec![0.1; 37],
    ] {
        assert!(regions(&broken, 6).is_empty());
    }
    assert!(regions(&[0.5; 36], 0).is_empty());
}

/// What is seen twice has two boxes, and a box is as large as what is seen.
#[test]
fn every_place_has_a_box_of_its_own_extent() {
    let mut map = vec![1e-4; 144];
    for row in 1..4 {
        for column in 1..4 {
            map[row * 12 + column] = 0.05;
            map[(row + 7) * 12 + column + 7] = 0.04;
        }
    }
    let found = regions(&map, 12);
    let edges: Vec<_> = found
        .iter()
        .map(|r| {
            [
                r.bounding_box.x,
                r.bounding_box.y,
                r.bounding_box.w,
                r.bounding_box.h,
            ]
        })
        .collect();
    let [first, second] = edges[..] else {
        panic!("{edges:?}")
    };
    let near = |a: [f32; 4], b: [f32; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.03);
    assert!(
        near(first, [1.0 / 12.0, 1.0 / 12.0, 0.25, 0.25]),
        "{first:?}"
    );
    assert!(
        near(second, [8.0 / 12.0, 8.0 / 12.0, 0.25, 0.25]),
        "{second:?}"
    );
    assert!(found[0].strength == 1.0 && (0.9..1.0).contains(&found[1].strength));
    let cells: u32 = found[0].mask.runs.iter().sum();
    assert_eq!(cells % found[0].mask.columns, 0);
}

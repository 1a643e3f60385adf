use super::*;
use ndarray::{Array2, array};
use tagstream_kernels::testing::noise;

fn ids(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Six pictures: three of one scene (centred, the first and second have a cosine of .89, second and
/// third too, first and third of .58), two of another, and one alone.
fn pictures() -> Array2<f32> {
    array![
        [1.0, 0.0, 0.0, 0.0],
        [0.95, 0.31, 0.0, 0.0],
        [0.81, 0.58, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.05, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
}

#[test]
fn near_duplicates_of_near_duplicates_are_one_group() {
    let rows = pictures();
    let found = near_duplicates(rows.view(), 0.85, 100);
    assert_eq!(found.roots, [0, 0, 0, 3, 3, 5]);
    assert_eq!(found.not_compared, 0);
    assert_eq!(
        near_duplicates(rows.view(), 1.1, 100).roots,
        [0, 1, 2, 3, 4, 5]
    );
}

#[test]
fn blocks_find_what_all_pairs_find_and_say_where_they_end() {
    let (n, d) = (1300, 4);
    let values: Vec<f32> = noise(5, &[n * d])
        .flatten_all()
        .and_then(|x| x.to_dtype(candle_core::DType::F32)?.to_vec1())
        .unwrap();
    let rows = Array2::from_shape_vec((n, d), values).unwrap();
    let found = near_duplicates(rows.view(), 0.999, n);
    let centred = {
        let unit = |rows: &Array2<f32>| {
            let norms = rows.map_axis(ndarray::Axis(1), |row| row.dot(&row).sqrt());
            rows / &norms.insert_axis(ndarray::Axis(1))
        };
        let rows = unit(&rows);
        let mean = rows.mean_axis(ndarray::Axis(0)).unwrap();
        unit(&(rows - &mean))
    };
    let mut links = Vec::new();
    for i in 0..n {
        for j in i + 1..n {
            if centred.row(i).dot(&centred.row(j)) >= 0.999 {
                links.push((i, j));
            }
        }
    }
    assert!(
        links.iter().any(|(i, j)| i / 512 != j / 512),
        "{}",
        links.len()
    );
    assert_eq!(found.roots, union(n, links.into_iter()));
    let bounded = near_duplicates(rows.view(), 0.999, 900);
    assert_eq!(bounded.not_compared, 400);
    assert!((900..n).all(|image| bounded.roots[image] == image));
}

#[test]
fn what_is_named_is_not_searched_and_what_was_settled_stays() {
    let ids = ids(&["f", "b", "c", "d", "e", "a"]);
    let rows = pictures();
    let none = HashMap::new();
    let config = GroupConfig {
        similarity: 0.85,
        ..GroupConfig::default()
    };
    let mut candidates = Candidates {
        ids: &ids,
        named: &vec![None; 6],
        settled: &none,
        embeddings: rows.view(),
    };
    let names = |groups: &Groups| -> Vec<String> {
        (0..groups.len())
            .map(|image| groups.name(image).to_owned())
            .collect()
    };
    let found = Groups::find(&candidates, &config);
    assert_eq!(names(&found), ["b", "b", "b", "d", "d", "a"]);
    assert_eq!(found.count(), 3);
    assert_eq!(
        found.with_relatives(),
        [true, true, true, true, true, false]
    );

    // An attribute names one of them; a new relative joins the group that was settled before.
    let named = [None, None, None, Some("may".to_owned()), None, None];
    let settled = HashMap::from([("c".to_owned(), "old".to_owned())]);
    candidates.named = &named;
    candidates.settled = &settled;
    let found = Groups::find(&candidates, &config);
    assert_eq!(names(&found), ["old", "old", "old", "may", "may", "a"]);

    // Two groups that were settled apart stay apart.
    let settled = HashMap::from([
        ("c".to_owned(), "old".to_owned()),
        ("f".to_owned(), "other".to_owned()),
    ]);
    candidates.settled = &settled;
    let found = Groups::find(&candidates, &config);
    assert_eq!(names(&found), ["other", "old", "old", "may", "may", "a"]);
}

#[test]
fn folds_are_of_groups_and_of_nothing_else() {
    let names: Vec<String> = (0..2000).map(|at| format!("series {}", at / 4)).collect();
    let groups = Groups::of_names(names.iter().cloned());
    let folds = groups.folds(5);
    assert!(
        folds
            .chunks(4)
            .all(|four| four.iter().all(|fold| *fold == four[0]))
    );
    for fold in 0..5 {
        let share = folds.iter().filter(|f| **f == fold).count() as f64 / 2000.0;
        assert!((share - 0.2).abs() < 0.06, "fold {fold}: {share}");
    }
    // Other images, and another order, change no fold.
    let some: Vec<usize> = (0..2000).rev().step_by(7).collect();
    let part = groups.select(&some).folds(5);
    assert!(
        some.iter()
            .zip(part)
            .all(|(image, fold)| folds[*image] == fold)
    );
    // The first 53 bits of SHA-256("tagstream group\0" + name), as any SHA-256 gives them.
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| fold_of(name, 1000)),
        [584, 370, 949, 635]
    );
}

#[test]
fn joining_groups_leaves_no_relatives_on_two_sides() {
    let days = Groups::of_names(["mon", "mon", "tue", "tue", "wed"].map(str::to_owned));
    let faces = Groups::of_names(["x", "y", "y", "z", "w"].map(str::to_owned));
    let joined = days.joined(&faces);
    assert_eq!(joined.count(), 2);
    assert!((1..4).all(|image| joined.of(image) == joined.of(0)));
    assert_eq!(joined.name(4), "wed");
}

#[test]
fn a_pattern_that_is_none_is_named() {
    let error = GroupPattern::new("series-(").unwrap_err();
    assert_eq!(error.pattern, "series-(");
    assert!(error.to_string().contains("unclosed group"), "{error}");
    // The capture that took part, whichever it is; an empty name is none.
    let pattern = GroupPattern::new("^(?:cam-([0-9]+)|day-([a-z]*))").unwrap();
    assert_eq!(pattern.group("cam-12/1.jpg"), Some("12"));
    assert_eq!(pattern.group("day-mon/1.jpg"), Some("mon"));
    assert_eq!(pattern.group("day-/1.jpg"), None);
}

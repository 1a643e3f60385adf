use super::*;
use crate::onnx::testing::{Input, Outputs, difference, run, run_file};
use safetensors::SafeTensors;

/// Deterministic numbers in [-1, 1).
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn read_out(seed: u64, c: usize, d: usize) -> ReadOut {
    ReadOut {
        weight: noise(seed, c * d),
        bias: noise(seed + 1, c),
    }
}

fn head(heads: usize, form: RegionForm, query: bool, global: bool) -> ExportedHead {
    let (c, d, hidden) = (7, 24, 40);
    ExportedHead {
        dim: d,
        categories: c,
        heads,
        attention: Attention::from_projections(
            &noise(1, c * d),
            &noise(2, d * d),
            &noise(3, d * d),
            d,
            heads,
        ),
        region: read_out(4, c, d),
        region_form: form,
        query: query.then(|| QueryBranch {
            query: noise(6, c * d),
            value_output: ValueOutput::from_projections(
                &noise(7, d * d),
                &noise(8, d * d),
                d,
                heads,
            ),
            norm: (noise(9, d), noise(10, d)),
            mlp_in: (noise(11, hidden * d), noise(12, hidden)),
            mlp_out: (noise(13, d * hidden), noise(14, d)),
            read_out: read_out(15, c, d),
        }),
        global: global.then(|| GlobalBranch {
            read_out: read_out(17, c, d),
            residual: query.then(|| noise(19, c * d)),
        }),
        memory: (query && global).then(|| {
            let (images, k) = (11, 6);
            // A bundle of before visual words, and one with them.
            let words = form == RegionForm::Normalised;
            let phi = 2 * d + if words { k } else { 0 };
            let quarter = |x: Vec<f32>| x.iter().map(|x| x / 4.0).collect();
            MemoryBranch {
                global_scale: quarter(noise(24, d)),
                global_offset: quarter(noise(25, d)),
                mean_centre: quarter(noise(26, d)),
                mean_spread: 0.7,
                words: words.then(|| WordHistogram {
                    centre: quarter(noise(31, d)),
                    codebook: noise(32, k * d),
                    root_centre: quarter(noise(33, k)),
                    spread: 0.6,
                }),
                bank: quarter(noise(27, images * phi)),
                weight: noise(28, images * c),
                bias: noise(29, c),
            }
        }),
        regional: (query && form == RegionForm::Normalised).then(|| RegionalBranch {
            attention: noise(40, c * d),
            sharpness: 1.7,
            bank: noise(41, c * d * 5).iter().map(|x| x / 4.0).collect(),
            weight: noise(42, c * 5),
            bias: noise(43, c),
        }),
    }
}

fn every_head() -> Vec<ExportedHead> {
    let mut all = Vec::new();
    for heads in [1, 4] {
        for form in [RegionForm::Normalised, RegionForm::Raw] {
            for (query, global) in [(false, false), (true, false), (false, true), (true, true)] {
                all.push(head(heads, form, query, global));
            }
        }
    }
    let text = unit_rows(noise(30, 7 * 24), 24);
    all.push(ExportedHead::zero_shot(&text, 24, ZeroShot::default()));
    all
}

fn unit_rows(mut x: Vec<f32>, d: usize) -> Vec<f32> {
    for row in x.chunks_exact_mut(d) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    x
}

const BATCH: usize = 3;

fn features(head: &ExportedHead, positions: usize) -> (Vec<f32>, Vec<f32>) {
    (
        noise(21, BATCH * positions * head.dim),
        noise(22, BATCH * head.dim),
    )
}

fn inputs<'a>(
    head: &ExportedHead,
    positions: usize,
    dense: &'a [f32],
    global: &'a [f32],
) -> [(&'static str, Input<'a>); 2] {
    [
        ("dense", Input::F32(vec![BATCH, positions, head.dim], dense)),
        ("global", Input::F32(vec![BATCH, head.dim], global)),
    ]
}

fn assert_close(outputs: &Outputs, name: &str, shape: &[usize], expected: &[f32]) {
    let (found, data) = &outputs[name];
    assert_eq!(found, shape, "{name}");
    let d = difference(data, expected);
    assert!(d < 1e-4, "{name} differs by {d}");
}

#[test]
fn full_graph_equals_the_equations() {
    for head in every_head() {
        let (c, d) = (head.categories, head.dim);
        // Fewer and more positions than dimensions.
        for n in [9, 30] {
            let (dense, global) = features(&head, n);
            let expected = head.evaluate(&dense, &global, BATCH);
            for positions in [None, Some(n)] {
                let model = head
                    .to_onnx(&GraphOutputs::Full, positions, &WeightStorage::Inline)
                    .unwrap();
                let outputs = run(&model, &inputs(&head, n, &dense, &global));
                assert_close(&outputs, "logits", &[BATCH, c], &expected.logits);
                assert_close(&outputs, "saliency", &[BATCH, c, n], &expected.saliency);
                assert_close(&outputs, "region", &[BATCH, c, d], &expected.region);
                assert_close(&outputs, "embedding", &[BATCH, d], &expected.embedding);
            }
        }
    }
}

#[test]
fn lean_graph_gives_the_rows_of_the_best_tags() {
    for head in every_head() {
        let (c, d, k) = (head.categories, head.dim, 3);
        let floors: Vec<f32> = noise(23, c).iter().map(|x| x * 3.0).collect();
        for n in [9, 30] {
            let (dense, global) = features(&head, n);
            let expected = head.evaluate(&dense, &global, BATCH);
            for positions in [None, Some(n)] {
                let outputs = GraphOutputs::Top {
                    count: k,
                    floors: floors.clone(),
                    regions: true,
                };
                let model = head
                    .to_onnx(&outputs, positions, &WeightStorage::Inline)
                    .unwrap();
                let outputs = run(&model, &inputs(&head, n, &dense, &global));
                assert_eq!(outputs.len(), 5);
                assert_close(&outputs, "logits", &[BATCH, c], &expected.logits);
                assert_close(&outputs, "embedding", &[BATCH, d], &expected.embedding);
                let (mut tags, mut saliency, mut region) = (vec![], vec![], vec![]);
                for b in 0..BATCH {
                    let margin = |i: usize| expected.logits[b * c + i] - floors[i];
                    let mut order: Vec<usize> = (0..c).collect();
                    order.sort_by(|&x, &y| margin(y).total_cmp(&margin(x)));
                    for &i in &order[..k] {
                        tags.push(i as f32);
                        let row = b * c + i;
                        saliency.extend(&expected.saliency[row * n..(row + 1) * n]);
                        region.extend(&expected.region[row * d..(row + 1) * d]);
                    }
                }
                assert_close(&outputs, "tags", &[BATCH, k], &tags);
                assert_close(&outputs, "tag_saliency", &[BATCH, k, n], &saliency);
                assert_close(&outputs, "tag_region", &[BATCH, k, d], &region);
                let without = GraphOutputs::Top {
                    count: k,
                    floors: floors.clone(),
                    regions: false,
                };
                let model = head
                    .to_onnx(&without, positions, &WeightStorage::Inline)
                    .unwrap();
                let mut fewer = run(&model, &inputs(&head, n, &dense, &global));
                let mut all = outputs;
                all.remove("tag_region");
                assert_eq!(fewer.len(), 4);
                for (name, values) in all {
                    assert_eq!(fewer.remove(name.as_str()).unwrap(), values, "{name}");
                }
            }
        }
    }
}

#[test]
fn asking_for_more_tags_than_categories_gives_all_of_them() {
    let head = head(1, RegionForm::Normalised, false, true);
    let outputs = GraphOutputs::Top {
        count: 100,
        floors: vec![0.0; head.categories],
        regions: true,
    };
    let model = head
        .to_onnx(&outputs, None, &WeightStorage::Inline)
        .unwrap();
    let (dense, global) = features(&head, 5);
    let outputs = run(&model, &inputs(&head, 5, &dense, &global));
    assert_eq!(outputs["tags"].0, [BATCH, head.categories]);
}

#[test]
fn zero_shot_graph_never_builds_the_regions() {
    let text = unit_rows(noise(30, 7 * 24), 24);
    let head = ExportedHead::zero_shot(&text, 24, ZeroShot::default());
    let outputs = GraphOutputs::Top {
        count: 2,
        floors: vec![0.0; head.categories],
        regions: true,
    };
    let products = |head: &ExportedHead| {
        let model = head
            .to_onnx(&outputs, None, &WeightStorage::Inline)
            .unwrap();
        let nodes = crate::onnx::parse(model.into())
            .unwrap()
            .graph
            .unwrap()
            .node;
        nodes
            .iter()
            .filter(|n| n.op_type.as_deref() == Some("MatMul"))
            .count()
    };
    // Attention of all categories, region of the two best.
    assert_eq!(products(&head), 2);
    let mut loose = head.clone();
    loose.region.weight[5] += 0.1;
    assert_eq!(products(&loose), 3);
}

/// The equations in float64, by an independent implementation in PyTorch.
struct Golden(Vec<u8>);

impl Golden {
    fn open(name: &str) -> Self {
        let path = format!(
            "{}/tests/fixtures/{name}",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../..")
        );
        Self(std::fs::read(path).unwrap())
    }

    fn get(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        view.data()
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32)
            .collect()
    }
}

#[test]
fn folded_head_reproduces_the_golden_numbers() {
    for heads in [1, 4] {
        let golden = Golden::open(&format!("head_forward_h{heads}.safetensors"));
        let get = |name: &str| golden.get(name);
        let (b, c, n, d) = (3, 5, 9, 16);
        let kappa = get("kappa")[0];
        let difference_of_prompts: Vec<f32> = get("T")
            .iter()
            .zip(get("Tneg"))
            .map(|(t, n)| kappa * (t - n))
            .collect();
        let with_share = |share: f32| ReadOut {
            weight: difference_of_prompts.iter().map(|x| share * x).collect(),
            bias: vec![0.0; c],
        };
        let with_shares = |region: f32, query: f32| ExportedHead {
            dim: d,
            categories: c,
            heads,
            attention: Attention::from_projections(&get("Q"), &get("Wq"), &get("Wk"), d, heads),
            region: with_share(region),
            region_form: RegionForm::Normalised,
            query: Some(QueryBranch {
                query: get("Q"),
                value_output: ValueOutput::from_projections(&get("Wv"), &get("Wo"), d, heads),
                norm: (get("ln_w"), get("ln_b")),
                mlp_in: (get("W1"), get("b1")),
                mlp_out: (get("W2"), get("b2")),
                read_out: with_share(query),
            }),
            global: None,
            memory: None,
            regional: None,
        };
        let dense = get("V");
        let global = vec![1.0; b * d];
        for (region, query, name) in [(1.0, 0.0, "s_r"), (0.0, 1.0, "s_q"), (0.5, 0.5, "s_mean")] {
            let head = with_shares(region, query);
            let found = head.evaluate(&dense, &global, b);
            assert!(
                difference(&found.logits, &get(name)) < 2e-5,
                "{name}, {heads} heads"
            );
            assert!(difference(&found.saliency, &get("A_mean")) < 1e-6);
            assert!(difference(&found.region, &get("R_norm")) < 1e-6);
            let model = head
                .to_onnx(&GraphOutputs::Full, Some(n), &WeightStorage::Inline)
                .unwrap();
            let inputs = [
                ("dense", Input::F32(vec![b, n, d], &dense)),
                ("global", Input::F32(vec![b, d], &global)),
            ];
            assert_close(&run(&model, &inputs), "logits", &[b, c], &get(name));
        }
    }
}

#[test]
fn files_open_by_themselves_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for (i, head) in every_head().into_iter().enumerate() {
        let trainable = [NamedTensor {
            name: "trainable.context".to_owned(),
            shape: vec![2, 3],
            data: noise(40, 6),
        }];
        let files = head.to_files(Some(9), &trainable).unwrap();
        assert_eq!(files, head.to_files(Some(9), &trainable).unwrap());
        let (again, rest) = ExportedHead::from_safetensors(&files.safetensors).unwrap();
        assert_eq!(again, head);
        assert_eq!(rest, trainable);
        // ONNX Runtime finds the weights in the safetensors file by itself.
        let folder = folder.path().join(i.to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("head.onnx"), &files.onnx).unwrap();
        std::fs::write(folder.join("head.safetensors"), &files.safetensors).unwrap();
        let (dense, global) = features(&head, 9);
        let outputs = run_file(
            &folder.join("head.onnx"),
            &inputs(&head, 9, &dense, &global),
        );
        let expected = head.evaluate(&dense, &global, BATCH);
        assert_close(
            &outputs,
            "logits",
            &[BATCH, head.categories],
            &expected.logits,
        );
    }
}

#[test]
fn the_skeleton_is_small_and_names_its_weights() {
    let head = head(4, RegionForm::Normalised, true, true);
    let files = head.to_files(None, &[]).unwrap();
    let model = crate::onnx::parse(files.onnx.into()).unwrap();
    let file = SafeTensors::deserialize(&files.safetensors).unwrap();
    let mut external = Vec::new();
    for tensor in model.graph.unwrap().initializer {
        let raw = tensor.raw_data.as_ref().map_or(0, |raw| raw.len());
        if tensor.external_data.is_empty() {
            assert!(raw <= 64, "{:?} lies inside", tensor.name);
        } else {
            assert_eq!(raw, 0);
            external.push(tensor.name.unwrap());
        }
    }
    external.sort();
    let mut names = file.names();
    names.sort();
    assert_eq!(external, names);
}

#[test]
fn flaws_are_named() {
    let good = head(1, RegionForm::Normalised, true, true);
    let storage = WeightStorage::Inline;

    let mut bad = good.clone();
    bad.region.weight.pop();
    let error = bad.to_files(None, &[]).unwrap_err().to_string();
    assert!(
        error.contains("region.weight") && error.contains("[7, 24]"),
        "{error}"
    );

    let mut bad = good.clone();
    bad.region.bias[0] = f32::NAN;
    let error = bad
        .to_onnx(&GraphOutputs::Full, None, &storage)
        .unwrap_err();
    assert!(error.to_string().contains("`region.bias`"), "{error}");

    let mut bad = good.clone();
    bad.heads = 5;
    assert!(matches!(bad.check(), Err(HeadError::Sizes(_))));
    bad.heads = 2;
    assert!(matches!(bad.check(), Err(HeadError::Sizes(_))));

    let top = GraphOutputs::Top {
        count: 3,
        floors: vec![0.0; 2],
        regions: true,
    };
    assert!(matches!(
        good.to_onnx(&top, None, &storage),
        Err(HeadError::Sizes(_))
    ));

    let misnamed = NamedTensor {
        name: "context".to_owned(),
        shape: vec![1],
        data: vec![0.0],
    };
    assert!(good.to_safetensors(&[misnamed]).is_err());
    assert!(ExportedHead::from_safetensors(b"no safetensors at all").is_err());
    let mut cut = good.to_safetensors(&[]).unwrap();
    cut.truncate(cut.len() - 4);
    assert!(ExportedHead::from_safetensors(&cut).is_err());
}

#[test]
fn a_category_more_leaves_the_others_as_they_were() {
    let text = unit_rows(noise(77, 24), 24);
    for before in every_head() {
        let after = before.with_category(&text);
        if before.heads > 1 {
            let error = after.unwrap_err().to_string();
            assert!(error.contains("attention heads"), "{error}");
            continue;
        }
        let after = after.unwrap();
        assert_eq!(after.categories, before.categories + 1);
        let (dense, global) = features(&before, 9);
        let [old, new] = [&before, &after].map(|h| h.evaluate(&dense, &global, BATCH).logits);
        for (old, new) in old.chunks(7).zip(new.chunks(8)) {
            assert!(old.iter().zip(new).all(|(a, b)| (a - b).abs() < 1e-4));
            assert!(new[7].is_finite());
        }
        let files = after.to_files(Some(9), &[]).unwrap();
        let (read, _) = ExportedHead::from_safetensors(&files.safetensors).unwrap();
        assert_eq!(read, after);
    }
    assert!(
        head(1, RegionForm::Raw, true, true)
            .with_category(&text[1..])
            .is_err()
    );
}

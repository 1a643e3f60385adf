use super::*;

fn file(dtype: Dtype, raw: &[u8]) -> Vec<u8> {
    let shape = vec![raw.len() * 8 / dtype.bitsize()];
    let view = TensorView::new(dtype, shape, raw).unwrap();
    safetensors::serialize([("x", view)], None).unwrap()
}

fn open(content: &[u8]) -> Result<WeightFiles, WeightsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    std::fs::write(&path, content).unwrap();
    WeightFiles::open(&[path])
}

#[test]
fn every_float_type_is_read() {
    let numbers = [1.5f32, -0.25];
    let raw = |f: &dyn Fn(f32) -> Vec<u8>| numbers.iter().flat_map(|&x| f(x)).collect::<Vec<u8>>();
    for (dtype, raw) in [
        (Dtype::F32, raw(&|x| x.to_le_bytes().to_vec())),
        (Dtype::F64, raw(&|x| f64::from(x).to_le_bytes().to_vec())),
        (
            Dtype::F16,
            raw(&|x| f16::from_f32(x).to_le_bytes().to_vec()),
        ),
        (
            Dtype::BF16,
            raw(&|x| bf16::from_f32(x).to_le_bytes().to_vec()),
        ),
    ] {
        assert_eq!(
            open(&file(dtype, &raw)).unwrap().read("x", &[2]).unwrap(),
            numbers
        );
    }
    let integers = open(&file(Dtype::I64, &[0; 16])).unwrap();
    assert!(matches!(
        integers.read("x", &[2]),
        Err(WeightsError::Type { .. })
    ));
}

#[test]
fn sizes_that_lie_are_refused_before_anything_is_reserved() {
    let with_header = |length: u64, header: &str| {
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file
    };
    let header = |shape: &str, end: u64| {
        format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    let claims = [
        header("[4611686018427387904]", u64::MAX),
        header("[4611686018427387903]", u64::MAX - 3),
        header("[1048576,1048576]", 1 << 42),
        header("[2]", 4),
    ];
    let lies = claims.iter().map(|h| with_header(h.len() as u64, h));
    let lengths = [u64::MAX, u64::MAX - 7, 1 << 40].map(|n| with_header(n, "{}"));
    for bad in lies.chain(lengths) {
        assert!(matches!(open(&bad), Err(WeightsError::Format { .. })));
    }
}

#[test]
fn flaws_are_named() {
    let good = file(Dtype::F32, &[0; 8]);
    let weights = open(&good).unwrap();
    assert!(matches!(
        weights.read("x", &[3]),
        Err(WeightsError::Shape { .. })
    ));
    assert!(matches!(
        weights.read("y", &[2]),
        Err(WeightsError::Missing { .. })
    ));
    assert_eq!(weights.read_number("y").unwrap(), None);
    assert!(weights.read_number("x").is_err());
    for bad in [
        &good[..good.len() - 1],
        &good[..20],
        &good[..4],
        b"PK\x03\x04 a zip that has no end",
    ] {
        assert!(
            matches!(open(bad), Err(WeightsError::Format { .. })),
            "{bad:?}"
        );
    }
    let absent = tempfile::tempdir().unwrap().path().join("absent");
    assert!(matches!(
        WeightFiles::open(&[absent]),
        Err(WeightsError::Io { .. })
    ));
}

#[test]
fn a_checkpoint_in_pieces_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, name: &str, number: f32| {
        let raw = number.to_le_bytes();
        let view = TensorView::new(Dtype::F32, vec![1], &raw).unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
        path
    };
    let (a, b) = (write("a", "module.x", 1.0), write("b", "module.y", 2.0));
    let weights = WeightFiles::open(&[&a, &b]).unwrap();
    // What wraps a model in training stands before all of its names.
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(weights.read("y", &[1]).unwrap(), [2.0]);
    assert_eq!(weights.path(), folder.path());
    let mixed = WeightFiles::open(&[&a, &write("c", "z", 3.0)]).unwrap();
    assert_eq!(mixed.names().collect::<Vec<_>>(), ["module.x", "z"]);
    let error = WeightFiles::open(&[&a, &a]).unwrap_err().to_string();
    assert!(
        error.contains("`module.x`") && error.contains("pieces"),
        "{error}"
    );
    let adapter = write("d", "text_model.q_proj.lora_A.weight", 0.0);
    let error = WeightFiles::open(&[adapter]).unwrap_err().to_string();
    assert!(
        error.contains("lora_A") && error.contains("merge"),
        "{error}"
    );
}

#[test]
fn numbers_that_lie_apart_are_put_in_order() {
    let raw: Vec<u8> = (0u8..6).collect();
    // A 2 x 3 matrix whose columns lie together, and one row of it.
    assert_eq!(row_major(&raw, 1, &[2, 3], &[1, 2]), [0, 2, 4, 1, 3, 5]);
    assert_eq!(row_major(&raw, 2, &[3], &[1]), raw);
    assert!(row_major(&raw, 1, &[0, 3], &[3, 1]).is_empty());
}

/// Files that PyTorch wrote (`scripts/make_layouts.py`).
fn pickle(name: &str) -> Result<WeightFiles, WeightsError> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    WeightFiles::open(&[root.join("tests/fixtures/layouts/pickles").join(name)])
}

#[test]
fn a_pickle_s_program_is_not_run() {
    let weights = pickle("program.bin").unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x"]);
    let expected = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    assert_eq!(weights.read("x", &[2, 3]).unwrap(), expected);
    assert!(!Path::new("a-pickle-was-run").exists());
}

#[test]
fn views_are_read_as_what_they_show() {
    let weights = pickle("views.bin").unwrap();
    let turned = weights.read("turned", &[3, 2]).unwrap();
    assert_eq!(turned, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(weights.read("row", &[3]).unwrap(), [3.0, 4.0, 5.0]);
    assert_eq!(weights.shape("parameter").unwrap(), [2, 3]);
    let copy = open(&weights.subset(|name| name == "turned").unwrap()).unwrap();
    assert_eq!(copy.read("turned", &[3, 2]).unwrap(), turned);
}

#[test]
fn pickles_of_something_else_are_refused_by_name() {
    for (name, word) in [
        ("expanded.bin", "`x` repeats its numbers"),
        ("whole.bin", "torch.nn.modules.linear.Linear"),
        ("quantized.bin", "_rebuild_qtensor"),
        ("old.bin", "before 1.6"),
        ("nothing.bin", "step, best"),
    ] {
        let message = pickle(name).map(|_| ()).unwrap_err().to_string();
        assert!(
            message.contains(word) && message.contains(name),
            "{message}"
        );
    }
}

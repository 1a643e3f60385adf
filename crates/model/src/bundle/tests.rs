mod words;

use super::*;
use crate::head::{ExportedHead, ZeroShot};
use crate::onnx::{Dim, Element, ExternalData, GraphBuilder};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};
use tempfile::TempDir;

fn draft() -> Draft {
    let category = |name: &str| Category::named(name, name, 0.3);
    Draft {
        name: "test".to_owned(),
        parent: None,
        created: chrono::DateTime::UNIX_EPOCH,
        categories: vec![category("cat"), category("dog")],
        dims: Dims {
            embedding: 3,
            grid_height: 2,
            grid_width: 2,
        },
        preprocessing: Preprocessing {
            height: 8,
            width: 8,
            fit: Fit::Squash,
            filter: Filter::Bicubic,
        },
        calibration: Calibration { temperature: 1.0 },
        metrics: [("map_plain".to_owned(), 0.1)].into(),
        lineage: Lineage {
            method: "zero-shot".to_owned(),
            source: "a test".to_owned(),
            code_version: "0".to_owned(),
            ..Lineage::default()
        },
    }
}

/// An `encoder.onnx` whose one weight lies in `location`, or inside.
fn encoder(location: Option<&str>) -> Vec<u8> {
    let mut g = GraphBuilder::new("encoder");
    let x = g.input("x", Element::F32, &[Dim::Fixed(1)]);
    let w = match location {
        None => g.weight("w", &[1], Element::F32, &[1.0]),
        Some(location) => {
            let data = ExternalData {
                location: location.to_owned(),
                offset: 0,
                length: 4,
            };
            g.external("w", &[1], Element::F32, &data)
        }
    };
    let y = g.mul(&x, &w);
    g.output(&y, "y", Element::F32, &[Dim::Fixed(1)]);
    g.finish().unwrap()
}

fn write(out: &Path, encoder: &[u8], draft: Draft) -> Result<Bundle, BundleError> {
    let mut writer = BundleWriter::new(out)?;
    let head = ExportedHead::zero_shot(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], 3, ZeroShot::default());
    let files = head.to_files(Some(4), &[]).unwrap();
    writer.add(ENCODER_FILE, encoder)?;
    writer.add(HEAD_FILE, &files.onnx)?;
    writer.add(HEAD_WEIGHTS_FILE, &files.safetensors)?;
    writer.add(TEXT_CONFIG_FILE, b"{}")?;
    writer.finish(draft)
}

fn bundle() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    write(&out, &encoder(None), draft()).unwrap();
    (folder, out)
}

fn rewrite_manifest(out: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = out.join(MANIFEST_FILE);
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// Gives a changed manifest the id that belongs to its content, so that only the change itself is
/// tested.
fn sign(out: &Path) {
    let path = out.join(MANIFEST_FILE);
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.id = manifest.id_for("test");
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn refusal(out: &Path) -> String {
    Bundle::open(out).unwrap_err().to_string()
}

#[test]
fn what_is_written_opens() {
    let (_folder, out) = bundle();
    let bundle = Bundle::open(&out).unwrap();
    let manifest = bundle.manifest();
    assert!(bundle.id().starts_with("test-") && bundle.id().len() == 5 + 12);
    assert_eq!(manifest.categories, draft().categories);
    assert_eq!(manifest.positions(), 4);
    assert_eq!(manifest.files.len(), 4);
    assert_eq!(bundle.head().unwrap().0.categories, 2);
    assert_eq!(fs::read(bundle.encoder()).unwrap(), encoder(None));
    assert_eq!(bundle.path(TOKENIZER_FILE), None);
    assert!(bundle.text_files().is_none());
}

#[test]
fn the_id_depends_on_the_content_and_not_on_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let id = |name: &str, draft: Draft| {
        write(&folder.path().join(name), &encoder(None), draft)
            .unwrap()
            .id()
            .to_owned()
    };
    let first = id("a", draft());
    let later = Draft {
        created: chrono::Utc::now(),
        ..draft()
    };
    assert_eq!(first, id("b", later));
    let mut other = draft();
    other.categories[0].threshold = 0.4;
    assert_ne!(first, id("c", other));
}

#[test]
fn one_changed_byte_is_found_in_every_file() {
    let (_folder, out) = bundle();
    for name in Bundle::open(&out).unwrap().manifest().files.keys() {
        let path = out.join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&path, bad).unwrap();
        let message = refusal(&out);
        assert!(
            message.contains(name) && message.contains("was changed"),
            "{message}"
        );
        fs::write(&path, good).unwrap();
    }
    Bundle::open(&out).unwrap();
}

#[test]
fn missing_and_cut_files_are_named() {
    let (_folder, out) = bundle();
    let path = out.join(HEAD_WEIGHTS_FILE);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(matches!(Bundle::open(&out), Err(BundleError::Size { .. })));
    fs::remove_file(&path).unwrap();
    let message = refusal(&out);
    assert!(
        message.contains("head.safetensors") && message.contains("missing"),
        "{message}"
    );
    // A directory in its place is no file either.
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        Bundle::open(&out),
        Err(BundleError::Missing { .. })
    ));
}

#[test]
fn other_formats_are_refused_by_their_number() {
    let (folder, out) = bundle();
    rewrite_manifest(&out, |m| {
        m["format_version"] = 3.into();
        m["something_new"] = true.into();
    });
    let message = refusal(&out);
    assert!(message.contains("format version 3"), "{message}");
    fs::write(out.join(MANIFEST_FILE), b"{").unwrap();
    assert!(matches!(Bundle::open(&out), Err(BundleError::Json { .. })));
    for nothing in [folder.path().to_path_buf(), out.join("nowhere")] {
        assert!(matches!(
            Bundle::open(nothing),
            Err(BundleError::NoBundle { .. })
        ));
    }
}

#[test]
fn paths_that_leave_the_folder_are_refused() {
    for path in [
        "../encoder.onnx",
        "/etc/passwd",
        "text/../../x",
        "a//b",
        "./x",
        "",
        "a\\b",
        "text/",
    ] {
        let (_folder, out) = bundle();
        rewrite_manifest(&out, |m| {
            m["files"][path] = serde_json::json!({"sha256": "00", "bytes": 1});
        });
        sign(&out);
        let result = Bundle::open(&out);
        assert!(
            matches!(result, Err(BundleError::Outside { .. })),
            "{path:?}: {result:?}"
        );
    }
}

#[test]
fn symbolic_links_are_refused() {
    // To a file with the very same content.
    let (folder, out) = bundle();
    let path = out.join(ENCODER_FILE);
    let elsewhere = folder.path().join("elsewhere.onnx");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(refusal(&out).contains("symbolic link"));
    // To a directory on the way.
    let (folder, out) = bundle();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(out.join("text"), &elsewhere).unwrap();
    symlink(&elsewhere, out.join("text")).unwrap();
    assert!(refusal(&out).contains("symbolic link"));
}

#[test]
fn graphs_may_not_refer_to_files_outside() {
    let folder = tempfile::tempdir().unwrap();
    for (i, location) in ["../w.bin", "/etc/passwd", "unlisted.bin", ""]
        .iter()
        .enumerate()
    {
        let out = folder.path().join(i.to_string());
        let result = write(&out, &encoder(Some(location)), draft());
        assert!(
            matches!(result, Err(BundleError::Outside { .. })),
            "{location}: {result:?}"
        );
        assert!(!out.exists());
    }
    // Of two locations a runtime may take either: both count.
    let twice = {
        use crate::onnx::proto::{ModelProto, StringStringEntryProto};
        use prost::Message;
        let mut model = ModelProto::decode(&*encoder(Some(HEAD_WEIGHTS_FILE))).unwrap();
        let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
        tensor.external_data.push(StringStringEntryProto {
            key: Some("location".into()),
            value: Some("/etc/passwd".into()),
        });
        model.encode_to_vec()
    };
    let result = write(&folder.path().join("twice"), &twice, draft());
    assert!(
        matches!(result, Err(BundleError::Outside { .. })),
        "{result:?}"
    );
    // A listed file is fine.
    let listed = encoder(Some(HEAD_WEIGHTS_FILE));
    write(&folder.path().join("good"), &listed, draft()).unwrap();
    // Garbage is not.
    let result = write(&folder.path().join("bad"), b"\xff\xff no protobuf", draft());
    assert!(matches!(result, Err(BundleError::Onnx { .. })));
}

#[test]
fn contradictions_in_the_manifest_are_named() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 9] = [
        (|m| m["categories"] = serde_json::json!([]), "no category"),
        (|m| m["categories"][1]["name"] = "cat".into(), "twice"),
        (|m| m["categories"][1]["name"] = " ".into(), "no name"),
        (
            |m| m["categories"][0]["threshold"] = 1.5.into(),
            "threshold",
        ),
        (
            |m| m["calibration"]["temperature"] = 0.0.into(),
            "temperature",
        ),
        (|m| m["dims"]["embedding"] = 0.into(), "must not be 0"),
        (
            |m| m["preprocessing"]["height"] = 9.into(),
            "preprocessing_hash",
        ),
        (
            |m| {
                m["files"].as_object_mut().unwrap().remove("head.onnx");
            },
            "does not list",
        ),
        (
            |m| m["metrics"]["map_plain"] = 0.9.into(),
            "needs its own id",
        ),
    ];
    for (i, (change, word)) in changes.into_iter().enumerate() {
        let (_folder, out) = bundle();
        rewrite_manifest(&out, change);
        if word != "needs its own id" {
            sign(&out);
        }
        let message = refusal(&out);
        assert!(message.contains(word), "{i}: {message}");
    }
}

#[test]
fn a_taken_place_is_left_alone_and_failures_leave_nothing() {
    let (folder, out) = bundle();
    let before = fs::read(out.join(MANIFEST_FILE)).unwrap();
    assert!(matches!(
        BundleWriter::new(&out),
        Err(BundleError::Exists { .. })
    ));
    assert_eq!(before, fs::read(out.join(MANIFEST_FILE)).unwrap());

    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    write(&empty, &encoder(None), draft()).unwrap();

    let unfinished = BundleWriter::new(folder.path().join("other")).unwrap();
    drop(unfinished);
    let mut bad = draft();
    bad.categories.clear();
    assert!(write(&folder.path().join("other"), &encoder(None), bad).is_err());
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["empty", "model"]);
}

#[test]
fn canonical_json_sorts_keys_at_every_depth() {
    let value = serde_json::json!({"b": {"z": 1, "a": [true, null, "\""]}, "a": 0.5});
    assert_eq!(
        manifest::canonical_json(&value),
        r#"{"a":0.5,"b":{"a":[true,null,"\""],"z":1}}"#
    );
}

/// Compares a schema with a value in which every optional field is there: same fields, same types,
/// and what the schema requires is what cannot be left out.
fn agree(schema: &serde_json::Value, value: &serde_json::Value, place: &str) {
    let kind = match value {
        serde_json::Value::String(_) => "string",
        serde_json::Value::Number(n) if n.is_f64() => "number",
        serde_json::Value::Number(_) => "integer",
        serde_json::Value::Array(_) => "array",
        serde_json::Value::Object(_) => "object",
        serde_json::Value::Bool(_) => "boolean",
        _ => panic!("{place}: {value} has no place in a manifest"),
    };
    match schema["type"].as_array() {
        Some(kinds) => assert!(kinds.contains(&kind.into()), "{place}"),
        None => assert_eq!(schema["type"], kind, "{place}"),
    }
    match value {
        serde_json::Value::Array(items) => {
            items
                .iter()
                .for_each(|item| agree(&schema["items"], item, place));
        }
        serde_json::Value::Object(fields) => {
            if let Some(properties) = schema["properties"].as_object() {
                assert_eq!(schema["additionalProperties"], false, "{place}");
                let known: Vec<_> = properties.keys().collect();
                assert_eq!(known, fields.keys().collect::<Vec<_>>(), "{place}");
            }
            for (name, field) in fields {
                let own = schema["properties"].get(name);
                let schema = own.unwrap_or(&schema["additionalProperties"]);
                agree(schema, field, &format!("{place}.{name}"));
            }
        }
        plain => {
            if let Some(allowed) = schema["enum"].as_array() {
                assert!(allowed.contains(plain), "{place}: {plain}");
            }
        }
    }
}

#[test]
fn the_schema_and_the_code_agree() {
    let (_folder, out) = bundle();
    let path =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("schemas/bundle.schema.json");
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut manifest = Bundle::open(&out).unwrap().manifest().clone();
    manifest.parent = Some("older-000000000000".to_owned());
    manifest.lineage.label_snapshot = Some("00".to_owned());
    manifest.lineage.seed = Some(1);
    manifest.categories = vec![words::elaborate("cat", "animal")];
    agree(&schema, &serde_json::to_value(&manifest).unwrap(), "bundle");
    assert_eq!(
        schema["properties"]["format_version"]["enum"],
        serde_json::json!([1, FORMAT_VERSION])
    );

    // The enums list what the code can write, and nothing that it cannot read.
    let preprocessing = &schema["properties"]["preprocessing"]["properties"];
    let read = |name: &str, value: &serde_json::Value| {
        let mut json = serde_json::to_value(&manifest.preprocessing).unwrap();
        json[name] = value.clone();
        serde_json::from_value::<Preprocessing>(json).is_ok()
    };
    for name in ["fit", "filter"] {
        let allowed = preprocessing[name]["enum"].as_array().unwrap();
        assert!(allowed.len() == 2 && allowed.iter().all(|value| read(name, value)));
        assert!(!read(name, &"another".into()));
    }

    // Leaving out a required field is refused; leaving out another one is not.
    let whole = serde_json::to_value(&manifest).unwrap();
    let required = schema["required"].as_array().unwrap();
    for name in whole.as_object().unwrap().keys() {
        let mut cut = whole.clone();
        cut.as_object_mut().unwrap().remove(name);
        let needed = serde_json::from_value::<Manifest>(cut).is_err();
        assert_eq!(required.contains(&name.as_str().into()), needed, "{name}");
    }
}

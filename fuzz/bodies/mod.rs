//! What each fuzz target does with its input; the ordinary tests do the same with the kept seeds
//! (`suite fuzz_replay`).

mod image;
pub(super) mod mapping;

use self::image::{decoders, image, plain};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tagstream::stage::fetch::{UriPolicy, check};
use tagstream_core::config::FetchConfig;
use tagstream_core::events::{ImageReference, LabelEvent};
use tagstream_core::image_id::IdRule;
use tagstream_core::redact::{redact, trimmed};
use tagstream_model::bundle::{Bundle, check_graph_files};
use tagstream_model::clip::weights::WeightFiles;
use tagstream_model::head::ExportedHead;
use tagstream_model::registry::{Cache, HistoryEntry, Pointer, Registry, VersionRecord};
use tagstream_train::labels::{
    Form, ImportOptions, Imported, LabelMatrix, LabelTable, export, import, import_at,
};

/// A body by its target's name.
pub(super) type Body = fn(&[u8]);

/// Every target.
pub(super) const ALL: [(&str, Body); 10] = [
    ("message", message),
    ("mapping", mapping::mapping),
    ("schemas", mapping::schemas),
    ("uri", uri),
    ("image", whole_image),
    ("decoders", decoders),
    ("bundle", bundle),
    ("registry", registry),
    ("labels", labels),
    ("label_exports", label_exports),
];

/// Images, by what the stage decodes itself and by all decoders.
pub(super) fn whole_image(bytes: &[u8]) {
    plain(bytes);
    image(bytes);
}

/// Kafka values: any bytes give a message or an error, and what was read can be written and read
/// again.
pub(super) fn message(bytes: &[u8]) {
    if let Ok(reference) = ImageReference::from_json(bytes) {
        assert!(!reference.image_id.is_empty() && !reference.uri.is_empty());
        let written = serde_json::to_vec(&reference).unwrap();
        assert_eq!(ImageReference::from_json(&written).unwrap(), reference);
    }
    if let Ok(event) = LabelEvent::from_json(bytes) {
        let written = serde_json::to_vec(&event).unwrap();
        assert_eq!(LabelEvent::from_json(&written).unwrap(), event);
    }
}

static POLICY: LazyLock<UriPolicy> = LazyLock::new(|| {
    UriPolicy::new(&FetchConfig {
        allow_schemes: ["file", "s3", "http", "https", "data"]
            .map(String::from)
            .to_vec(),
        allow_hosts: vec!["example.org".into(), "*.example.net".into()],
        allow_path_prefixes: vec!["/usr/share".into()],
        ..FetchConfig::default()
    })
    .unwrap()
});

/// URIs: no panic, nothing allowed that the rules forbid, and no secret survives redaction.
pub(super) fn uri(bytes: &[u8]) {
    let Ok(uri) = std::str::from_utf8(bytes) else {
        return;
    };
    let shown = redact(uri);
    assert!(shown.chars().count() <= 201 && !shown.contains(char::is_control));
    if check(&POLICY, uri).is_err() {
        return;
    }
    if trimmed(uri).to_ascii_lowercase().starts_with("data:") {
        return;
    }
    // What was allowed is allowed for a reason that can be seen in the parsed URI.
    let url = url::Url::parse(uri).expect("allowed, so it parses");
    assert!(url.username().is_empty() && url.password().is_none());
    match url.scheme() {
        "file" => assert!(url.to_file_path().unwrap().starts_with("/usr/share")),
        "http" | "https" | "s3" => {
            let host = url.host_str().unwrap().trim_end_matches('.');
            let host = host.to_ascii_lowercase();
            assert!(
                host == "example.org" || host.ends_with(".example.net"),
                "{host}"
            );
        }
        other => panic!("the scheme {other} is not allowed"),
    }
}

/// A folder with the small bundle's files, whose `bundle.json` and weights are replaced by the
/// input.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if root.ends_with("fuzz") {
        root.parent().unwrap()
    } else {
        root
    };
    let folder = tempfile::tempdir().unwrap().keep();
    for entry in std::fs::read_dir(root.join("tests/fixtures/tiny-model")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    folder
});

/// Bundle files: the first byte says which; any bytes are read or refused, and what is read can be
/// written and read again.
pub(super) fn bundle(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 4 {
        0 => {
            std::fs::write(FOLDER.join("bundle.json"), bytes).unwrap();
            if let Ok(bundle) = Bundle::open(&*FOLDER) {
                for name in bundle.manifest().files.keys() {
                    let path = bundle.path(name).unwrap().canonicalize().unwrap();
                    assert!(path.starts_with(FOLDER.canonicalize().unwrap()), "{name}");
                }
            }
        }
        1 => {
            if let Ok((head, trainable)) = ExportedHead::from_safetensors(bytes) {
                let written = head.to_safetensors(&trainable).unwrap();
                let (again, _) = ExportedHead::from_safetensors(&written).unwrap();
                assert_eq!((again.categories, again.dim), (head.categories, head.dim));
            }
        }
        2 => {
            let _ = check_graph_files(&FOLDER.join("encoder.onnx"), bytes.to_vec().into());
        }
        _ => {
            let path = FOLDER.join("weights.safetensors");
            std::fs::write(&path, bytes).unwrap();
            if let Ok(file) = WeightFiles::open(&[&path]) {
                for name in file.names() {
                    let shape = file.shape(name).unwrap();
                    let _ = file.read(name, shape);
                    let _ = file.read_number(name);
                }
            }
        }
    }
}

/// Registry records: any bytes are read or refused; no file name of a version leads out of the
/// cache.
pub(super) fn registry(bytes: &[u8]) {
    static WORLD: LazyLock<(tokio::runtime::Runtime, Registry, PathBuf)> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap().keep();
        let url = folder.join("registry").display().to_string();
        let registry = runtime
            .block_on(Registry::open_or_create(&url, &Default::default()))
            .unwrap();
        (runtime, registry, folder)
    });
    if let Ok(pointer) = serde_json::from_slice::<Pointer>(bytes) {
        let written = serde_json::to_vec(&pointer).unwrap();
        assert_eq!(
            serde_json::from_slice::<Pointer>(&written).unwrap(),
            pointer
        );
    }
    if let Ok(entry) = serde_json::from_slice::<HistoryEntry>(bytes) {
        let written = serde_json::to_vec(&entry).unwrap();
        assert_eq!(
            serde_json::from_slice::<HistoryEntry>(&written).unwrap(),
            entry
        );
    }
    let Ok(version) = serde_json::from_slice::<VersionRecord>(bytes) else {
        return;
    };
    let (runtime, registry, folder) = &*WORLD;
    let cache = folder.join("cache");
    // The registry is empty: only a version without files can be had.
    let had = runtime.block_on(registry.materialise(&version, &Cache::at(&cache)));
    assert!(had.is_err() || version.files.is_empty());
    let mut beside: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    beside.retain(|name| name != "cache" && name != "registry");
    assert!(beside.is_empty(), "it wrote {beside:?} beside the cache");
}

/// Label files: the first byte says which form; any bytes give events or an error, and events
/// survive writing and reading.
pub(super) fn labels(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let which = usize::from(*which);
    if which % 6 == 5 {
        let _ = LabelMatrix::parse(bytes, None);
        return;
    }
    let options = ImportOptions {
        exhaustive: which & 64 != 0,
        uri_prefix: "file:///images/".into(),
        annotator: "fuzz".into(),
        absent_control: (which & 128 != 0).then(|| "absent".into()),
        ..ImportOptions::default()
    };
    let (_, form) = Form::ALL[which % 6];
    if let Ok(imported) = import(form, bytes, &options) {
        hold(&imported);
    }
}

/// What holds of every import: the stage takes each event, and the labels can be written.
fn hold(imported: &Imported) {
    for event in &imported.events {
        event.validate().unwrap();
    }
    let table = LabelTable::of_events(&imported.events);
    let _ = (table.hash(), table.counts());
    for (_, form) in Form::ALL.into_iter().filter(|(_, form)| form.is_written()) {
        let mut written = Vec::new();
        export(form, &table, &mut written).unwrap();
    }
}

/// Exports of annotation tools: the first byte says which form and what is asked of it.
pub(super) fn label_exports(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let told = |name: &str| (which & 128 != 0).then(|| name.to_owned());
    let options = ImportOptions {
        exhaustive: which & 64 != 0,
        id: IdRule::ALL
            .get(usize::from(which >> 4 & 3))
            .map(|(_, rule)| *rule),
        controls: told("choice").into_iter().collect(),
        id_column: told("file"),
        label_column: told("tags"),
        label_separator: told("|"),
        image_key: told("photo"),
        ..ImportOptions::default()
    };
    let forms = [
        Form::LabelStudio,
        Form::Csv,
        Form::Voc,
        Form::Cvat,
        Form::FiftyOne,
        Form::Coco,
    ];
    let imported = match forms.get(usize::from(which & 7)) {
        Some(form) => import(*form, bytes, &options).ok(),
        None => yolo(bytes, &options),
    };
    if let Some(imported) = imported {
        hold(&imported);
    }
}

/// A folder of YOLO's form: the names of classes and one picture's labels, parted by a byte 0.
fn yolo(bytes: &[u8], options: &ImportOptions) -> Option<Imported> {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| tempfile::tempdir().unwrap().keep());
    let at = bytes.iter().position(|byte| *byte == 0)?;
    std::fs::create_dir_all(FOLDER.join("labels")).unwrap();
    std::fs::write(FOLDER.join("data.yaml"), &bytes[..at]).unwrap();
    std::fs::write(FOLDER.join("labels/a.txt"), &bytes[at + 1..]).unwrap();
    import_at(Form::Yolo, &FOLDER, options).ok()
}

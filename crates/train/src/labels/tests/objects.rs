//! Forms of objects: Pascal VOC, YOLO, CVAT and FiftyOne, in the folders that tools make.

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

fn exhaustive() -> ImportOptions {
    ImportOptions {
        exhaustive: true,
        ..ImportOptions::default()
    }
}

fn at(form: Form, files: &[(&str, &str)], options: &ImportOptions) -> Vec<String> {
    let dir = folder(files);
    said(&import_at(form, dir.path(), options).unwrap())
}

fn refusal(form: Form, files: &[(&str, &str)]) -> String {
    let dir = folder(files);
    let read = import_at(form, dir.path(), &ImportOptions::default());
    read.unwrap_err().to_string()
}

fn voc(filename: &str, objects: &str) -> String {
    format!("<annotation><folder>x</folder><filename>{filename}</filename>\n{objects}</annotation>")
}

const CHAIR: &str = "<object><name>chair</name><difficult>0</difficult>\
    <part><name>leg</name></part></object>";

#[test]
fn pascal_voc_is_read() {
    let dog = "<object><name>dog</name><difficult>1</difficult></object>";
    let (one, two) = (voc("000005.jpg", CHAIR), voc("b.jpg", dog));
    let files = [
        ("Annotations/000005.xml", &*one),
        ("Annotations/deep/b.xml", &*two),
    ];
    let plain = at(Form::Voc, &files, &ImportOptions::default());
    assert_eq!(plain, ["000005: +chair"]);
    // Who looks for everything may still doubt.
    let all = at(Form::Voc, &files, &exhaustive());
    assert_eq!(all, ["000005: +chair -dog", "deep/b: -chair"]);
    let single = read(Form::Voc, &one, &ImportOptions::default());
    assert_eq!(said(&single), ["000005: +chair"]);
    let nameless = refusal(Form::Voc, &[("a.xml", &voc("a.jpg", "<object/>"))]);
    assert!(
        nameless.contains("a.xml") && nameless.contains("line 2"),
        "{nameless}"
    );
    // Names that tools forget to change would make one picture of two.
    let stale = refusal(Form::Voc, &[("a.xml", &one), ("b.xml", &one)]);
    assert!(
        stale.contains("a.xml") && stale.contains("b.xml"),
        "{stale}"
    );
    assert!(refusal(Form::Voc, &[("a.txt", "")]).contains(".xml"));
    let html = refusal(Form::Voc, &[("a.xml", "<html/>")]);
    assert!(
        html.contains("`<html>`") && html.contains("`<annotation>`"),
        "{html}"
    );
}

#[test]
fn yolo_is_read_as_every_tool_lays_it_out() {
    let row = "1 0.5 0.5 0.1 0.1\n";
    let ultralytics = [
        (
            "data.yaml",
            "train: images/train\nnames:\n  0: cat\n  1: dog\n",
        ),
        ("labels/train/a.txt", row),
        (
            "labels/val/a.txt",
            "0 .1 .1 .2 .2 .3 .3\n\n1.0 0.5 0.5 0.1 0.1 0.9\n",
        ),
        ("labels/val/empty.txt", ""),
        ("images/train/a.png", ""),
        ("notes.txt", "no labels"),
    ];
    let plain = at(Form::Yolo, &ultralytics, &ImportOptions::default());
    assert_eq!(plain, ["train/a: +dog", "val/a: +cat +dog"]);
    let all = at(Form::Yolo, &ultralytics, &exhaustive());
    assert_eq!(
        all,
        [
            "train/a: +dog -cat",
            "val/a: +cat +dog",
            "val/empty: -cat -dog"
        ]
    );
    let options = ImportOptions {
        uri_prefix: "s3://b/images/".into(),
        ..ImportOptions::default()
    };
    let dir = folder(&ultralytics);
    let events = import_at(Form::Yolo, dir.path(), &options).unwrap().events;
    let uris: Vec<&str> = events.iter().map(|event| event.uri.as_str()).collect();
    assert_eq!(
        uris,
        ["s3://b/images/train/a.png", ""],
        "only where the extension is known"
    );

    let darknet = [
        ("obj.names", "cat\ndog\n"),
        ("train.txt", "data/obj_train_data/x/a.jpg\n"),
        ("obj_train_data/x/a.txt", row),
    ];
    assert_eq!(
        at(Form::Yolo, &darknet, &ImportOptions::default()),
        ["x/a: +dog"]
    );

    let label_studio = [
        ("classes.txt", "cat\ndog\n"),
        ("notes.json", r#"{"info": {"contributor": "Label Studio"}}"#),
        ("labels/3f2a9c1b-cat01.txt", row),
    ];
    assert_eq!(
        at(Form::Yolo, &label_studio, &ImportOptions::default()),
        ["cat01: +dog"]
    );
}

#[test]
fn what_is_wrong_in_yolo_is_named() {
    let names = ("classes.txt", "cat\n");
    for (text, said) in [
        ("0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n", "line 2: class 1"),
        ("0 0.5\n", "line 1: 1 numbers"),
        ("cat 0.5 0.5 0.1 0.1\n", "line 1: the class"),
        ("0 0.5 x 0.1 0.1\n", "line 1: \"x\""),
    ] {
        let error = refusal(Form::Yolo, &[names, ("labels/a.txt", text)]);
        assert!(
            error.contains("labels/a.txt") && error.contains(said),
            "{error}"
        );
    }
    let nameless = refusal(Form::Yolo, &[("labels/a.txt", "0 1 1 1 1\n")]);
    assert!(nameless.contains("data.yaml"), "{nameless}");
    assert!(refusal(Form::Yolo, &[names]).contains("no text file of labels"));
    assert!(refused(Form::Yolo, "0 1 1 1 1", &ImportOptions::default()).contains("folder"));
}

const CVAT: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
 <meta><project><labels><label><name>cat</name></label><label><name>dog</name></label>
  <label><name>nose</name><type>points</type><parent>dog</parent></label></labels></project></meta>
 <image id="0" name="video_a/frame_0001.jpg" width="4" height="4">
  <tag label="night" source="manual"/>
  <skeleton label="dog"><points label="nose" points="1,1"/></skeleton>
 </image>
 <image id="1" name="video_b/frame_0001.jpg"><box label="cat" xtl="1">
  <attribute name="x">y</attribute>
  </box></image>
 <image id="2" name="c &amp; d.jpg"/>
</annotations>"#;

#[test]
fn cvat_is_read() {
    let files = [("annotations.xml", CVAT)];
    let plain = at(Form::Cvat, &files, &ImportOptions::default());
    assert_eq!(
        plain,
        [
            "video_a/frame_0001: +dog +night",
            "video_b/frame_0001: +cat"
        ]
    );
    let all = at(Form::Cvat, &files, &exhaustive());
    assert_eq!(all[0], "c & d: -cat -dog -night");
    let fails = |text: &str| refused(Form::Cvat, text, &ImportOptions::default());
    let video = fails("<annotations>\n<track id=\"0\" label=\"cat\"/></annotations>");
    assert!(
        video.contains("line 2") && video.contains("CVAT for images 1.1"),
        "{video}"
    );
    let twice = fails(&CVAT.replace("video_b", "video_a"));
    assert!(
        twice.contains("image 1") && twice.contains("image 0"),
        "{twice}"
    );
    let bare = fails(&CVAT.replace("<tag label=\"night\" source", "<tag source"));
    assert!(
        bare.contains("line 6") && bare.contains("`label`"),
        "{bare}"
    );
}

const SAMPLES: &str = r#"{"samples": [
 {"_id": {"$oid": "1"}, "filepath": "data/x/a.jpg", "tags": ["val"],
  "ground_truth": {"_cls": "Detections", "detections": [
    {"_cls": "Detection", "label": "cat"}, {"_cls": "Detection", "label": "cat"}]},
  "predictions": {"_cls": "Classification", "label": "owl", "confidence": 0.5}},
 {"filepath": "data/b.jpg", "ground_truth": null,
  "weather": {"_cls": "Classification", "label": "rain"}}]}"#;

#[test]
fn fifty_one_is_read() {
    let files = [("samples.json", SAMPLES), ("metadata.json", "{}")];
    assert_eq!(
        at(Form::FiftyOne, &files, &ImportOptions::default()),
        ["x/a: +cat"]
    );
    let options = ImportOptions {
        controls: vec!["ground_truth".into(), "weather".into()],
        ..exhaustive()
    };
    let both = at(Form::FiftyOne, &files, &options);
    assert_eq!(both, ["b: +rain -cat", "x/a: +cat -rain"]);
    let fails = |text: &str| refused(Form::FiftyOne, text, &ImportOptions::default());
    let several = fails(&SAMPLES.replace("ground_truth", "people"));
    assert!(
        several.contains("`people`") && several.contains("--control"),
        "{several}"
    );
    let nowhere = fails(r#"{"samples": [{"ground_truth": {"_cls": "Classification"}}]}"#);
    assert!(
        nowhere.contains("sample 1") && nowhere.contains("`filepath`"),
        "{nowhere}"
    );
    assert!(fails(r#"{"x": 1}"#).contains("`samples`"));
}

#[test]
fn fifty_one_s_lists_are_read() {
    let plain = |text: &str| said(&read(Form::FiftyOne, text, &exhaustive()));
    let single = r#"{"classes": ["cat", "dog"], "labels": {"x/a": 1, "b": null, "c.jpg": "cat"}}"#;
    assert_eq!(
        plain(single),
        ["b: -cat -dog", "c: +cat -dog", "x/a: +dog -cat"]
    );
    let boxes = r#"{"classes": ["cat", "dog"], "labels": {"a": [{"label": 0, "bounding_box": []},
        {"label": "dog"}], "b": []}}"#;
    assert_eq!(plain(boxes), ["a: +cat +dog", "b: -cat -dog"]);
    let beyond = r#"{"classes": ["cat"], "labels": {"a": 3}}"#;
    let beyond = refused(Form::FiftyOne, beyond, &ImportOptions::default());
    assert!(
        beyond.contains("\"a\"") && beyond.contains("class 3"),
        "{beyond}"
    );
}

#[test]
fn what_fifty_one_is_given_keeps_names_addresses_and_absences() {
    let events = ["photos/a.b", "s3://bucket/x.jpg", "c"].map(|id| LabelEvent {
        present: vec!["cat".into()],
        absent: vec!["dog".into()],
        ..LabelEvent::about(id, format!("s3://b/{}.png", id.len()))
    });
    let bare = LabelEvent {
        absent: vec!["owl".into()],
        ..LabelEvent::about("d", "")
    };
    let table = LabelTable::of_events(events.iter().chain([&bare]));
    let mut written = Vec::new();
    export(Form::FiftyOne, &table, &mut written).unwrap();
    // As FiftyOne's importer of image classifications reads it.
    let json: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(json["classes"], serde_json::json!(["cat", "dog", "owl"]));
    assert_eq!(json["labels"]["photos/a.b"], serde_json::json!(["cat"]));
    assert_eq!(json["labels"]["d"], serde_json::json!([]));
    let imported = import(Form::FiftyOne, &*written, &ImportOptions::default()).unwrap();
    let again = LabelTable::of_events(&imported.events);
    assert!(again.known().eq(table.known()));
    let uri = |id: &str| again.image(id).unwrap().uri().into_owned();
    assert_eq!((uri("c").as_str(), uri("d").as_str()), ("s3://b/1.png", ""));
    let broken = String::from_utf8(written)
        .unwrap()
        .replace("[\"dog\"]", "7");
    assert!(refused(Form::FiftyOne, &broken, &ImportOptions::default()).contains("`labels`"));
}

#[test]
fn forms_that_are_only_read_are_not_written() {
    let table = LabelTable::default();
    let error = export(Form::Voc, &table, Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("csv") && !error.contains("voc"), "{error}");
}

//! Exports as Label Studio's versions, storages and people write them.

use super::*;

/// A task with one control `choice`, answered by `choices`.
fn task(image: &str, choices: &str) -> String {
    format!(
        r#"[{{"id": 7, "data": {{"image": "{image}"}}, "annotations": [{{"id": 1, "result":
        [{{"type": "choices", "from_name": "choice", "to_name": "image",
        "value": {{"choices": {choices}}}}}], "was_cancelled": false, "completed_by": 1,
        "created_at": "2024-01-01T00:00:00Z"}}], "predictions": []}}]"#
    )
}

fn plain(text: &str) -> Imported {
    read(Form::LabelStudio, text, &ImportOptions::default())
}

fn refusal(text: &str) -> String {
    refused(Form::LabelStudio, text, &ImportOptions::default())
}

#[test]
fn a_picture_is_called_as_it_was_before_label_studio_had_it() {
    let proxied = "/tasks/7/presign/?fileuri=czM6Ly9iL3gvYS5qcGc=";
    for (image, id, uri) in [
        ("/data/upload/1/3f2a9c1b-cat01.jpg", "cat01", ""),
        (
            "/data/local-files/?d=video_a/frame_0001.jpg",
            "video_a/frame_0001",
            "",
        ),
        (proxied, "x/a", "s3://b/x/a.jpg"),
        ("s3://b/x/001.jpg", "x/001", "s3://b/x/001.jpg"),
        (
            "https://host/x/a%20b.jpg?sig=1",
            "x/a b",
            "https://host/x/a%20b.jpg?sig=1",
        ),
    ] {
        let event = &plain(&task(image, r#"["cat"]"#)).events[0];
        assert_eq!((event.image_id.as_str(), event.uri.as_str()), (id, uri));
    }
    let data = plain(&task("data:image/png;base64,iVBORw0KGgo=", r#"["cat"]"#));
    assert!(data.events[0].image_id.starts_with("data-"));
    let options = ImportOptions {
        id: Some(IdRule::Stem),
        uri_prefix: "s3://photos/".into(),
        ..ImportOptions::default()
    };
    let stem = read(
        Form::LabelStudio,
        &task("/data/local-files/?d=v/a.jpg", r#"["x"]"#),
        &options,
    );
    assert_eq!(stem.events[0].image_id, "a");
    assert_eq!(stem.events[0].uri, "s3://photos/v/a.jpg");
}

#[test]
fn two_pictures_stay_two() {
    let both = |one: &str, other: &str| {
        let (one, other) = (task(one, r#"["cat"]"#), task(other, r#"["dog"]"#));
        format!("{}{}", one, other)
    };
    let folders = plain(&both("s3://b/x/001.jpg", "s3://b/y/001.jpg"));
    assert_eq!(said(&folders), ["x/001: +cat", "y/001: +dog"]);
    // Of two uploads only the server's own prefix is left to tell them apart.
    let uploads = plain(&both(
        "/data/upload/1/3f2a9c1b-a.jpg",
        "/data/upload/1/00000000-a.jpg",
    ));
    assert_eq!(said(&uploads).len(), 2);
    assert!(
        uploads.notes[0].contains("2 pictures"),
        "{:?}",
        uploads.notes
    );
    let options = ImportOptions {
        id: Some(IdRule::Stem),
        ..ImportOptions::default()
    };
    let text = both("s3://b/x/001.jpg", "s3://b/y/001.jpg");
    assert!(refused(Form::LabelStudio, &text, &options).contains("the same id `001`"));
}

#[test]
fn the_name_that_a_task_tells_is_taken_as_it_is() {
    for (told, id) in [
        (r#""cat01""#, "cat01"),
        ("17", "17"),
        ("17.0", "17"),
        ("null", "x/a"),
    ] {
        let text = task("s3://b/x/a.jpg", r#"["cat"]"#);
        let text = text.replace(
            "\"data\": {",
            &format!("\"data\": {{\"image_id\": {told}, "),
        );
        assert_eq!(plain(&text).events[0].image_id, id, "{told}");
    }
    let text =
        task("s3://b/x/a.jpg", r#"["cat"]"#).replace("\"data\": {", "\"data\": {\"nr\": 3, ");
    let options = ImportOptions {
        id_column: Some("nr".into()),
        ..ImportOptions::default()
    };
    assert_eq!(
        read(Form::LabelStudio, &text, &options).events[0].image_id,
        "3"
    );
}

#[test]
fn any_key_may_hold_the_picture() {
    let text = task("s3://b/x/a.jpg", r#"["cat"]"#);
    let other = text.replace("{\"image\"", "{\"caption\": \"a cat\", \"scan\"");
    assert_eq!(plain(&other).events[0].image_id, "x/a");
    let two = text.replace(
        "\"data\": {\"image\"",
        "\"data\": {\"left\": \"s3://b/l.jpg\", \"scan\"",
    );
    let said = refusal(&two);
    assert!(said.contains("task 7") && said.contains("`scan`"), "{said}");
    assert!(said.contains("--image-key"), "{said}");
    let options = ImportOptions {
        image_key: Some("left".into()),
        ..ImportOptions::default()
    };
    assert_eq!(
        read(Form::LabelStudio, &two, &options).events[0].image_id,
        "l"
    );
    let none = refused(Form::LabelStudio, &text, &options);
    assert!(
        none.contains("`left`") && none.contains("it has `image`"),
        "{none}"
    );
    let list = text.replace("\"s3://b/x/a.jpg\"", "[\"s3://b/1.jpg\", \"s3://b/2.jpg\"]");
    let said = refusal(&list);
    assert!(said.contains("task 7") && said.contains("`image`") && said.contains("list of 2"));
}

#[test]
fn a_control_of_yes_and_no_asks_about_its_own_name() {
    let result = |control: &str, word: &str| {
        format!(r#"{{"type":"choices","from_name":"{control}","value":{{"choices":["{word}"]}}}}"#)
    };
    let text = |results: &[String]| {
        let results = results.join(",");
        format!(
            r#"[{{"id":1,"data":{{"image":"s3://b/a.jpg"}},
            "annotations":[{{"result":[{results}]}}]}}]"#
        )
    };
    let asked = text(&[
        result("cat", "yes"),
        result("dog", "No"),
        result("kind", "owl"),
    ]);
    let imported = plain(&asked);
    assert_eq!(said(&imported), ["a: +cat +owl -dog"]);
    assert!(
        imported.notes.iter().any(|note| note.contains("`cat`")),
        "{:?}",
        imported.notes
    );
    let options = ImportOptions {
        controls: vec!["kind".into()],
        ..ImportOptions::default()
    };
    let kind = read(Form::LabelStudio, &asked, &options);
    assert_eq!(said(&kind), ["a: +owl"]);
    assert_eq!(kind.left_out.values().sum::<u64>(), 2);
    let options = ImportOptions {
        controls: vec!["kinds".into()],
        ..ImportOptions::default()
    };
    let missing = refused(Form::LabelStudio, &asked, &options);
    assert!(
        missing.contains("control `kinds`") && missing.contains("`kind`"),
        "{missing}"
    );
    let mixed = text(&[result("cat", "yes")]) + &text(&[result("cat", "blurry")]);
    let mixed = refusal(&mixed);
    assert!(
        mixed.contains("control `cat`") && mixed.contains("blurry"),
        "{mixed}"
    );
}

#[test]
fn a_taxonomy_is_read_by_its_leaves() {
    let text = task("s3://b/a.jpg", "[]").replace(
        r#"{"choices": []}"#,
        r#"{"taxonomy": [["Animal", "Cat"], ["Animal", "Other"], ["Car", "Other"]]}"#,
    );
    let imported = plain(&text);
    assert_eq!(said(&imported), ["a: +Animal/Other +Car/Other +Cat"]);
    assert!(
        imported.notes[0].contains("`Other`"),
        "{:?}",
        imported.notes
    );
}

#[test]
fn nulls_old_versions_and_times_without_a_zone_are_read() {
    let result = r#"[{"from_name":"choice","value":{"choices":["cat"]}}]"#;
    let data = r#""data": {"image": "s3://b/a.jpg"}"#;
    for rest in [
        format!(
            r#""annotations": [{{"result": {result}, "was_cancelled": null}}], "predictions": null"#
        ),
        format!(
            r#""annotations": null,
            "completions": [{{"result": {result}, "created_at": 1595421256}}]"#
        ),
        format!(r#""annotations": [{{"result": {result}, "updated_at": "2024-01-01 00:00:00"}}]"#),
        format!(
            r#""annotations": [{{"result": {result}, "completed_by": null, "created_at": null}}]"#
        ),
        format!(r#""annotations": [{{"result": {result}, "ground_truth": null, "skipped": 0}}]"#),
    ] {
        let text = format!("[{{\"id\": \"t\", {data}, {rest}}}]");
        assert_eq!(said(&plain(&text)), ["a: +cat"], "{rest}");
    }
    let skipped =
        format!(r#"[{{{data}, "completions": [{{"result": {result}, "skipped": true}}]}}]"#);
    assert!(plain(&skipped).events.is_empty());
    let bad = format!(
        r#"[{{"id": 3, {data}, "annotations": [{{"result": [], "created_at": "today"}}]}}]"#
    );
    let bad = refusal(&bad);
    assert!(
        bad.contains("task 3") && bad.contains("`created_at`"),
        "{bad}"
    );
    let numbers = refusal(&format!(r#"[{{"id": 3, {data}, "annotations": [12]}}]"#));
    assert!(
        numbers.contains("task 3") && numbers.contains("`annotations`"),
        "{numbers}"
    );
}

#[test]
fn one_task_a_line_and_what_target_storages_write_are_read() {
    let one = task("s3://b/a.jpg", r#"["cat"]"#);
    let one = one.trim_matches(['[', ']']).replace('\n', " ");
    let two = one.replace("a.jpg", "b.jpg");
    assert_eq!(
        said(&plain(&format!("{one}\n{two}\n"))),
        ["a: +cat", "b: +cat"]
    );
    let stored = r#"{"id": 1, "result": [{"from_name": "choice", "value": {"choices": ["cat"]}}],
        "completed_by": {"id": 4}, "task": {"id": 9, "data": {"image": "s3://b/a.jpg"}}}"#;
    let stored = plain(stored);
    assert_eq!(
        (said(&stored), &*stored.events[0].annotator),
        (vec!["a: +cat".into()], "4")
    );
}

const JSON_MIN: &str = r#"[{"id": 1, "image": "s3://b/a.jpg", "choice": "cat", "annotator": 1,
  "annotation_id": 1, "created_at": "2024-01-01T00:00:00Z", "lead_time": 3.1},
 {"id": 2, "image": "s3://b/b.jpg", "choice": {"choices": ["cat", "dog"]}, "annotator": 2},
 {"id": 3, "image": "s3://b/c.jpg", "annotator": 2,
  "box": [{"x": 1, "rectanglelabels": ["car"]}]}]"#;

#[test]
fn json_min_is_read() {
    let imported = plain(JSON_MIN);
    assert_eq!(said(&imported), ["a: +cat", "b: +cat +dog", "c: +car"]);
    assert_eq!(imported.events[0].annotator, "1");
    // The control of absences is known by its name, and read whichever others are.
    let absent = JSON_MIN.replace(
        "\"choice\": \"cat\"",
        "\"choice\": \"cat\", \"absent\": \"dog\"",
    );
    let expected = ["a: +cat -dog", "b: +cat +dog", "c: +car"];
    assert_eq!(said(&plain(&absent)), expected);
    let options = ImportOptions {
        controls: vec!["choice".into(), "box".into()],
        ..ImportOptions::default()
    };
    assert_eq!(said(&read(Form::LabelStudio, &absent, &options)), expected);
    // A bare word may be the task's own data.
    let caption = JSON_MIN.replace(
        "\"choice\": \"cat\"",
        "\"choice\": \"cat\", \"note\": \"old\"",
    );
    let caption_said = refusal(&caption);
    assert!(caption_said.contains("`note`") && caption_said.contains("--control"));
    let options = ImportOptions {
        controls: vec!["choice".into(), "box".into()],
        ..ImportOptions::default()
    };
    let told = read(Form::LabelStudio, &caption, &options);
    assert_eq!(said(&told), said(&imported));
    // One word a task, and nothing else that could be the answer.
    let single = r#"[{"id":1,"image":"s3://b/a.jpg","choice":"cat","annotator":1}]"#;
    let single = plain(single);
    assert_eq!(said(&single), ["a: +cat"]);
    assert!(single.notes[0].contains("`choice`"), "{:?}", single.notes);
    let none = refusal(r#"[{"id": 1, "image": "s3://b/a.jpg", "annotator": 1}]"#);
    assert!(none.contains("task 1") && none.contains("JSON"), "{none}");
}

#[test]
fn csv_and_tsv_exports_are_read() {
    let csv = "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n\
        1,a@x.org,\"{\"\"choices\"\": [\"\"cat\"\", \"\"dog\"\"]}\",2024-01-01T00:00:00Z,1,\
        s3://b/a.jpg,3.1,2024-01-01T00:00:00Z\n";
    let imported = plain(csv);
    assert_eq!(said(&imported), ["a: +cat +dog"]);
    assert_eq!(imported.events[0].annotator, "a@x.org");
    let tsv = "annotation_id\tannotator\tchoice\tid\timage\n1\t1\tcat\t1\ts3://b/a.jpg\n";
    assert_eq!(said(&plain(tsv)), ["a: +cat"]);
    let other = refusal("image,label\na,b\n");
    assert!(
        other.contains("line 1") && other.contains("JSON_MIN"),
        "{other}"
    );
}

/// A notice of one annotation at the control `cat`, answered by `choice`; what the project's
/// controls offer is `offered`.
fn told(choice: &str, offered: &str, options: &ImportOptions) -> Option<LabelEvent> {
    let body = format!(
        r#"{{"action": "ANNOTATION_CREATED", "project": {{"id": 1, "created_at": "2026",
        "parsed_label_config": {{"cat": {{"type": "Choices", "labels": {offered}}}}}}},
        "task": {{"id": 7, "data": {{"image": "s3://b/a.jpg"}}}},
        "annotation": {{"id": 3, "task": 7, "completed_by": 4,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z",
        "result": [{{"from_name": "cat", "value": {{"choices": ["{choice}"]}}}}]}}}}"#
    );
    let Notice::Annotated(all) = notice(body.as_bytes(), options).unwrap() else {
        panic!("{body}");
    };
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (one.key.as_str(), one.time.to_rfc3339().as_str()),
        ("1 2026 3", "2026-01-02T00:00:00+00:00")
    );
    one.event.clone()
}

#[test]
fn a_notice_of_one_annotation_is_read_as_the_whole_export_would_be() {
    let plain = ImportOptions::default();
    let yes = told("Yes", r#"["Yes", "No", "Unsure"]"#, &plain).unwrap();
    assert_eq!(
        (&yes.present[..], &yes.absent[..]),
        (&["cat".to_owned()][..], &[][..])
    );
    assert_eq!((yes.image_id.as_str(), yes.annotator.as_str()), ("a", "4"));
    let no = told("No", r#"["Yes", "No", "Unsure"]"#, &plain).unwrap();
    assert_eq!(
        (no.present.len(), &no.absent[..]),
        (0, &["cat".to_owned()][..])
    );
    // By itself the answer would be a category.
    assert_eq!(told("Unsure", r#"["Yes", "No", "Unsure"]"#, &plain), None);
    let tabby = told("tabby", r#"["tabby", "tuxedo"]"#, &plain).unwrap();
    assert_eq!(
        (&tabby.present[..], tabby.absent.len()),
        (&["tabby".to_owned()][..], 0)
    );
    let exhaustive = ImportOptions {
        exhaustive: true,
        ..ImportOptions::default()
    };
    let tabby = told("tabby", r#"["tabby", "tuxedo"]"#, &exhaustive).unwrap();
    assert_eq!(tabby.absent, ["tuxedo"]);
}

#[test]
fn notices_tell_of_several_annotations_or_of_none() {
    let options = ImportOptions::default();
    let several = r#"{"action": "ANNOTATIONS_CREATED", "project": {"id": 1, "created_at": "t"},
        "task": [{"id": 1, "data": {"image": "a.jpg"}}, {"id": 2, "data": {"image": "b.jpg"}}],
        "annotation": [
          {"id": 8, "task": 2, "result": [{"from_name": "x", "value": {"choices": ["cat"]}}]},
          {"id": 9, "task": 1, "was_cancelled": true}]}"#;
    let Notice::Annotated(all) = notice(several.as_bytes(), &options).unwrap() else {
        panic!("{several}");
    };
    let pictures: Vec<Option<&str>> = all
        .iter()
        .map(|one| one.event.as_ref().map(|event| event.image_id.as_str()))
        .collect();
    assert_eq!(pictures, [Some("b"), None]);
    let elsewhere = several.replace("\"task\": 2", "\"task\": 5");
    let refused = notice(elsewhere.as_bytes(), &options)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("annotation number 1"), "{refused}");
    let gone = r#"{"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 8}, {"id": 9}],
        "project": {"id": 1, "created_at": "t"}}"#;
    let keys = ["1 t 8", "1 t 9"].map(String::from);
    assert_eq!(
        notice(gone.as_bytes(), &options).unwrap(),
        Notice::Deleted(keys.into())
    );
    let tasks = r#"{"action": "TASKS_DELETED", "tasks": [{"id": 8}]}"#;
    let other = Notice::Other("TASKS_DELETED".into());
    assert_eq!(notice(tasks.as_bytes(), &options).unwrap(), other);
}

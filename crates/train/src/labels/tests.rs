mod coco;
mod label_studio;
mod objects;
mod tables;

use super::*;
use tagstream_core::events::LabelState;
use tagstream_core::events::LabelState::{Absent, Present};

/// What an import says, and nothing else that could be told of it.
fn read(form: Form, text: &str, options: &ImportOptions) -> Imported {
    import(form, text.as_bytes(), options).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(form: Form, text: &str, options: &ImportOptions) -> String {
    match import(form, text.as_bytes(), options) {
        Ok(imported) => panic!("{text}: {imported:?}"),
        Err(error) => error.to_string(),
    }
}

/// `image: +present -absent` a picture, in order.
fn said(imported: &Imported) -> Vec<String> {
    let mut said: BTreeMap<String, [String; 2]> = BTreeMap::new();
    for (image, category, state) in known(&imported.events) {
        let [present, absent] = said.entry(image).or_default();
        match state {
            Present => *present += &format!(" +{category}"),
            Absent => *absent += &format!(" -{category}"),
        }
    }
    let lines = said.into_iter();
    lines
        .map(|(image, [present, absent])| format!("{image}:{present}{absent}"))
        .collect()
}

fn known(events: &[LabelEvent]) -> Vec<(String, String, LabelState)> {
    let table = LabelTable::of_events(events);
    let own = |(i, c, s): (&str, &str, LabelState)| (i.to_owned(), c.to_owned(), s);
    table.known().map(own).collect()
}

fn triples(list: &[(&str, &str, LabelState)]) -> Vec<(String, String, LabelState)> {
    list.iter()
        .map(|(i, c, s)| (i.to_string(), c.to_string(), *s))
        .collect()
}

const LABEL_STUDIO: &str = r#"[
 {"id": 7, "data": {"image": "s3://b/photos/im7.jpg"},
  "annotations": [
    {"completed_by": {"id": 3, "email": "a@x.org"}, "was_cancelled": false,
     "created_at": "2026-01-01T00:00:00Z",
     "result": [{"type":"choices","from_name":"tags","to_name":"image",
                 "value":{"choices":["cat","dog"]}},
                {"type":"rectanglelabels","from_name":"box","to_name":"image",
                 "value":{"x":1,"y":1,"width":5,"height":5,"rectanglelabels":["car"]}},
                {"type":"choices","from_name":"not","to_name":"image",
                 "value":{"choices":["bird"]}}]},
    {"completed_by": 4, "was_cancelled": true,
     "result": [{"from_name":"tags","value":{"choices":["boat"]}}]},
    {"completed_by": 4, "ground_truth": true,
     "result": [{"from_name":"tags","value":{"choices":["tree"]}}]}],
  "predictions": [{"score": 0.9,
                   "result": [{"from_name":"tags","value":{"choices":["house"]}}]}]}]"#;

#[test]
fn label_studio_takes_checked_choices_only() {
    let options = ImportOptions {
        absent_control: Some("not".into()),
        ..ImportOptions::default()
    };
    let imported = import(Form::LabelStudio, LABEL_STUDIO.as_bytes(), &options).unwrap();
    assert_eq!(
        known(&imported.events),
        triples(&[
            ("photos/im7", "bird", Absent),
            ("photos/im7", "car", Present),
            ("photos/im7", "cat", Present),
            ("photos/im7", "dog", Present),
        ])
    );
    assert_eq!(imported.events[0].annotator, "a@x.org");
    assert_eq!(imported.events[0].uri, "s3://b/photos/im7.jpg");
    assert_eq!(
        imported.left_out.values().sum::<u64>(),
        3,
        "{:?}",
        imported.left_out
    );
}

#[test]
fn open_images_takes_verified_labels_only() {
    let file = "ImageID,Source,LabelName,Confidence\n\
                a,verification,/m/01,1\na,verification,/m/02,0\n\
                a,machine,/m/03,0.7\nb,crowd,/m/01,0\n";
    let options = ImportOptions {
        class_names: BTreeMap::from([("/m/01".to_string(), "cat".to_string())]),
        uri_prefix: "s3://open/".into(),
        ..ImportOptions::default()
    };
    let imported = import(Form::OpenImages, file.as_bytes(), &options).unwrap();
    assert_eq!(
        known(&imported.events),
        triples(&[
            ("a", "/m/02", Absent),
            ("a", "cat", Present),
            ("b", "cat", Absent)
        ])
    );
    assert_eq!(imported.events[0].uri, "s3://open/a.jpg");
    assert_eq!(imported.left_out.values().sum::<u64>(), 1);
}

const COCO: &str = r#"{"images":[{"id":1,"file_name":"x/000001.jpg","neg_category_ids":[3]},
  {"id":2,"file_name":"000002.jpg","coco_url":"http://h/000002.jpg",
   "not_exhaustive_category_ids":[2]},
  {"id":3,"file_name":"000003.jpg"}],
 "annotations":[{"id":1,"image_id":1,"category_id":1,"bbox":[0,0,1,1]},
  {"image_id":1,"category_id":1},{"id":3,"image_id":2,"category_id":1}],
 "categories":[{"id":1,"name":"cat"},{"id":2,"name":"dog"},{"id":3,"name":"bird"}]}"#;

#[test]
fn coco_makes_absences_only_of_what_was_verified() {
    let plain = import(Form::Coco, COCO.as_bytes(), &ImportOptions::default()).unwrap();
    assert_eq!(
        known(&plain.events),
        triples(&[
            ("000002", "cat", Present),
            ("x/000001", "bird", Absent),
            ("x/000001", "cat", Present),
        ])
    );
    assert_eq!(plain.events[1].uri, "http://h/000002.jpg");
    assert_eq!(plain.events[0].uri, "", "a name alone is no address");
    let options = ImportOptions {
        exhaustive: true,
        ..ImportOptions::default()
    };
    let full = known(
        &import(Form::Coco, COCO.as_bytes(), &options)
            .unwrap()
            .events,
    );
    assert_eq!(full.len(), 3 + 2 + 3);
    assert!(!full.iter().any(|(i, c, _)| i == "000002" && c == "dog"));
}

#[test]
fn csv_keeps_order_annotators_and_times() {
    let file = "label,image_id,state,annotator,event_time\n\
        cat,a,present,x,2026-01-02T00:00:00Z\n\
        cat,a,absent,y,2026-01-01T00:00:00Z\n\
        dog,a,present,,\n\
        dog,a,retract,,\n\
        owl,a,unknown,,\n";
    let imported = import(Form::Csv, file.as_bytes(), &ImportOptions::default()).unwrap();
    assert_eq!(known(&imported.events), triples(&[("a", "cat", Present)]));
    assert_eq!(imported.left_out.values().sum::<u64>(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let fails = |form, text: &str| {
        import(form, text.as_bytes(), &ImportOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert!(fails(Form::Csv, "image_id,label\na,b\n").contains("`state`"));
    assert!(fails(Form::Csv, "image_id,label,state\na,b,yes\n").contains("line 2"));
    assert!(fails(Form::Events, "{\"image_id\":\"a\"}\n{").contains("line 2"));
    assert!(fails(Form::Coco, "[]").contains("COCO"));
    assert!(fails(Form::LabelStudio, r#"[{"id":3,"data":{}}]"#).contains("task 3"));
    let unlisted = COCO.replace("\"category_id\":1}", "\"category_id\":9}");
    assert!(fails(Form::Coco, &unlisted).contains("category 9"));
    assert!(fails(Form::OpenImages, "ImageID,LabelName\na,b\n").contains("Confidence"));
}

#[test]
fn what_is_written_is_read_again() {
    let event = |image: &str, present: &[&str], absent: &[&str], who: &str| LabelEvent {
        image_id: image.into(),
        uri: format!("s3://b/{image}.png"),
        present: present.iter().map(|c| c.to_string()).collect(),
        absent: absent.iter().map(|c| c.to_string()).collect(),
        retract: Vec::new(),
        annotator: who.into(),
        event_time: Some("2026-01-01T00:00:00Z".parse().unwrap()),
    };
    let table = LabelTable::of_events(&[
        event("a", &["cat", "big, dog"], &["owl"], "x"),
        event("a", &[], &["cow"], "y"),
        event("b", &[], &["cat"], "x"),
    ]);
    for (name, form) in Form::ALL.into_iter().filter(|(_, form)| form.is_written()) {
        let mut bytes = Vec::new();
        export(form, &table, &mut bytes).unwrap();
        let imported = import(form, bytes.as_slice(), &ImportOptions::default()).unwrap();
        let again = LabelTable::of_events(&imported.events);
        assert_eq!(again.hash(), table.hash(), "{name}");
        assert!(again.known().eq(table.known()), "{name}");
    }
}

#[test]
fn the_hash_depends_on_what_is_known_and_on_nothing_else() {
    let stamp = |offset| Stamp {
        offset,
        ..Stamp::default()
    };
    let event = |present: &[&str], retract: &[&str], who: &str| LabelEvent {
        image_id: "a".into(),
        uri: String::new(),
        present: present.iter().map(|c| c.to_string()).collect(),
        absent: Vec::new(),
        retract: retract.iter().map(|c| c.to_string()).collect(),
        annotator: who.into(),
        event_time: None,
    };
    let events = [
        (event(&["cat"], &[], "x"), stamp(0)),
        (event(&["dog"], &[], "x"), stamp(1)),
        (event(&[], &["cat"], "y"), stamp(2)),
    ];
    let table = |order: &[usize]| {
        let mut table = LabelTable::default();
        for &i in order {
            table.apply(&events[i].0, &events[i].1);
        }
        table
    };
    let reference = table(&[0, 1, 2]).hash();
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(table(&order).hash(), reference);
    }
    let only_dog = LabelTable::of_events(&[event(&["dog"], &[], "someone else")]);
    assert_eq!(only_dog.hash(), reference);
    assert_ne!(
        LabelTable::of_events(&[event(&["cat"], &[], "x")]).hash(),
        reference
    );
    let counts = table(&[0, 1, 2]).counts();
    assert_eq!(counts.len(), 1);
    assert_eq!(counts["dog"].present, 1);
}

#[test]
fn a_file_in_another_form_is_not_quoted_whole() {
    let file = format!("{{\"images\":[{}]}}\n", "{\"id\":1},".repeat(10_000));
    let error = import(Form::Csv, file.as_bytes(), &ImportOptions::default()).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("no column `image_id`") && said.len() < 400,
        "{said}"
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_any_form() {
    let (options, none) = (ImportOptions::default(), LabelEvent::about("a", ""));
    let event = LabelEvent {
        present: vec!["cat".into()],
        ..none
    };
    let table = LabelTable::of_events(&[event]);
    for (name, form) in Form::ALL.into_iter().filter(|(_, form)| form.is_written()) {
        let mut bytes = "\u{feff}".as_bytes().to_vec();
        export(form, &table, &mut bytes).unwrap();
        let imported = import(form, bytes.as_slice(), &options);
        let imported = imported.unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = LabelTable::of_events(&imported.events);
        assert_eq!(again.hash(), table.hash(), "{name}");
    }
}

#[test]
fn kept_states_keep_every_name_as_it_is() {
    let event = LabelEvent {
        present: vec![" cat".into(), "a;b".into()],
        absent: vec!["\"dog\", big".into()],
        ..LabelEvent::about("x ", "")
    };
    let table = LabelTable::of_events(&[event]);
    let mut bytes = Vec::new();
    write_states(table.known(), &mut bytes).unwrap();
    let again = read_states(bytes.as_slice()).unwrap();
    assert!(again.known().eq(table.known()));
    assert_eq!(again.state("x ", " cat"), Some(Present));
    assert_eq!(again.state("x ", "cat"), None);
}

#[test]
fn no_cell_of_an_export_is_computed_and_every_name_comes_back() {
    let mut event = LabelEvent::about("=IMAGE(1)", "+uri");
    event.annotator = "@who".into();
    event.present = ["=HYPERLINK(1)", "-cat", "'=dog", "o'clock", "\r=x"]
        .map(String::from)
        .into();
    event.absent = vec!["\t=1".into()];
    for form in [Form::Csv, Form::OpenImages] {
        let mut file = Vec::new();
        export(form, &LabelTable::of_events(&[event.clone()]), &mut file).unwrap();
        let mut reader = csv::Reader::from_reader(&*file);
        for cell in reader
            .records()
            .flat_map(|r| r.unwrap().iter().map(String::from).collect::<Vec<_>>())
        {
            assert!(
                !cell.starts_with(['=', '+', '-', '@', '\t', '\r']),
                "{cell:?}"
            );
        }
        let back = import(form, &*file, &ImportOptions::default()).unwrap();
        assert_eq!(known(&back.events), known(&[event.clone()]), "{form:?}");
    }
}

/// It would win over every later label.
#[test]
fn a_label_from_the_future_is_refused_in_every_form_that_has_times() {
    let ahead = (Utc::now() + chrono::TimeDelta::days(2)).to_rfc3339();
    let csv = format!("image_id,label,state,event_time\na,cat,present,{ahead}\n");
    let events = format!("{{\"image_id\":\"a\",\"event_time\":\"{ahead}\"}}\n");
    let studio = LABEL_STUDIO.replace("2026-01-01T00:00:00Z", &ahead);
    for (form, text) in [
        (Form::Csv, csv),
        (Form::Events, events),
        (Form::LabelStudio, studio),
    ] {
        let refused = import(form, text.as_bytes(), &ImportOptions::default()).unwrap_err();
        assert!(
            refused.to_string().contains("more than a day ahead"),
            "{refused}"
        );
    }
}

//! Tables as people and spreadsheets write them.

use super::*;

fn plain(text: &str) -> Imported {
    read(Form::Csv, text, &ImportOptions::default())
}

#[test]
fn states_and_columns_may_be_written_otherwise() {
    for text in [
        "image_id,label,state\na,cat,1\na,dog,0\n",
        "image_id,label,state\na,cat,True\na,dog,FALSE\n",
        "Image_ID,Label,State\na,cat,Present\na,dog,ABSENT\n",
        "image_id;label;state\na;cat;present\na;dog;absent\n",
        "image_id\tlabel\tstate\na\tcat\tpresent\na\tdog\t0.0\n",
        "sep=;\nimage_id;label;state\na;cat;present\na;dog;absent\n",
    ] {
        let imported = plain(text);
        assert_eq!(said(&imported), ["a: +cat -dog"], "{text}");
        let matrix = LabelMatrix::parse(text.as_bytes(), None).unwrap();
        assert_eq!(matrix.flat(), [1, -1], "{text}");
    }
}

#[test]
fn a_column_that_is_there_twice_is_refused_by_its_name() {
    let text = "image_id,label,label,state\na,cat,dog,present\n";
    let error = refused(Form::Csv, text, &ImportOptions::default());
    assert!(
        error.contains("line 1") && error.contains("`label` is there more"),
        "{error}"
    );
    // One that nothing is read from may be.
    let imported = plain("image_id,label,state,note,note\na,cat,present,x,y\n");
    assert_eq!(said(&imported), ["a: +cat"]);
}

#[test]
fn columns_are_told() {
    let options = ImportOptions {
        id_column: Some("picture".into()),
        label_column: Some("tags".into()),
        label_separator: Some(" ".into()),
        ..ImportOptions::default()
    };
    let imported = read(
        Form::Csv,
        "tags,picture\ncat dog,x/a.jpg\nowl,b.jpg\n",
        &options,
    );
    assert_eq!(said(&imported), ["b: +owl", "x/a: +cat +dog"]);
    assert!(
        imported.notes[0].contains("every row is a presence"),
        "{:?}",
        imported.notes
    );
    let with_state = "tags;picture;state\ncat;x/a.jpg;0\n";
    assert_eq!(said(&read(Form::Csv, with_state, &options)), ["x/a: -cat"]);
    let missing = refused(Form::Csv, "image,label\na,b\n", &options);
    assert!(
        missing.contains("`picture`") && missing.contains("--id-column"),
        "{missing}"
    );
    assert!(missing.contains("image, label"), "{missing}");
    let told = refused(
        Form::Csv,
        "image_id,label\na,b\n",
        &ImportOptions::default(),
    );
    assert!(
        told.contains("`state`") && told.contains("--label-column"),
        "{told}"
    );
}

#[test]
fn a_column_may_be_a_category() {
    let imported = plain("filename, cat, dog\na.jpg, 1, 0\nx/b.jpg, , true\n");
    assert_eq!(said(&imported), ["a: +cat -dog", "x/b: +dog"]);
    assert!(
        imported.notes[0].contains("a column a category"),
        "{:?}",
        imported.notes
    );
    let wrong = refused(
        Form::Csv,
        "filename,cat,width\na.jpg,1,640\n",
        &ImportOptions::default(),
    );
    assert!(
        wrong.contains("line 2") && wrong.contains("`width`"),
        "{wrong}"
    );
    // -1 is "uncertain" to some and "absent" to others.
    let unsure = refused(
        Form::Csv,
        "filename,cat\na.jpg,-1\n",
        &ImportOptions::default(),
    );
    assert!(
        unsure.contains("line 2") && unsure.contains("`cat`"),
        "{unsure}"
    );
    let twice = refused(
        Form::Csv,
        "filename,cat,cat\na.jpg,1,0\n",
        &ImportOptions::default(),
    );
    assert!(twice.contains("two columns `cat`"), "{twice}");
    let short = refused(
        Form::Csv,
        "image_id,label,state\na,cat,1\nb,cat\n",
        &ImportOptions::default(),
    );
    assert!(short.contains("line 3: it has 2 fields"), "{short}");
    let latin = b"image_id,label,state\na,K\xe4se,present\n";
    let error = import(Form::Csv, &latin[..], &ImportOptions::default());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("line 2: field 2 is not UTF-8"), "{error}");
}

#[test]
fn names_of_files_are_named_and_ids_are_taken_as_they_are() {
    let text = "image_id,label,state\nx/a.jpg,cat,1\n";
    assert_eq!(said(&plain(text)), ["x/a.jpg: +cat"]);
    let options = ImportOptions {
        id: Some(IdRule::Path),
        ..ImportOptions::default()
    };
    assert_eq!(said(&read(Form::Csv, text, &options)), ["x/a: +cat"]);
    let files = "filename,label,state\nx/a.jpg,cat,1\ny/a.jpg,cat,0\n";
    assert_eq!(said(&plain(files)), ["x/a: +cat", "y/a: -cat"]);
}

#[test]
fn what_an_upload_was_given_is_taken_off_when_told() {
    let text = "filename,label,state\nx/3f2a9c1b-a.jpg,cat,1\n";
    assert_eq!(said(&plain(text)), ["x/3f2a9c1b-a: +cat"]);
    let options = ImportOptions {
        uploaded: true,
        ..ImportOptions::default()
    };
    assert_eq!(said(&read(Form::Csv, text, &options)), ["x/a: +cat"]);
}

#[test]
fn open_images_go_by_their_source() {
    let text = "ImageID,Source,LabelName,Confidence\n\
        a,verification,/m/01,1\na,machine,/m/02,1\na,machine,/m/03,0.7\n\
        a,xclick,/m/04,1\na,xclick,/m/04,1\nb,crowdsource-verification,/m/01,0\n";
    let imported = read(Form::OpenImages, text, &ImportOptions::default());
    assert_eq!(said(&imported), ["a: +/m/01 +/m/04", "b: -/m/01"]);
    let clicked: Vec<_> = imported
        .events
        .iter()
        .filter(|e| e.annotator == "xclick")
        .collect();
    assert_eq!(clicked[0].present, ["/m/04"], "one for several boxes");
    assert_eq!(imported.left_out.values().sum::<u64>(), 2);
    let bad = "ImageID,LabelName,Confidence\na,b,1\na,c,7\n";
    let bad = refused(Form::OpenImages, bad, &ImportOptions::default());
    assert!(
        bad.contains("line 3") && bad.contains("`Confidence`"),
        "{bad}"
    );
}

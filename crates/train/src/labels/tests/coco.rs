//! COCO's form as other tools write it.

use super::*;

fn file(images: &str, annotations: &str, categories: &str) -> String {
    format!(r#"{{"images":[{images}],"annotations":[{annotations}],"categories":[{categories}]}}"#)
}

const CATS: &str = r#"{"id":1,"name":"cat","supercategory":""},{"id":90,"name":"dog"}"#;

fn exhaustive() -> ImportOptions {
    ImportOptions {
        exhaustive: true,
        ..ImportOptions::default()
    }
}

fn plain(text: &str) -> Imported {
    read(Form::Coco, text, &ImportOptions::default())
}

#[test]
fn two_images_stay_two() {
    let both = |one: &str, other: &str| {
        let images = format!(r#"{{"id":1,"file_name":"{one}"}},{{"id":2,"file_name":"{other}"}}"#);
        let annotations = r#"{"image_id":1,"category_id":1},{"image_id":2,"category_id":90}"#;
        plain(&file(&images, annotations, CATS))
    };
    let folders = both("video_a/frame_0001.jpg", "video_b/frame_0001.jpg");
    assert_eq!(
        said(&folders),
        ["video_a/frame_0001: +cat", "video_b/frame_0001: +dog"]
    );
    let extensions = both("a.jpg", "a.png");
    assert_eq!(said(&extensions), ["a.jpg: +cat", "a.png: +dog"]);
    assert!(
        extensions.notes[0].contains("2 pictures"),
        "{:?}",
        extensions.notes
    );
    // The same picture twice is one, with all that is said of it.
    assert_eq!(said(&both("a.jpg", "a.jpg")), ["a: +cat +dog"]);
}

#[test]
fn ids_may_be_text_or_decimal_and_annotations_need_none() {
    for (image, annotation) in [
        (r#""000001""#, r#"{"image_id":"000001","category_id":1}"#),
        ("1", r#"{"id":"x","image_id":1.0,"category_id":"1"}"#),
        (r#""1""#, r#"{"id":null,"image_id":1,"category_id":1.0}"#),
    ] {
        let images = format!(r#"{{"id":{image},"file_name":"a.jpg"}}"#);
        let text = format!("\u{feff}{}", file(&images, annotation, CATS));
        assert_eq!(said(&plain(&text)), ["a: +cat"], "{annotation}");
    }
    // `1` and `001` are two.
    let images = r#"{"id":"1","file_name":"a.jpg"},{"id":"001","file_name":"b.jpg"}"#;
    let both = plain(&file(images, r#"{"image_id":"001","category_id":1}"#, CATS));
    assert_eq!(said(&both), ["b: +cat"]);
}

#[test]
fn lvis_has_addresses_for_names() {
    let images = r#"{"id":1,"coco_url":"http://images.cocodataset.org/train2017/000000391895.jpg",
        "neg_category_ids":[90],"not_exhaustive_category_ids":null,"flickr_url":null}"#;
    let imported = plain(&file(
        images,
        r#"{"id":1,"image_id":1,"category_id":1}"#,
        CATS,
    ));
    assert_eq!(said(&imported), ["train2017/000000391895: +cat -dog"]);
    let url = "http://images.cocodataset.org/train2017/000000391895.jpg";
    assert_eq!(imported.events[0].uri, url);
    let options = ImportOptions {
        root: "http://images.cocodataset.org/train2017".into(),
        ..ImportOptions::default()
    };
    let text = file(images, r#"{"id":1,"image_id":1,"category_id":1}"#, CATS);
    assert_eq!(
        said(&read(Form::Coco, &text, &options)),
        ["000000391895: +cat -dog"]
    );
}

#[test]
fn categories_of_one_name_are_one() {
    let images = r#"{"id":1,"file_name":"a.jpg"},{"id":2,"file_name":"b.jpg"}"#;
    let categories = r#"{"id":1,"name":"cat"},{"id":2,"name":"cat"},{"id":3,"name":"dog"}"#;
    let text = file(images, r#"{"image_id":1,"category_id":1}"#, categories);
    let imported = read(Form::Coco, &text, &exhaustive());
    assert_eq!(said(&imported), ["a: +cat -dog", "b: -cat -dog"]);
}

#[test]
fn what_only_groups_others_is_not_absent() {
    let images = r#"{"id":1,"file_name":"a.jpg"},{"id":2,"file_name":"b.jpg"}"#;
    // Roboflow's root, and a group that is annotated by itself, too.
    let categories = r#"{"id":0,"name":"animals","supercategory":"none"},
        {"id":1,"name":"cat","supercategory":"animals"},
        {"id":2,"name":"vehicle","supercategory":"vehicle"},
        {"id":3,"name":"car","supercategory":"vehicle"}"#;
    let annotations = r#"{"image_id":1,"category_id":3},{"image_id":2,"category_id":2}"#;
    let imported = read(
        Form::Coco,
        &file(images, annotations, categories),
        &exhaustive(),
    );
    assert_eq!(said(&imported), ["a: +car -cat", "b: +vehicle -car -cat"]);
    assert_eq!(
        imported.left_out.values().sum::<u64>(),
        3,
        "{:?}",
        imported.left_out
    );
}

#[test]
fn label_studio_s_own_prefix_is_taken_off() {
    let images = r#"{"id":0,"file_name":"images\\3f2a9c1b-cat01.jpg"}"#;
    let text = file(images, r#"{"image_id":0,"category_id":1}"#, CATS);
    let text = text.replacen('{', r#"{"info":{"contributor":"Label Studio"},"#, 1);
    assert_eq!(said(&plain(&text)), ["cat01: +cat"]);
    // As it writes a file that it has not fetched.
    let stored = text.replace(r"images\\3f2a9c1b", "/data/upload/1/3f2a9c1b");
    assert!(stored.contains("/data/upload/1/"), "{stored}");
    assert_eq!(said(&plain(&stored)), ["cat01: +cat"]);
}

#[test]
fn what_is_wrong_is_named_by_item_and_key() {
    let fails = |text: &str| refused(Form::Coco, text, &ImportOptions::default());
    let image = r#"{"id":1,"file_name":"a.jpg"}"#;
    for (text, said) in [
        (
            r#"{"images":[],"annotations":[]}"#.to_owned(),
            vec!["`categories`", "missing"],
        ),
        (
            r#"[{"image_id":1,"category_id":1,"score":0.5}]"#.into(),
            vec!["line 1", "list", "COCO"],
        ),
        (
            file(image, r#"{"id":4,"image_id":1,"caption":"x"}"#, CATS),
            vec!["annotation 4", "`category_id`"],
        ),
        (
            file(image, r#"{"id":4,"category_id":1}"#, CATS),
            vec!["annotation 4", "`image_id`"],
        ),
        (
            file(r#"{"id":1}"#, r#"{"image_id":1,"category_id":1}"#, CATS),
            vec!["image 1", "`file_name`"],
        ),
        (
            file(image, "", r#"{"id":1,"name":null}"#),
            vec!["category 1", "`name`"],
        ),
        (
            file(image, "", r#"{"id":1,"name":"a"},{"id":1,"name":"b"}"#),
            vec!["category 1", "\"b\""],
        ),
        (
            file(
                &format!(r#"{image},{{"id":1,"file_name":"b.jpg"}}"#),
                "",
                CATS,
            ),
            vec!["image 1", "two entries"],
        ),
        (
            file(image, r#"{"image_id":1.5,"category_id":1}"#, CATS),
            vec!["line 1", "an id"],
        ),
    ] {
        let error = fails(&text);
        assert!(
            said.iter().all(|part| error.contains(part)),
            "{error}: {said:?}"
        );
    }
}

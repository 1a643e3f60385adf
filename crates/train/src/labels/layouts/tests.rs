//! Tiny folders in exactly the layouts in which the data sets are distributed.

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn check(
    layout: DatasetLayout,
    files: &[(&str, &str)],
    categories: &[&str],
    images: &[(&str, &str, &[i8])],
) -> tempfile::TempDir {
    let dir = folder(files);
    let set = read(layout, dir.path()).unwrap();
    assert_eq!(set.labels.categories(), categories);
    let found: Vec<(&str, &str, &[i8])> = set
        .labels
        .images()
        .iter()
        .zip(&set.splits)
        .zip(set.labels.flat().chunks(categories.len()))
        .map(|((image, split), states)| (image.as_str(), *split, states))
        .collect();
    assert_eq!(found, images);
    dir
}

#[test]
fn coco() {
    let file = |images: &str, annotations: &str| {
        format!(
            r#"{{"info":{{}},"images":[{images}],"annotations":[{annotations}],
            "categories":[{{"id":3,"name":"car"}},
                          {{"id":1,"name":"person","supercategory":"person"}}]}}"#
        )
    };
    let train = file(
        r#"{"id":9,"file_name":"COCO_train2014_000000000009.jpg"},
           {"id":25,"file_name":"COCO_train2014_000000000025.jpg"}"#,
        r#"{"image_id":9,"category_id":3,"bbox":[0,0,1,1]},{"image_id":9,"category_id":3}"#,
    );
    let val = file(
        r#"{"id":42,"file_name":"COCO_val2014_000000000042.jpg"}"#,
        r#"{"image_id":42,"category_id":1}"#,
    );
    let files = [
        ("annotations/instances_train2014.json", train.as_str()),
        ("annotations/instances_val2014.json", val.as_str()),
    ];
    let rows: [(&str, &str, &[i8]); 3] = [
        ("COCO_train2014_000000000009", "train", &[-1, 1]),
        ("COCO_train2014_000000000025", "train", &[-1, -1]),
        ("COCO_val2014_000000000042", "val", &[1, -1]),
    ];
    check(DatasetLayout::Coco14, &files, &["person", "car"], &rows);
    // A split alone is read, and the other one named.
    let alone = [("annotations/instances_val2017.json", val.as_str())];
    let dir = check(
        DatasetLayout::Coco17,
        &alone,
        &["person", "car"],
        &rows[2..],
    );
    let set = read(DatasetLayout::Coco17, dir.path()).unwrap();
    assert_eq!(set.missing, ["train"]);
    assert!(set.only("train").is_none());
    assert_eq!(set.only("val").unwrap().labels, set.labels);
}

#[test]
fn a_split_alone_is_read_in_every_layout_that_has_files_for_each() {
    let dir = folder(&VOC[..2]);
    let set = read(DatasetLayout::Voc07, dir.path()).unwrap();
    assert_eq!(
        (set.labels.images().len(), &set.missing[..]),
        (3, &["test"][..])
    );
    let dir = folder(&[
        ("test_list_500.txt", "2.jpg\n"),
        ("vg_category_200_labels_index.json", r#"{"2.jpg": [0]}"#),
        ("categories.txt", "tree\n"),
    ]);
    let set = read(DatasetLayout::Vg200, dir.path()).unwrap();
    assert_eq!((set.splits, set.missing), (vec!["test"], vec!["train"]));
}

const VOC: [(&str, &str); 4] = [
    (
        "VOCdevkit/VOC2007/ImageSets/Main/bird_trainval.txt",
        "000005 -1\n000007  1\n000009  0\n",
    ),
    (
        "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_trainval.txt",
        "000005  1\n000007 -1\n000009 -1\n",
    ),
    (
        "VOCdevkit/VOC2007/ImageSets/Main/bird_test.txt",
        "000001 -1\n",
    ),
    (
        "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_test.txt",
        "000001  1\n",
    ),
];

#[test]
fn voc_counts_difficult_as_absent() {
    let rows: [(&str, &str, &[i8]); 4] = [
        ("000005", "trainval", &[1, -1]),
        ("000007", "trainval", &[-1, 1]),
        ("000009", "trainval", &[-1, -1]),
        ("000001", "test", &[1, -1]),
    ];
    let dir = check(DatasetLayout::Voc07, &VOC, &["aeroplane", "bird"], &rows);
    fs::remove_file(dir.path().join(VOC[2].0)).unwrap();
    let error = read(DatasetLayout::Voc07, dir.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("bird_test.txt"), "{error}");
}

#[test]
fn visual_genome() {
    let files = [
        ("train_list_500.txt", "1.jpg\n3.jpg\n"),
        ("test_list_500.txt", "2.jpg\n"),
        (
            "vg_category_200_labels_index.json",
            r#"{"1.jpg": [1], "2.jpg": [0, 1], "3.jpg": [], "4.jpg": [0]}"#,
        ),
        ("categories.txt", "tree\nman\n"),
    ];
    let rows: [(&str, &str, &[i8]); 3] = [
        ("1", "train", &[-1, 1]),
        ("3", "train", &[-1, -1]),
        ("2", "test", &[1, 1]),
    ];
    check(DatasetLayout::Vg200, &files, &["tree", "man"], &rows);
}

#[test]
fn nus_wide() {
    let files = [
        ("Concepts81.txt", "airport\nanimal\n"),
        (
            "ImageList/TrainImagelist.txt",
            "actor\\0001_2124494179.jpg\r\nzoo\\0002_1.jpg\r\n",
        ),
        ("ImageList/TestImagelist.txt", "actor\\0003_3.jpg\n"),
        (
            "Groundtruth/TrainTestLabels/Labels_airport_Train.txt",
            "0\n1\n",
        ),
        (
            "Groundtruth/TrainTestLabels/Labels_animal_Train.txt",
            "1\n1\n",
        ),
        ("Groundtruth/TrainTestLabels/Labels_airport_Test.txt", "0\n"),
        ("Groundtruth/TrainTestLabels/Labels_animal_Test.txt", "0\n"),
    ];
    let rows: [(&str, &str, &[i8]); 3] = [
        ("actor/0001_2124494179", "train", &[-1, 1]),
        ("zoo/0002_1", "train", &[1, 1]),
        ("actor/0003_3", "test", &[-1, -1]),
    ];
    let dir = check(
        DatasetLayout::NusWide,
        &files,
        &["airport", "animal"],
        &rows,
    );
    fs::write(dir.path().join(files[6].0), "0\n1\n").unwrap();
    let error = read(DatasetLayout::NusWide, dir.path()).unwrap_err();
    assert!(matches!(error.error, LabelsError::Record { .. }), "{error}");
    assert!(error.path.ends_with(files[6].0), "{error}");
}

#[test]
fn cub() {
    let files = [
        (
            "images.txt",
            "1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg\n\
             2 002.Laysan/L_1.jpg\n",
        ),
        ("train_test_split.txt", "1 0\n2 1\n"),
        (
            "attributes/attributes.txt",
            "1 has_bill_shape::curved_(up_or_down)\n2 has_wing_color::blue\n",
        ),
        (
            "attributes/image_attribute_labels.txt",
            "1 1 0 3 27.7\n1 2 1 3 27.7\n2 1 0 1 0 5.2\n2 2 0 3 1.0\n",
        ),
    ];
    let rows: [(&str, &str, &[i8]); 2] = [
        (
            "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18",
            "test",
            &[-1, 1],
        ),
        ("002.Laysan/L_1", "train", &[-1, -1]),
    ];
    let names = [
        "has_bill_shape::curved_(up_or_down)",
        "has_wing_color::blue",
    ];
    check(DatasetLayout::Cub, &files, &names, &rows);
}

#[test]
fn what_is_written_can_be_trained_on() {
    let dir = folder(&VOC);
    let set = read(DatasetLayout::Voc07, dir.path()).unwrap();
    let out = dir.path().join("out");
    set.write(&out).unwrap();
    let categories = super::super::read_categories(&out.join("categories.txt")).unwrap();
    assert_eq!(
        LabelMatrix::read(&out.join("labels.csv"), Some(&categories)).unwrap(),
        set.labels
    );
    let train = super::super::read_split(&out.join("splits.csv"), "trainval").unwrap();
    assert_eq!(train, ["000005", "000007", "000009"]);
}

#[test]
fn a_folder_of_something_else_is_named() {
    let dir = folder(&[("readme", "")]);
    for (name, layout) in DatasetLayout::ALL {
        assert_eq!(DatasetLayout::named(name), Some(layout));
        let error = read(layout, dir.path()).unwrap_err();
        assert!(matches!(error.error, LabelsError::Io(_)), "{name}: {error}");
    }
    assert_eq!(DatasetLayout::named("imagenet"), None);
}

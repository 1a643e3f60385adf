//! Categories as a user describes them: a table in, tags out; other words later; thresholds without
//! labels. With the demo model and the scenes that it knows.

use crate::program::Folder;
use serde_json::Value;
use std::path::Path;
use tagstream::demo::scenes::{Scene, Style};
use tagstream_model::bundle::Bundle;
use tagstream_model::categories::ThresholdSource;

/// Runs a command that must end as one that was called wrongly does; gives what it said.
fn refused(folder: &Folder, arguments: &[&str]) -> String {
    let (code, said) = folder.refused(arguments);
    assert_eq!(code, Some(2), "{arguments:?}: {said}");
    said
}

impl Folder {
    fn init(&self, file: &str, out: &str, more: &[&str]) -> Bundle {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
        let clip = clip.to_str().unwrap();
        let mut arguments = vec!["init", "--clip", clip, "--categories", file, "--out", out];
        arguments.extend(more);
        self.done(&arguments);
        Bundle::open(self.path(out)).unwrap()
    }

    /// Draws scenes into `pictures/`.
    fn draw(&self, count: u64) {
        std::fs::create_dir_all(self.path("pictures")).unwrap();
        for number in 0..count {
            let scene = Scene::draw(7, number, Style::Plain, 128);
            let path = self.path(&format!("pictures/{}.jpg", scene.image_id));
            std::fs::write(path, scene.jpeg().unwrap()).unwrap();
        }
    }

    /// The tags of each picture by a model: names with scores.
    fn tags(&self, model: &str) -> Vec<Vec<(String, f64)>> {
        let lines = self.done(&["tag", "--model", model, "--json", "pictures"]);
        let line = |line: &str| -> Vec<(String, f64)> {
            let line: Value = serde_json::from_str(line).unwrap();
            let tags = line["tags"].as_array().unwrap().iter();
            let tag = |tag: &Value| {
                let name = tag["category"].as_str().unwrap().to_owned();
                (name, tag["score"].as_f64().unwrap())
            };
            tags.map(tag).collect()
        };
        lines.lines().map(line).collect()
    }
}

#[test]
fn a_table_of_categories_decides_what_becomes_a_tag() {
    let folder = Folder::new();
    folder.draw(30);
    // Everything is found, so that only relations decide.
    let plain = "name,threshold\nhouse,0\ntree,0\nsun,0\nround sun,0\nflat sun,0\n狗,0\n";
    folder.write("plain.csv", plain);
    let names = |tags: &[(String, f64)]| -> Vec<String> {
        tags.iter().map(|(name, _)| name.clone()).collect()
    };
    folder.init("plain.csv", "plain", &[]);
    let before = folder.tags("plain");
    assert!(before.iter().all(|tags| tags.len() == 6), "{before:?}");

    folder.write(
        "words.csv",
        "name,words,parent,group,threshold,do_not_show,display\n\
         house,,thing,,0,,Haus\ntree,,thing,,0,,\nsun,,,sun,0,,\nround sun,,,sun,0,,\n\
         flat sun,,,sun,0,,\n狗,,,,0,yes,\nthing,,,,0,,物\n",
    );
    let bundle = folder.init("words.csv", "words", &[]);
    assert_eq!(bundle.manifest().format_version, 2);
    let after = folder.tags("words");
    for (before, after) in before.iter().zip(&after) {
        let score = |name: &str| before.iter().find(|(own, _)| own == name).unwrap().1;
        let suns = ["sun", "round sun", "flat sun"];
        // Tags are best first.
        let best = names(before)
            .into_iter()
            .find(|n| suns.contains(&n.as_str()))
            .unwrap();
        let kept = names(after);
        assert_eq!(kept.len(), 4, "{kept:?}");
        assert!(
            kept.contains(&best) && !kept.contains(&"狗".to_owned()),
            "{kept:?}"
        );
        let thing = after.iter().find(|(name, _)| name == "thing").unwrap().1;
        assert_eq!(thing, score("house").max(score("tree")));
    }
    // Programs read the name, people what they are shown.
    let lines = folder.done(&["tag", "--model", "words", "--json", "pictures"]);
    assert!(
        lines.contains(r#""category":"house","display":"Haus""#),
        "{lines}"
    );
    let text = folder.done(&["tag", "--model", "words", "--html", "page.html", "pictures"]);
    assert!(text.contains("  Haus ") && text.contains("  物 "), "{text}");
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    assert!(
        page.contains("Haus") && !page.contains("house"),
        "the page has names"
    );
}

#[test]
fn words_change_in_the_registry_without_training() {
    let folder = Folder::new();
    folder.write("old.txt", "house\ntree\n");
    let old = folder.init("old.txt", "old", &[]);
    assert_eq!(old.manifest().format_version, 1);
    folder.done(&["registry", "add", "--promote", "old"]);
    folder.write(
        "words.csv",
        "name,words,templates,group\nhouse,casa | hus:0.5,seven,g\nbird,,,g\n",
    );
    let said = folder.done(&[
        "registry",
        "set-words",
        "--categories",
        "words.csv",
        "--promote",
    ]);
    assert!(
        said.contains("version 2") && said.contains("3 categories"),
        "{said}"
    );
    let listing = folder.done(&["registry", "show", "--json"]);
    assert!(listing.contains("other words"), "{listing}");
    folder.write(
        "more.jsonl",
        "{\"name\": \"bridge\", \"parent\": \"house\"}\n",
    );
    let add = [
        "registry",
        "add-category",
        "--categories",
        "more.jsonl",
        "--promote",
    ];
    assert!(folder.done(&add).contains("4 categories"));
    // By one name, as ever.
    folder.done(&["registry", "add-category", "moon", "--words", "full moon"]);

    for (content, wanted) in [
        (
            "name,parent\nfox,animal\n",
            "line 2, column `parent`, `animal`",
        ),
        ("name,words\nhouse,a|a\n", "line 2, column `words`"),
        (
            "name,words,templates,group\nhouse,casa | hus:0.5,seven,g\n",
            "nothing to change",
        ),
    ] {
        folder.write("wrong.csv", content);
        let said = refused(
            &folder,
            &["registry", "set-words", "--categories", "wrong.csv"],
        );
        assert!(said.contains(wanted), "{said}");
    }
    folder.write("wrong.csv", "name\ntree\n");
    let said = refused(
        &folder,
        &["registry", "add-category", "--categories", "wrong.csv"],
    );
    assert!(
        said.contains("`tree` already") && said.contains("set-words"),
        "{said}"
    );
}

#[test]
fn thresholds_are_guessed_from_pictures_without_labels() {
    let folder = Folder::new();
    folder.draw(60);
    folder.write("names.csv", "name,threshold\nhouse,\ntree,0.7\nbird,\n");
    let guess = ["--pictures", "pictures", "--expected-share", "0.1"];
    let bundle = folder.init("names.csv", "guessed", &guess);
    let manifest = bundle.manifest();
    let from = |at: usize| manifest.categories[at].tags.threshold_from;
    assert_eq!(
        [from(0), from(1), from(2)],
        [
            ThresholdSource::Guess,
            ThresholdSource::Given,
            ThresholdSource::Guess
        ]
        .map(Some)
    );
    assert_eq!(
        (manifest.categories[1].threshold, manifest.parent.is_none()),
        (0.7, true)
    );
    // Of every category that was guessed a tenth of the pictures, or the upper hump.
    let tags = folder.tags("guessed");
    for name in ["house", "bird"] {
        let count = tags.iter().flatten().filter(|(own, _)| own == name).count();
        assert!((4..=30).contains(&count), "{name}: {count}");
    }
    // A category that comes later gets its own; the others keep theirs.
    folder.done(&["registry", "add", "--promote", "guessed"]);
    let add = ["registry", "add-category", "flower", "--promote"];
    folder.done(&[add.as_slice(), &guess].concat());
    let url = folder.path("registry");
    let tags = folder.tags(url.to_str().unwrap());
    let count = tags
        .iter()
        .flatten()
        .filter(|(own, _)| own == "flower")
        .count();
    assert!((4..=30).contains(&count), "flower: {count}");

    let left: Vec<_> = std::fs::read_dir(folder.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("unguessed"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    std::fs::create_dir(folder.path("few")).unwrap();
    let first = std::fs::read_dir(folder.path("pictures"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    std::fs::copy(first.path(), folder.path("few/one.jpg")).unwrap();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
    let clip = clip.to_str().unwrap();
    let init = [
        "init",
        "--clip",
        clip,
        "--categories",
        "names.csv",
        "--out",
        "few-model",
    ];
    for (more, wanted) in [
        (
            ["--pictures", "few", "--expected-share", "0.1"],
            "at least 20",
        ),
        (
            ["--pictures", "pictures", "--expected-share", "1.5"],
            "below 1",
        ),
    ] {
        let said = refused(&folder, &[init.as_slice(), &more].concat());
        assert!(said.contains(wanted), "{said}");
        assert!(!folder.path("few-model").exists());
    }
}

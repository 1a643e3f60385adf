//! Files of categories in every form, and what is refused.

use super::*;
use crate::bundle::Category;
use crate::text::{ClipTextEncoder, TextFiles};
use std::path::{Path, PathBuf};

/// A file of this name and content in a folder of its own.
fn written(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(name: &str, content: &str) -> Result<CategoryList, CategoryListError> {
    CategoryList::read(&written(name, content).1)
}

fn all(list: &CategoryList) -> Vec<Category> {
    list.iter().cloned().collect()
}

fn phrase(text: &str, weight: f32) -> Phrase {
    let text = text.to_owned();
    Phrase { text, weight }
}

fn text_encoder() -> ClipTextEncoder {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo-clip");
    let files = TextFiles {
        weights: clip.join("open_clip_model.safetensors"),
        config: clip.join("open_clip_config.json"),
        tokenizer: clip.join("tokenizer.json"),
    };
    ClipTextEncoder::open(&files).unwrap()
}

#[test]
fn names_alone_become_words() {
    let content = "\u{feff}cat\r\n\ntraffic_light\ntvmonitor\ttelevision | screen:2\n";
    let plain = |name, prompt| Category::named(name, prompt, 0.5);
    let expected = [
        plain("cat", "cat"),
        plain("traffic_light", "traffic light"),
        plain("tvmonitor", "television | screen:2"),
    ];
    // Whatever the file is called: an old list is no table.
    for name in ["names.txt", "names.csv", "names.tsv", "names"] {
        assert_eq!(all(&read(name, content).unwrap()), expected, "{name}");
    }
    // A list may have a category of that name, and names with commas.
    let list = read("names.txt", "name\nsalt, pepper\n").unwrap();
    assert_eq!(list.iter().nth(1).unwrap().name, "salt, pepper");
}

#[test]
fn a_table_has_a_column_for_each_thing_that_can_be_said() {
    let content = "\
name,words,templates,parent,group,language,negative words,threshold,do-not-show,display
animal,,,,,,,,,
dog,\"dog | puppy:0.5\",seven,animal,pets,en,toy dog | statue:0.25,0.3,,Hund
猫,猫|小猫,,animal,,zh-Hans,,,yes,cat
";
    let list = read("categories.csv", content).unwrap();
    let found = all(&list);
    assert!(found[0].tags.of_children && found[0].words.is_none());
    let dog = &found[1];
    assert_eq!((dog.prompt.as_str(), dog.threshold), ("dog", 0.3));
    let words = CategoryWords {
        phrases: vec![phrase("dog", 1.0), phrase("puppy", 0.5)],
        templates: Templates::Named(TemplateSet::Seven),
        negative: vec![phrase("toy dog", 0.5), phrase("statue", 0.25)],
        language: Some("en".into()),
    };
    assert_eq!(dog.words.as_ref(), Some(&words));
    let tags = TagForm {
        parent: Some("animal".into()),
        group: Some("pets".into()),
        display: Some("Hund".into()),
        threshold_from: Some(ThresholdSource::Given),
        ..TagForm::default()
    };
    assert_eq!(dog.tags, tags);
    // No English sentence stands around Chinese words.
    let cat = found[2].words.as_ref().unwrap();
    assert_eq!(cat.templates, Templates::Named(TemplateSet::None));
    assert_eq!(cat.phrases, [phrase("猫", 1.0), phrase("小猫", 1.0)]);
    assert!(found[2].tags.hidden && !found[2].tags.of_children);
    // The same in the other forms.
    for (name, separator) in [("categories.csv", ";"), ("categories.tsv", "\t")] {
        let other = content.replace("\"dog | puppy:0.5\"", "dog | puppy:0.5");
        let other = read(name, &other.replace(',', separator)).unwrap();
        assert_eq!(all(&other), found, "{name}");
    }
    let lines = r#"{"name": "animal"}
{"name": "dog", "words": ["dog", {"text": "puppy", "weight": 0.5}], "templates": "seven",
 "parent": "animal", "group": "pets", "language": "en", "threshold": 0.3, "display": "Hund",
 "negative": ["toy dog", {"text": "statue", "weight": 0.25}]}
{"name": "猫", "words": "猫|小猫", "parent": "animal", "language": "zh-Hans",
 "do_not_show": true, "display": "cat", "group": null}
"#;
    let list = read("categories.jsonl", &lines.replace("\n ", " ")).unwrap();
    assert_eq!(all(&list), found);
}

#[test]
fn what_is_wrong_is_named_with_line_column_value_and_remedy() {
    let header = "name,words,templates,parent,threshold,language,do_not_show\n";
    for (rows, wanted) in [
        (
            "cat,,,pet,,,\n",
            [
                "line 2",
                "`parent`, `pet`",
                "there is no category `pet`",
                "leave the cell empty",
            ],
        ),
        (
            "a,x,,b,,,\nb,x,,c,,,\nc,x,,a,,,\n",
            [
                "line 2",
                "`parent`, `b`",
                "a < b < c < a",
                "leave the cell empty",
            ],
        ),
        (
            "a,x,,a,,,\n",
            ["line 2", "`parent`, `a`", "go round: a < a", "leave"],
        ),
        (
            "cat,,,,,,\ndog,,,,,,\n\ncat,,,,,,\n",
            [
                "line 5",
                "`name`, `cat`",
                "already on line 2",
                "another name",
            ],
        ),
        (
            "cat,,eight,,,,\n",
            [
                "line 2",
                "`templates`, `eight`",
                "`none`, `one`, `seven`, `eighty`",
                "no file",
            ],
        ),
        (
            "cat,,,,1.5,,\n",
            ["line 2", "`threshold`, `1.5`", "from 0 to 1", "0.3"],
        ),
        (
            "cat,,,,,german,\n",
            ["line 2", "`language`, `german`", "BCP 47", "de"],
        ),
        (
            "cat,,,,,,maybe\n",
            ["line 2", "`do_not_show`, `maybe`", "yes or no", "empty"],
        ),
        (
            "cat,dog:0,,,,,\n",
            [
                "line 2",
                "`words`, `dog:0`",
                "weight of `dog` is 0",
                "above 0",
            ],
        ),
        (
            ",dog,,,,,\n",
            ["line 2", "`name`", "needs a name", "labels"],
        ),
        (
            "cat,dog,cat,,,,,,\n",
            ["line 2", "9 cells", "header 7", "quotes"],
        ),
    ] {
        let error = read("categories.csv", &format!("{header}{rows}")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("categories.csv"), "{error}");
        for part in wanted {
            assert!(error.contains(part), "{rows}: {error} lacks {part}");
        }
    }
    for (name, content, wanted) in [
        ("c.csv", "words,parent\ncat,dog\n", "no column `name`"),
        ("c.csv", "name,wrods\ncat,dog\n", "no column `wrods`"),
        ("c.csv", "name,words,words\n", "`words` is there twice"),
        ("c.csv", "name,words\n", "names no category"),
        ("c.txt", " \n\n", "names no category"),
        ("c.txt", "cat\ndog\t \n", "line 2"),
        ("c.txt", "cat\ndog\ncat\n", "already on line 1"),
        ("c.toml", "[[category]]\n", "this form is not read"),
        (
            "c.jsonl",
            "{\"name\": \"a\"}\n{\"name\": 3, \"words\": 4}\n",
            "line 2, column `words`",
        ),
        (
            "c.jsonl",
            "{\"name\": \"a\", \"colour\": \"b\"}\n",
            "no column `colour`",
        ),
        (
            "c.jsonl",
            "{\"name\": \"a\"}\nb\n",
            "line 2: no JSON object",
        ),
    ] {
        let error = read(name, content).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error} lacks {wanted}");
    }
    assert!(CategoryList::read(Path::new("/nowhere")).is_err());
    let (_folder, path) = written("latin1.csv", "");
    std::fs::write(&path, b"name,words\ncaf\xe9,coffee\n").unwrap();
    let error = CategoryList::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("line 2") && error.contains("UTF-8"),
        "{error}"
    );
}

#[test]
fn own_templates_lie_beside_the_file() {
    let (folder, path) = written("categories.csv", "name,templates\nHund,vorlagen.txt\n");
    std::fs::write(
        folder.path().join("vorlagen.txt"),
        "ein Foto von {}\nein {}\n",
    )
    .unwrap();
    let list = CategoryList::read(&path).unwrap();
    let words = list.iter().next().unwrap().words.clone().unwrap();
    assert_eq!(
        words.templates.around("Hund"),
        ["ein Foto von Hund", "ein Hund"]
    );
    std::fs::write(folder.path().join("vorlagen.txt"), "ein Foto\n").unwrap();
    let error = CategoryList::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("line 2, column `templates`, `vorlagen.txt`"),
        "{error}"
    );
    assert!(error.contains("line 1 has 0 places"), "{error}");
}

/// The definition, written out by hand in 64 bit.
fn expected(text: &ClipTextEncoder, parts: &[(&str, f64)]) -> Vec<f64> {
    let mut sum = vec![0.0; text.dim()];
    for (sentence, weight) in parts {
        let feature = text.embed(&[sentence], |_| ()).unwrap();
        let rows = sum.iter_mut().zip(feature);
        rows.for_each(|(sum, x)| *sum += weight * f64::from(x));
    }
    normalised(sum)
}

fn normalised(mut x: Vec<f64>) -> Vec<f64> {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter_mut().for_each(|x| *x /= norm);
    x
}

fn close(found: &[f32], expected: &[f64]) -> bool {
    let pairs = found.iter().zip(expected);
    found.len() == expected.len()
        && pairs
            .into_iter()
            .all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5)
}

#[test]
fn a_categorys_feature_is_the_normalised_mean_of_its_phrases() {
    let text = text_encoder();
    let mut plain = Category::named("cat", "cat", 0.5);
    let mut several = plain.clone();
    several.words = Some(CategoryWords {
        phrases: vec![phrase("cat", 1.0), phrase("小猫", 0.25)],
        templates: Templates::Own(vec!["a {}".into(), "two {} there".into()]),
        negative: Vec::new(),
        language: None,
    });
    let mut negative = several.clone();
    negative.words.as_mut().unwrap().negative = vec![phrase("dog", 0.5), phrase("car", 0.3)];
    let found = text_features(&[&plain, &several, &negative], &text, |_| ()).unwrap();
    let rows: Vec<&[f32]> = found.chunks_exact(text.dim()).collect();
    assert!(close(
        rows[0],
        &expected(&text, &[("a photo of a cat", 1.0)])
    ));
    let positive = expected(
        &text,
        &[
            ("a cat", 0.5),
            ("two cat there", 0.5),
            ("a 小猫", 0.125),
            ("two 小猫 there", 0.125),
        ],
    );
    assert!(close(rows[1], &positive));
    let taken = expected(
        &text,
        &[
            ("a dog", 0.25),
            ("two dog there", 0.25),
            ("a car", 0.15),
            ("two car there", 0.15),
        ],
    );
    let pairs = positive.iter().zip(&taken);
    let less = normalised(pairs.map(|(x, taken)| x - 0.4 * taken).collect());
    assert!(close(rows[2], &less));

    // Words that say the same as those that are taken away leave nothing.
    plain.words = Some(CategoryWords {
        negative: vec![phrase("cat", 1.0)],
        ..CategoryWords::plain("cat")
    });
    let error = text_features(&[&several, &plain], &text, |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("`cat`: the negative words"),
        "{error}"
    );
}

#[test]
fn many_categories_go_through_the_tower_in_parts() {
    let text = text_encoder();
    let categories: Vec<Category> = (0..70)
        .map(|i| {
            let mut category = Category::named("x", &format!("thing {i}"), 0.5);
            if i % 10 == 3 {
                category.words = Some(CategoryWords {
                    templates: Templates::Named(TemplateSet::Seven),
                    ..CategoryWords::plain(&category.prompt)
                });
            }
            category
        })
        .collect();
    let all: Vec<&Category> = categories.iter().collect();
    let mut heard = Vec::new();
    let found = text_features(&all, &text, |done| heard.push(done)).unwrap();
    assert_eq!((heard.len(), heard.last()), (2, Some(&70)));
    for (i, row) in found.chunks_exact(text.dim()).enumerate() {
        let alone = text_features(&all[i..=i], &text, |_| ()).unwrap();
        assert!(
            row.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5),
            "{i}"
        );
    }
}

#[test]
fn a_phrase_that_is_too_long_is_named_with_its_line() {
    let long = "very ".repeat(200);
    let content = format!("name,words,negative\ncat,,\ndog,dog | {long}dog,\nfox,,{long}\n");
    let (_folder, path) = written("categories.csv", &content);
    let list = CategoryList::read(&path).unwrap();
    let text = text_encoder();
    let categories: Vec<&Category> = list.iter().collect();
    for (from, wanted) in [
        (0, "line 3, column `words`"),
        (2, "line 4, column `negative`"),
    ] {
        let error = text_features(&categories[from..], &text, |_| ()).unwrap_err();
        let error = list
            .located(&error, |at| Some(from + at))
            .unwrap()
            .to_string();
        assert!(
            error.contains(wanted) && error.contains("tokens"),
            "{error}"
        );
        assert!(error.contains("fewer words"), "{error}");
    }
}

//! What the second format says of categories.

use super::*;
use crate::categories::{CategoryWords, Phrase, TagForm, TemplateSet, Templates, ThresholdSource};

/// A category of which everything is said.
pub(super) fn elaborate(name: &str, parent: &str) -> Category {
    let phrase = |text: &str| Phrase {
        text: text.to_owned(),
        weight: 0.5,
    };
    let mut category = Category::named(name, name, 0.3);
    category.words = Some(CategoryWords {
        phrases: vec![phrase(name), phrase("小猫")],
        templates: Templates::Named(TemplateSet::Eighty),
        negative: vec![phrase("toy")],
        language: Some("en".to_owned()),
    });
    category.tags = TagForm {
        parent: Some(parent.to_owned()),
        group: Some("pets".to_owned()),
        display: Some("Katze".to_owned()),
        hidden: true,
        of_children: true,
        threshold_from: Some(ThresholdSource::Guess),
    };
    category
}

#[test]
fn words_and_relations_are_of_the_second_format_and_nothing_else_is() {
    let folder = TempDir::new().unwrap();
    let mut draft = draft();
    let plain = write(&folder.path().join("plain"), &encoder(None), draft.clone()).unwrap();
    assert_eq!(plain.manifest().format_version, 1);
    let text = fs::read_to_string(plain.root().join(MANIFEST_FILE)).unwrap();
    assert!(!text.contains("tags") && !text.contains("words"), "{text}");

    let mut cat = elaborate("cat", "dog");
    cat.tags.of_children = false;
    draft.categories[0] = cat.clone();
    draft.categories[1].tags.of_children = true;
    let out = folder.path().join("elaborate");
    let bundle = write(&out, &encoder(None), draft.clone()).unwrap();
    assert_eq!(bundle.manifest().format_version, 2);
    let read = Bundle::open(&out).unwrap();
    assert_eq!(read.manifest().categories[0], cat);

    // What cannot be is refused, whoever wrote it.
    type Change = fn(&mut serde_json::Value);
    let broken: [(&str, Change, &str); 5] = [
        (
            "version",
            |m| m["format_version"] = 1.into(),
            "version 1 does not know",
        ),
        (
            "parent",
            |m| m["categories"][0]["tags"]["parent"] = "fox".into(),
            "there is no category `fox`",
        ),
        (
            "circle",
            |m| m["categories"][1]["tags"]["parent"] = "cat".into(),
            "cat < dog < cat",
        ),
        (
            "prompt",
            |m| m["categories"][0]["prompt"] = "fox".into(),
            "not its first phrase",
        ),
        (
            "weight",
            |m| m["categories"][0]["words"]["phrases"][1]["weight"] = 0.into(),
            "not above 0",
        ),
    ];
    for (name, change, wanted) in broken {
        let out = folder.path().join(name);
        write(&out, &encoder(None), draft.clone()).unwrap();
        rewrite_manifest(&out, change);
        let message = refusal(&out);
        assert!(message.contains(wanted), "{name}: {message}");
    }
}

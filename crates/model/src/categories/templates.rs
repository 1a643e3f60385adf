//! Sentences that stand around a category's words.

use super::error::join_names;
use serde::{Deserialize, Serialize};

/// Where the words go.
const PLACE: &str = "{}";

/// The sets of the literature, by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateSet {
    /// The words alone.
    None,
    /// `a photo of a {}`.
    #[default]
    One,
    /// The seven that CLIP's authors found best for ImageNet.
    Seven,
    /// All eighty of theirs.
    Eighty,
}

/// What stands around each phrase of a category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Templates {
    /// A set of the literature.
    Named(TemplateSet),
    /// A user's own; each has one `{}`.
    Own(Vec<String>),
}

impl Default for Templates {
    fn default() -> Self {
        Templates::Named(TemplateSet::One)
    }
}

impl TemplateSet {
    /// All sets with their names, as files write them.
    pub const NAMES: [(&'static str, TemplateSet); 4] = [
        ("none", TemplateSet::None),
        ("one", TemplateSet::One),
        ("seven", TemplateSet::Seven),
        ("eighty", TemplateSet::Eighty),
    ];

    /// Sentences with `{}` where the word goes.
    pub fn templates(self) -> &'static [&'static str] {
        match self {
            TemplateSet::None => &[PLACE],
            TemplateSet::One => &[crate::init::PROMPT_TEMPLATE],
            TemplateSet::Seven => &SEVEN,
            TemplateSet::Eighty => &EIGHTY,
        }
    }
}

impl Templates {
    /// Whether these are those of a category of which nothing else is said.
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Number of templates.
    pub fn count(&self) -> usize {
        match self {
            Templates::Named(set) => set.templates().len(),
            Templates::Own(own) => own.len(),
        }
    }

    /// A phrase in each of them.
    pub fn around(&self, phrase: &str) -> Vec<String> {
        let fill = |template: &str| template.replacen(PLACE, phrase, 1);
        match self {
            Templates::Named(set) => set.templates().iter().map(|t| fill(t)).collect(),
            Templates::Own(own) => own.iter().map(|t| fill(t)).collect(),
        }
    }

    /// Reads a user's own: one a line. The text says what is wrong, with the line.
    pub(super) fn of_lines(text: &str) -> Result<Self, String> {
        let mut own: Vec<String> = Vec::new();
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let places = line.matches(PLACE).count();
            if places != 1 {
                return Err(format!(
                    "line {} has {places} places for the words, `{line}`: write {{}} once",
                    at + 1
                ));
            }
            if own.iter().any(|known| known == line) {
                return Err(format!("line {} stands there twice, `{line}`", at + 1));
            }
            own.push(line.to_owned());
        }
        match own.is_empty() {
            true => Err("it holds no template".into()),
            false => Ok(Templates::Own(own)),
        }
    }

    /// The names of the sets, for messages.
    pub(super) fn known() -> String {
        join_names(TemplateSet::NAMES.iter().map(|(name, _)| *name))
    }
}

const SEVEN: [&str; 7] = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
];

const EIGHTY: [&str; 80] = [
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_sets_have_their_numbers_and_one_place_for_the_words() {
        for (set, count) in TemplateSet::NAMES.iter().zip([1, 1, 7, 80]) {
            let templates = set.1.templates();
            assert_eq!(templates.len(), count, "{}", set.0);
            assert!(templates.iter().all(|t| t.matches(PLACE).count() == 1));
            let distinct: BTreeSet<_> = templates.iter().collect();
            assert_eq!(distinct.len(), count, "{}", set.0);
        }
        // The seven are a choice from the eighty.
        assert!(SEVEN.iter().all(|template| EIGHTY.contains(template)));
    }

    #[test]
    fn words_may_hold_braces_themselves() {
        assert_eq!(Templates::default().around("{} x"), ["a photo of a {} x"]);
    }

    #[test]
    fn own_templates_name_the_line_that_is_wrong() {
        let own = Templates::of_lines("\u{feff}ein Foto von {}\n\nein {} im Bild\n").unwrap();
        assert_eq!(
            own.around("Hund"),
            ["ein Foto von Hund", "ein Hund im Bild"]
        );
        for (text, wrong) in [
            ("a {}\na photo\n", "line 2 has 0 places"),
            ("{} and {}", "line 1 has 2 places"),
            ("a {}\na {}\n", "line 2 stands there twice"),
            ("\n\n", "no template"),
        ] {
            let error = Templates::of_lines(text).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}

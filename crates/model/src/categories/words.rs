//! What a bundle says of a category's words, and of how it becomes a tag.

use super::templates::Templates;
use crate::bundle::Category;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Words, and how much they count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phrase {
    /// The words themselves.
    pub text: String,
    /// Above 0.
    pub weight: f32,
}

/// What a category is looked for with, where that is more than one phrase in the usual template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryWords {
    /// Phrases that stand for it; the first is the category's `prompt`.
    pub phrases: Vec<Phrase>,
    /// What stands around each of them.
    #[serde(default, skip_serializing_if = "Templates::is_usual")]
    pub templates: Templates,
    /// Phrases that do not: their feature is subtracted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub negative: Vec<Phrase>,
    /// The language of the phrases, as BCP 47 writes it (`de`, `zh-Hans`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

impl CategoryWords {
    /// One phrase in the usual template.
    pub fn plain(prompt: &str) -> Self {
        CategoryWords {
            phrases: vec![Phrase {
                text: prompt.to_owned(),
                weight: 1.0,
            }],
            templates: Templates::default(),
            negative: Vec::new(),
            language: None,
        }
    }

    /// Whether `prompt` alone says all of it.
    pub(super) fn is_plain(&self, prompt: &str) -> bool {
        *self == Self::plain(prompt)
    }
}

/// Where a threshold comes from, if not from labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSource {
    /// A person chose it: no retraining changes it.
    Given,
    /// A guess from scores without labels; the first labels replace it.
    Guess,
}

/// How a category becomes a tag, beside its threshold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagForm {
    /// The category above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Of the categories of one group only the best becomes a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What people are shown instead of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// It is scored, and never a tag.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// It has no words of its own: its score is the highest of its children's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub of_children: bool,
    /// Where the threshold comes from, if not from labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_from: Option<ThresholdSource>,
}

impl TagForm {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The first category whose parents cannot be, and what is wrong: a parent that is not there, a
/// circle, a maximum of no children.
pub fn check_relations<'a>(
    categories: impl IntoIterator<Item = &'a Category>,
) -> Result<(), (usize, String)> {
    let categories: Vec<&Category> = categories.into_iter().collect();
    let index: HashMap<&str, usize> = categories
        .iter()
        .enumerate()
        .map(|(at, category)| (category.name.as_str(), at))
        .collect();
    let mut parents = vec![None; categories.len()];
    let mut has_children = vec![false; categories.len()];
    for (at, category) in categories.iter().enumerate() {
        let Some(parent) = &category.tags.parent else {
            continue;
        };
        let Some(above) = index.get(parent.as_str()) else {
            return Err((at, format!("there is no category `{parent}`")));
        };
        parents[at] = Some(*above);
        has_children[*above] = true;
    }
    if let Some(at) = first_in_circle(&parents) {
        let mut names = vec![categories[at].name.as_str()];
        let mut above = parents[at];
        while let Some(next) = above.filter(|next| *next != at) {
            names.push(&categories[next].name);
            above = parents[next];
        }
        names.push(&categories[at].name);
        return Err((at, format!("the parents go round: {}", names.join(" < "))));
    }
    let childless =
        |(at, category): &(usize, &&Category)| category.tags.of_children && !has_children[*at];
    match categories.iter().enumerate().find(childless) {
        Some((at, _)) => Err((at, "it has neither words nor children".into())),
        None => Ok(()),
    }
}

/// The first category that is its own ancestor.
fn first_in_circle(parents: &[Option<usize>]) -> Option<usize> {
    // 0: not looked at; otherwise the walk that came by.
    let mut walk = vec![0; parents.len()];
    for start in 0..parents.len() {
        let mut at = start;
        while walk[at] == 0 {
            walk[at] = start + 1;
            match parents[at] {
                Some(above) => at = above,
                None => break,
            }
        }
        if walk[at] == start + 1 && parents[at].is_some() {
            return Some(at);
        }
    }
    None
}

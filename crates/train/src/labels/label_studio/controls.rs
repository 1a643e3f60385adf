//! What a project's controls ask: which categories, which are absent, or yes and no about one.

use super::super::error::{LabelsError, record};
use super::super::json::{self, Object};
use super::super::{Drafts, ImportOptions};
use super::{ABSENT, Annotated, PRESENT};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Answers by which a control asks about the one category that it is called.
pub(super) const YES: [&str; 2] = ["yes", "true"];
pub(super) const NO: [&str; 2] = ["no", "false"];
/// Answers beside them that leave it unknown.
const UNSURE: [&str; 5] = ["unsure", "not sure", "unknown", "maybe", "skip"];
/// Between the levels of a taxonomy whose leaves alone are ambiguous.
const LEVEL: &str = "/";

/// What was answered at one control. A choice is the way to it: of a taxonomy several names, else
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) control: String,
    pub(super) choices: Vec<Vec<String>>,
}

impl Answer {
    /// The answer of a result; `None` if the control is none that names categories.
    pub(super) fn of_result(result: &Object, place: &str) -> Result<Option<Self>, LabelsError> {
        let name = result
            .get("from_name")
            .and_then(json::text)
            .unwrap_or_default();
        let choices = match json::get(result, "value") {
            Some(Value::Object(value)) => choices_of(value, &name, place)?,
            _ => None,
        };
        Ok(choices.map(|choices| Answer {
            control: name,
            choices,
        }))
    }
}

/// What a result's value names: `choices`, `taxonomy`, `rectanglelabels` and their like.
pub(super) fn choices_of(
    value: &Object,
    control: &str,
    place: &str,
) -> Result<Option<Vec<Vec<String>>>, LabelsError> {
    let names = |key: &str| key == "choices" || key == "taxonomy" || key.ends_with("labels");
    let mut found = None;
    for (key, list) in value.iter().filter(|(key, _)| names(key)) {
        let choices = found.get_or_insert_with(Vec::new);
        let list = match list {
            Value::Null => continue,
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for choice in list {
            let path = path(choice).ok_or_else(|| {
                let kind = json::kind(choice);
                let reason =
                    format!("`{key}` of control `{control}` holds {kind}, and names are read");
                record(place, reason)
            })?;
            choices.push(path);
        }
    }
    Ok(found)
}

/// The way to a choice; `None` if it is no name.
fn path(choice: &Value) -> Option<Vec<String>> {
    match choice {
        Value::Array(levels) if !levels.is_empty() => levels.iter().map(json::text).collect(),
        Value::Array(_) => None,
        one => json::text(one).map(|name| vec![name]),
    }
    .filter(|path: &Vec<String>| path.iter().all(|name| !name.is_empty()))
}

/// What a control's answers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Present,
    Absent,
    YesNo,
    NotRead,
}

/// What every control of a project means, and what its categories are called.
pub(super) struct Meanings {
    of: BTreeMap<String, Meaning>,
    /// Leaves that end several ways: they are called by the whole way.
    ambiguous: BTreeSet<String>,
    /// Every category that controls of presences and absences name.
    everything: BTreeSet<String>,
}

impl Meanings {
    pub(super) fn of(
        annotated: &[Annotated],
        asked: &[Answer],
        options: &ImportOptions,
        drafts: &mut Drafts,
    ) -> Result<Self, LabelsError> {
        let answers = || annotated.iter().flat_map(|said| &said.answers).chain(asked);
        let mut words: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut ways: BTreeMap<&str, BTreeSet<&[String]>> = BTreeMap::new();
        for answer in answers() {
            let of = words.entry(&answer.control).or_default();
            for path in &answer.choices {
                let leaf = path.last().map_or("", String::as_str);
                of.insert(leaf.trim().to_lowercase());
                ways.entry(leaf).or_default().insert(path);
            }
        }
        let absent = options.absent_control.as_deref().unwrap_or(ABSENT);
        let wanted = |name: &str| {
            options.controls.is_empty() || options.controls.iter().any(|control| control == name)
        };
        for name in &options.controls {
            if !words.contains_key(name.as_str()) {
                let found: Vec<String> = words.keys().map(|name| name.to_string()).collect();
                let found = json::keys(found.iter());
                let reason = format!("no annotation answers it; answered are {found}");
                return Err(record(format!("control `{name}`"), reason));
            }
        }
        let mut of = BTreeMap::new();
        for (name, words) in &words {
            let meaning = if *name == absent {
                Meaning::Absent
            } else if !wanted(name) {
                Meaning::NotRead
            } else if *name == PRESENT {
                Meaning::Present
            } else {
                asks(name, words)?
            };
            if meaning == Meaning::YesNo {
                drafts.note(format!(
                    "control `{name}` is answered by yes and no: read as whether `{name}` is there"
                ));
            }
            of.insert((*name).to_owned(), meaning);
        }
        let ambiguous = ways.iter().filter(|(_, ways)| ways.len() > 1);
        let ambiguous: BTreeSet<String> = ambiguous.map(|(leaf, _)| (*leaf).to_owned()).collect();
        for leaf in &ambiguous {
            drafts.note(format!(
                "`{leaf}` ends several branches of a taxonomy: each is called by its whole branch"
            ));
        }
        let mut meanings = Meanings {
            of,
            ambiguous,
            everything: BTreeSet::new(),
        };
        let named = |answer: &&Answer| {
            let meaning = meanings.of.get(&answer.control);
            matches!(meaning, Some(Meaning::Present | Meaning::Absent))
        };
        let everything = answers().filter(named).flat_map(|answer| &answer.choices);
        meanings.everything = everything.map(|path| meanings.called(path)).collect();
        Ok(meanings)
    }

    fn called(&self, path: &[String]) -> String {
        match path {
            [.., leaf] if !self.ambiguous.contains(leaf) => leaf.clone(),
            whole => whole.join(LEVEL),
        }
    }

    /// Presences and absences of an annotation.
    pub(super) fn said(
        &self,
        said: &Annotated,
        options: &ImportOptions,
        drafts: &mut Drafts,
    ) -> Result<(Vec<String>, Vec<String>), LabelsError> {
        let (mut present, mut absent) = (BTreeSet::new(), BTreeSet::new());
        // Answers to questions of yes and no are whole in themselves.
        let mut answered = BTreeSet::new();
        for answer in &said.answers {
            let names = answer.choices.iter().map(|path| self.called(path));
            match self.of.get(&answer.control).copied() {
                Some(Meaning::Present) => present.extend(names),
                Some(Meaning::Absent) => absent.extend(names),
                Some(Meaning::YesNo) => {
                    for word in names {
                        match word.trim().to_lowercase().as_str() {
                            word if YES.contains(&word) => answered.insert((&answer.control, true)),
                            word if NO.contains(&word) => answered.insert((&answer.control, false)),
                            _ => {
                                drafts.leave_out("answers that leave a category unknown");
                                continue;
                            }
                        };
                    }
                }
                Some(Meaning::NotRead) | None => {
                    drafts.leave_out("results of other controls than --control names");
                }
            }
        }
        if options.exhaustive {
            absent.extend(self.everything.difference(&present).cloned());
        }
        for (name, yes) in answered {
            match yes {
                true => present.insert(name.clone()),
                false => absent.insert(name.clone()),
            };
        }
        if let Some(both) = present.intersection(&absent).next() {
            let reason = format!("{both:?} is both present and absent");
            return Err(record(said.place.as_str(), reason));
        }
        Ok((present.into_iter().collect(), absent.into_iter().collect()))
    }
}

/// What a control asks, by all that was answered: `yes` and `no` are no categories.
fn asks(name: &str, words: &BTreeSet<String>) -> Result<Meaning, LabelsError> {
    let is = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    if !is(&YES) && !is(&NO) {
        return Ok(Meaning::Present);
    }
    let other = words.iter().find(|word| {
        ![&YES[..], &NO[..], &UNSURE[..]]
            .iter()
            .any(|list| list.contains(&word.as_str()))
    });
    match other {
        None => Ok(Meaning::YesNo),
        Some(other) => {
            let reason = format!(
                "it is answered by yes or no and by `{other}`, which together are neither \
                 categories nor whether `{name}` is there; --control names the controls to read"
            );
            Err(record(format!("control `{name}`"), reason))
        }
    }
}

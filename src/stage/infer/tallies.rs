//! What models say, counted by category: tags, and how scores are distributed, so that somebody
//! sees when they come otherwise than they used to (`deploy/prometheus/rules.yml` does).

use super::{Inference, LoadedModel};
use metrics::Counter;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tagstream_model::trained_on::{TENTHS, TrainedOn};

/// Ranges of scores by their lower ends, which belong to them.
const RANGES: [&str; 10] = [
    "0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9",
];

/// What the categories that have no series of their own are called together. In parentheses, so
/// that hardly a category has the name.
const OTHERS: &str = "(others)";

/// The counters of all models that an engine serves.
pub(super) struct Tallies {
    /// Categories that have series of their own at most, of all models together: the registry must
    /// not be able to make more, whatever is promoted.
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    named: BTreeSet<String>,
    /// The model that was counted last, with its counters.
    last: Option<(Arc<LoadedModel>, Arc<ModelTally>)>,
}

/// The counters of one model.
pub(super) struct ModelTally {
    /// In the model's order; `None`: counted with the others.
    categories: Vec<Option<CategoryTally>>,
    others: CategoryTally,
    embeddings: Option<EmbeddingTally>,
}

/// Images by how like the training images they are.
struct EmbeddingTally {
    trained_on: TrainedOn,
    tenths: [Counter; TENTHS],
}

struct CategoryTally {
    tags: Counter,
    scores: [Counter; RANGES.len()],
}

impl Tallies {
    /// Gives `most` categories series of their own.
    pub(super) fn new(most: usize) -> Self {
        Tallies {
            most,
            state: Mutex::default(),
        }
    }

    /// The counters of a model.
    pub(super) fn of(&self, model: &Arc<LoadedModel>) -> Arc<ModelTally> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((last, tally)) = &state.last
            && Arc::ptr_eq(last, model)
        {
            return Arc::clone(tally);
        }
        let names = model.manifest.categories.iter().map(|c| c.name.as_str());
        let trained_on = model.trained_on.as_ref().map(EmbeddingTally::new);
        let tally = Arc::new(ModelTally {
            embeddings: trained_on,
            ..state.tally(names, self.most)
        });
        state.last = Some((Arc::clone(model), Arc::clone(&tally)));
        tally
    }
}

impl State {
    fn tally<'a>(&mut self, names: impl Iterator<Item = &'a str>, most: usize) -> ModelTally {
        let mut own = |name: &str| {
            if !self.named.contains(name) {
                if self.named.len() >= most {
                    return None;
                }
                self.named.insert(name.to_owned());
            }
            Some(CategoryTally::new(name))
        };
        ModelTally {
            categories: names.map(&mut own).collect(),
            others: CategoryTally::new(OTHERS),
            embeddings: None,
        }
    }
}

impl EmbeddingTally {
    fn new(trained_on: &TrainedOn) -> Self {
        let counter = |at: usize| {
            let tenth = (at + 1).to_string();
            metrics::counter!("tagstream_embeddings_total", "tenth" => tenth)
        };
        EmbeddingTally {
            trained_on: trained_on.clone(),
            tenths: std::array::from_fn(counter),
        }
    }

    fn count(&self, embedding: &[f32]) {
        self.tenths[self.trained_on.tenth(embedding)].increment(1);
    }
}

impl CategoryTally {
    fn new(name: &str) -> Self {
        let tags = metrics::counter!("tagstream_tags_total", "category" => name.to_owned());
        let scores = RANGES.map(|range| {
            metrics::counter!(
                "tagstream_scores_total", "category" => name.to_owned(), "score" => range
            )
        });
        CategoryTally { tags, scores }
    }
}

impl ModelTally {
    /// Counts what the model said of one image.
    pub(super) fn count(&self, inference: &Inference) {
        self.count_scores(&inference.scores);
        if let Some(embeddings) = &self.embeddings {
            embeddings.count(&inference.embedding);
        }
        for tag in &inference.tags {
            let own = self.categories.get(tag.category).and_then(Option::as_ref);
            own.unwrap_or(&self.others).tags.increment(1);
        }
    }

    fn count_scores(&self, scores: &[f32]) {
        // There may be thousands.
        let mut others = [0; RANGES.len()];
        for (score, own) in scores.iter().zip(&self.categories) {
            match own {
                Some(own) => own.scores[range(*score)].increment(1),
                None => others[range(*score)] += 1,
            }
        }
        for (counter, count) in self.others.scores.iter().zip(others) {
            if count > 0 {
                counter.increment(count);
            }
        }
    }
}

/// The range that a probability lies in.
fn range(score: f32) -> usize {
    ((score * RANGES.len() as f32) as usize).min(RANGES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The series of a name, by its labels as they are rendered.
    fn series(text: &str, name: &str) -> BTreeMap<String, u64> {
        let of = |line: &str| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(of).collect()
    }

    #[test]
    fn tags_and_scores_are_counted_by_category_and_range() {
        let recorder = crate::ops::metrics::recorder();
        metrics::with_local_recorder(&recorder, || {
            let tally = State::default().tally(["cat", "dog", "fox"].into_iter(), 2);
            tally.count_scores(&[0.0, 0.95, 0.31]);
            tally.count_scores(&[0.05, 1.0, 0.39]);
            for category in [1, 2, 2] {
                let own = tally.categories[category].as_ref();
                own.unwrap_or(&tally.others).tags.increment(1);
            }
        });
        let text = recorder.handle().render();
        let scores = series(&text, "tagstream_scores_total");
        let counted: Vec<_> = scores.iter().filter(|(_, count)| **count > 0).collect();
        let expected = [
            ("{category=\"(others)\",score=\"0.3\"}", 2),
            ("{category=\"cat\",score=\"0.0\"}", 2),
            ("{category=\"dog\",score=\"0.9\"}", 2),
        ];
        let expected: Vec<_> = expected.map(|(l, n)| (l.to_owned(), n)).into();
        assert_eq!(
            counted,
            expected.iter().map(|(l, n)| (l, n)).collect::<Vec<_>>()
        );
        let tags = series(&text, "tagstream_tags_total");
        let tag = |name: &str| tags[&format!("{{category=\"{name}\"}}")];
        assert_eq!((tag("cat"), tag("dog"), tag("(others)")), (0, 1, 2));
    }

    #[test]
    fn images_are_counted_by_likeness_to_those_of_the_training() {
        let recorder = crate::ops::metrics::recorder();
        // From like to unlike.
        let angles = (0..1_000).map(|i| i as f32 / 1_000.0);
        let known: Vec<f32> = angles.flat_map(|a| [a.cos(), a.sin()]).collect();
        let trained_on = TrainedOn::of(&known, 2).unwrap();
        metrics::with_local_recorder(&recorder, || {
            let tally = EmbeddingTally::new(&trained_on);
            let (angle, unlike) = (0.5f32, [-1.0, 0.0]);
            tally.count(&[angle.cos(), angle.sin()]);
            tally.count(&unlike);
            tally.count(&unlike);
        });
        let counted = series(&recorder.handle().render(), "tagstream_embeddings_total");
        assert_eq!(counted.len(), TENTHS, "all are there from the start");
        let of = |tenth: &str| counted[&format!("{{tenth=\"{tenth}\"}}")];
        assert_eq!(
            (of("1"), of("10"), counted.values().sum::<u64>()),
            (2, 1, 3)
        );
    }

    /// A registry that is promoted to ever other categories makes no more series.
    #[test]
    fn there_are_never_more_names_than_the_key_allows() {
        let recorder = crate::ops::metrics::recorder();
        metrics::with_local_recorder(&recorder, || {
            let mut state = State::default();
            for model in 0..50 {
                let names: Vec<String> = (0..20).map(|c| format!("c{}", model * 7 + c)).collect();
                state.tally(names.iter().map(String::as_str), 30);
            }
        });
        let text = recorder.handle().render();
        assert_eq!(series(&text, "tagstream_tags_total").len(), 31);
        assert_eq!(series(&text, "tagstream_scores_total").len(), 310);
    }

    #[test]
    fn a_bound_belongs_to_the_range_above_it() {
        let ranges = [0.0, 0.1, 0.25, 0.5, 0.99, 1.0, f32::NAN].map(range);
        assert_eq!(ranges, [0, 1, 2, 5, 9, 9, 0]);
    }
}

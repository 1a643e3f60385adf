//! From scores to tags: parents, groups and what is never shown.

use crate::bundle::Category;
use std::collections::{HashMap, HashSet};

/// What decides, beside thresholds, which categories become tags.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TagDecision {
    /// Categories whose score is the highest of their children's, with those; children come
    /// before their own parents.
    maxima: Vec<(usize, Vec<usize>)>,
    /// Where a parent stands among them.
    places: HashMap<usize, usize>,
    /// The group of each category; empty if there is none.
    groups: Vec<Option<usize>>,
    /// What never becomes a tag; empty if there is nothing.
    hidden: Vec<bool>,
}

impl TagDecision {
    /// What `categories` say of each other.
    pub fn of(categories: &[Category]) -> Self {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut groups = Vec::new();
        for category in categories {
            let next = numbers.len();
            let group = category.tags.group.as_deref();
            groups.push(group.map(|group| *numbers.entry(group).or_insert(next)));
        }
        if numbers.is_empty() {
            groups.clear();
        }
        let mut hidden: Vec<bool> = categories.iter().map(|c| c.tags.hidden).collect();
        if !hidden.contains(&true) {
            hidden.clear();
        }
        let maxima = maxima(categories);
        let places = maxima.iter().enumerate();
        TagDecision {
            places: places.map(|(at, (parent, _))| (*parent, at)).collect(),
            maxima,
            groups,
            hidden,
        }
    }

    /// Gives parents without words of their own the highest value of their children. Works on
    /// probabilities, logits and log-odds alike; `values` may end before the last categories.
    pub fn raise(&self, values: &mut [f32]) {
        for (parent, children) in &self.maxima {
            if let Some(best) = best_of(children, values)
                && *parent < values.len()
            {
                values[*parent] = values[best];
            }
        }
    }

    /// The category whose evidence a category's score rests on: its own, or that of the best one
    /// below it. `scores` are those of [`TagDecision::raise`].
    pub fn evidence(&self, category: usize, scores: &[f32]) -> usize {
        let mut at = category;
        while let Some(place) = self.places.get(&at)
            && let Some(best) = best_of(&self.maxima[*place].1, scores)
        {
            at = best;
        }
        at
    }

    /// Whether a category can be a tag at all.
    pub fn is_shown(&self, category: usize) -> bool {
        !self.hidden.get(category).copied().unwrap_or(false)
    }

    /// Keeps of `found`, which are best first, those that become tags: of a group the best only.
    pub fn keep<T>(&self, found: &mut Vec<T>, category: impl Fn(&T) -> usize) {
        let mut seen = HashSet::new();
        found.retain(|one| {
            let category = category(one);
            let group = self.groups.get(category).copied().flatten();
            self.is_shown(category) && group.is_none_or(|group| seen.insert(group))
        });
    }

    /// Puts the thresholds of an image beyond reach for categories that reach theirs and become no
    /// tags all the same, because they are never shown or because of their group. `scores` may be
    /// probabilities or log-odds, if `reaches` tells of a score and a threshold.
    pub fn withhold(
        &self,
        scores: &[f32],
        thresholds: &mut [f32],
        reaches: impl Fn(f32, f32) -> bool,
    ) {
        if self.groups.is_empty() && self.hidden.is_empty() {
            return;
        }
        let reached = |at: &usize| reaches(scores[*at], thresholds[*at]);
        let mut found: Vec<usize> = (0..thresholds.len()).filter(reached).collect();
        found.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        let mut kept = found.clone();
        self.keep(&mut kept, |at| *at);
        let kept: HashSet<usize> = kept.into_iter().collect();
        for at in found.into_iter().filter(|at| !kept.contains(at)) {
            thresholds[at] = f32::INFINITY;
        }
    }

    /// The logits from which on a category's own row of evidence is of use, given those at which
    /// categories become tags: below, nobody asks for it.
    pub(super) fn evidence_floors(&self, floors: &[f32]) -> Vec<f32> {
        // Infinitely far away, and still a number.
        const NEVER: f32 = 1e30;
        let hidden = |at: usize| !self.is_shown(at);
        let mut own: Vec<f32> = floors.to_vec();
        (0..own.len())
            .filter(|at| hidden(*at))
            .for_each(|at| own[at] = NEVER);
        // From the top: what a parent needs its children give.
        for (parent, children) in self.maxima.iter().rev() {
            let needed = std::mem::replace(&mut own[*parent], NEVER);
            for child in children {
                own[*child] = own[*child].min(needed);
            }
        }
        own
    }
}

/// The best of some categories; of equals the first, so that boxes do not depend on anything else.
fn best_of(children: &[usize], values: &[f32]) -> Option<usize> {
    let there = children.iter().filter(|child| **child < values.len());
    there.copied().reduce(
        |best, child| match values[child].total_cmp(&values[best]).is_gt() {
            true => child,
            false => best,
        },
    )
}

fn maxima(categories: &[Category]) -> Vec<(usize, Vec<usize>)> {
    if !categories.iter().any(|c| c.tags.of_children) {
        return Vec::new();
    }
    let index = categories.iter().enumerate();
    let index: HashMap<&str, usize> = index.map(|(at, c)| (c.name.as_str(), at)).collect();
    let parents: Vec<Option<usize>> = categories
        .iter()
        .map(|c| index.get(c.tags.parent.as_deref()?).copied())
        .collect();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    for (at, parent) in parents.iter().enumerate() {
        let above = parent.filter(|parent| categories[*parent].tags.of_children);
        if let Some(above) = above {
            children.entry(above).or_default().push(at);
        }
    }
    // The deepest first: a child's score is settled before its parent takes it. The manifest was
    // checked for circles; the bound keeps a head that was not from going round.
    let depth = |at: usize| {
        let above = std::iter::successors(Some(at), |at| parents[*at]);
        above.take(categories.len() + 1).count()
    };
    let mut all: Vec<(usize, Vec<usize>)> = children.into_iter().collect();
    all.sort_by_key(|(parent, _)| (std::cmp::Reverse(depth(*parent)), *parent));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name<parent`, `name=group`, `-name` (hidden), `+name` (of its children).
    fn categories(said: &[&str]) -> Vec<Category> {
        said.iter()
            .map(|text| {
                let (hidden, text) = (text.starts_with('-'), text.trim_start_matches('-'));
                let (of_children, text) = (text.starts_with('+'), text.trim_start_matches('+'));
                let (text, group) = match text.split_once('=') {
                    Some((text, group)) => (text, Some(group.to_owned())),
                    None => (text, None),
                };
                let (name, parent) = match text.split_once('<') {
                    Some((name, parent)) => (name, Some(parent.to_owned())),
                    None => (text, None),
                };
                let mut category = Category::named(name, name, 0.5);
                category.tags.parent = parent;
                category.tags.group = group;
                category.tags.hidden = hidden;
                category.tags.of_children = of_children;
                category
            })
            .collect()
    }

    #[test]
    fn parents_have_the_highest_score_below_them_whatever_their_order() {
        let all = categories(&["+thing", "+pet<thing", "cat<pet", "dog<pet", "car<thing"]);
        let decision = TagDecision::of(&all);
        let mut scores = [0.0, 0.9, 0.3, 0.6, 0.5];
        decision.raise(&mut scores);
        assert_eq!(scores, [0.6, 0.6, 0.3, 0.6, 0.5]);
        assert_eq!(
            [0, 1, 4].map(|at| decision.evidence(at, &scores)),
            [3, 3, 4]
        );
        // A parent with words of its own keeps its score.
        let decision = TagDecision::of(&categories(&["pet", "cat<pet"]));
        let mut scores = [0.1, 0.8];
        decision.raise(&mut scores);
        assert_eq!(scores, [0.1, 0.8]);
    }

    #[test]
    fn a_group_keeps_its_best_and_what_is_not_shown_does_not_count() {
        let all = categories(&["sun=s", "-big sun=s", "sunshine=s", "sea", "sand=t"]);
        let decision = TagDecision::of(&all);
        let mut found = vec![1, 2, 3, 0, 4];
        decision.keep(&mut found, |at| *at);
        assert_eq!(found, [2, 3, 4]);
    }

    #[test]
    fn thresholds_of_what_is_withheld_are_beyond_reach() {
        let all = categories(&["sun=s", "-big sun=s", "sunshine=s", "sea", "-fog"]);
        let decision = TagDecision::of(&all);
        let mut thresholds = [0.5; 5];
        let scores = [0.6, 0.9, 0.7, 0.2, 0.8];
        decision.withhold(&scores, &mut thresholds, |score, threshold| {
            score >= threshold
        });
        let never = f32::INFINITY;
        assert_eq!(thresholds, [never, never, 0.5, 0.5, never]);
        // What does not reach its threshold keeps nobody out.
        let mut thresholds = [0.5, 0.5, 0.75, 0.5, 0.9];
        decision.withhold(&scores, &mut thresholds, |score, threshold| {
            score >= threshold
        });
        assert_eq!(thresholds, [0.5, never, 0.75, 0.5, 0.9]);
    }

    #[test]
    fn evidence_is_asked_for_where_a_tag_may_rest_on_it() {
        let all = categories(&["+thing", "-dog<thing", "cat<thing", "car"]);
        let floors = TagDecision::of(&all).evidence_floors(&[-2.0, 1.0, 0.5, 0.0]);
        // The hidden dog may be the evidence of a thing; the thing's own row never is.
        assert_eq!(floors, [1e30, -2.0, -2.0, 0.0]);
        let plain = TagDecision::of(&categories(&["a", "b"]));
        assert_eq!(plain.evidence_floors(&[0.1, 0.2]), [0.1, 0.2]);
    }
}

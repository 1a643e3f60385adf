//! Which images are kept where memory and cache have not room for all.
//!
//! What teaches most comes first. By turns each category that the images chosen so far tell least
//! of adds one of its own, so that a rare one is there whole before a frequent one is there twice:
//! of what comes next in its line, the newest first, that image which is least like those that are
//! there, by all that is known of it. Of its absences, which tell less, one comes
//! for several presences.
//!
//! Images that are held out for measuring stand apart: they are drawn evenly, or the measure would
//! be of the rare alone, and keep their share of every beginning of the list.

use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use tagstream_train::labels::LabelMatrix;

/// Images of a category's line among which the most different is looked for.
const LOOK_AHEAD: usize = 8;
/// Presences of a category that are asked for before each absence.
const PRESENCES: u64 = 4;

/// What was left out, for the report.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Thinned {
    /// Images that had no room.
    pub images: usize,
    /// Their known entries.
    pub known: usize,
    /// Presences left out, by category, where there are any.
    pub present: BTreeMap<String, u64>,
}

impl Thinned {
    /// The images at `rows` of `labels`.
    pub(super) fn of(labels: &LabelMatrix, rows: &[usize]) -> Self {
        let mut thinned = Thinned {
            images: rows.len(),
            ..Thinned::default()
        };
        let states = labels.states();
        for &row in rows {
            for (name, &state) in labels.categories().iter().zip(states.row(row)) {
                thinned.known += usize::from(state != 0);
                if state > 0 {
                    *thinned.present.entry(name.clone()).or_default() += 1;
                }
            }
        }
        thinned
    }
}

/// All rows of `labels`, those first that are worth their place most. `said` is when something was
/// said last of a row, `measures` whether it is held out for measuring.
pub(super) fn ranking(
    labels: &LabelMatrix,
    said: &[i64],
    measures: impl Fn(&str) -> bool,
) -> Vec<usize> {
    let ids = labels.images();
    let (mut measuring, learning): (Vec<usize>, Vec<usize>) =
        (0..ids.len()).partition(|row| measures(&ids[*row]));
    // Evenly, and the same images in every run.
    measuring
        .sort_by_cached_key(|row| Sha256::digest([b"thinning ", ids[*row].as_bytes()].concat()));
    let learning = Teaching::new(labels, said, learning).order();
    merged(measuring, learning)
}

/// Both lists, each with its share of every beginning.
fn merged(a: Vec<usize>, b: Vec<usize>) -> Vec<usize> {
    let (all_a, all_b) = (a.len() as u128, b.len() as u128);
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    let (mut taken_a, mut taken_b) = (0u128, 0u128);
    loop {
        let behind = (taken_a + 1) * all_b <= (taken_b + 1) * all_a;
        let next = match (a.peek(), b.peek()) {
            (Some(_), None) => a.next(),
            (Some(_), Some(_)) if behind => a.next(),
            (_, Some(_)) => {
                taken_b += 1;
                merged.extend(b.next());
                continue;
            }
            (None, None) => return merged,
        };
        taken_a += 1;
        merged.extend(next);
    }
}

/// Rows that say the same of one category.
struct Line {
    /// Newest first.
    rows: Vec<usize>,
    /// Before it all are taken.
    begin: usize,
    /// How much the chosen rows tell of it.
    told: u64,
    /// How much one row tells.
    weight: u64,
}

struct Teaching<'a> {
    labels: &'a LabelMatrix,
    lines: Vec<Line>,
    taken: Vec<bool>,
    /// Rows without a known entry.
    silent: Vec<usize>,
    /// By all that is known of a row: how many chosen rows are just like it.
    alike: HashMap<u64, u32>,
    likeness: Vec<u64>,
}

impl<'a> Teaching<'a> {
    fn new(labels: &'a LabelMatrix, said: &[i64], mut rows: Vec<usize>) -> Self {
        rows.sort_by_key(|row| Reverse((said[*row], *row)));
        let line = |weight| Line {
            rows: Vec::new(),
            begin: 0,
            told: 0,
            weight,
        };
        let categories = labels.categories().len();
        let mut lines: Vec<Line> = (0..2 * categories)
            .map(|line_of| line([1, PRESENCES][line_of % 2]))
            .collect();
        let (states, mut silent) = (labels.states(), Vec::new());
        let mut likeness = vec![0; labels.images().len()];
        for row in rows {
            let before = silent.len();
            silent.push(row);
            for place in told(states.row(row)) {
                lines[place].rows.push(row);
                silent.truncate(before);
            }
            let mut hasher = DefaultHasher::new();
            states
                .row(row)
                .iter()
                .for_each(|state| state.hash(&mut hasher));
            likeness[row] = hasher.finish();
        }
        Self {
            taken: vec![false; likeness.len()],
            alike: HashMap::new(),
            labels,
            lines,
            silent,
            likeness,
        }
    }

    fn order(mut self) -> Vec<usize> {
        let key =
            |lines: &[Line], line: usize| Reverse((lines[line].told, lines[line].rows.len(), line));
        let mut turns: BinaryHeap<_> = (0..self.lines.len())
            .map(|line| key(&self.lines, line))
            .collect();
        let mut order = Vec::new();
        while let Some(Reverse((told, _, line))) = turns.pop() {
            // Other lines' turns have told of this one, too.
            if self.lines[line].told != told {
                turns.push(key(&self.lines, line));
                continue;
            }
            if let Some(row) = self.next_of(line) {
                self.take(row);
                order.push(row);
                turns.push(key(&self.lines, line));
            }
        }
        order.append(&mut self.silent);
        order
    }

    /// Of the next rows of a line the one that is least like those chosen.
    fn next_of(&mut self, line: usize) -> Option<usize> {
        let Line { rows, begin, .. } = &mut self.lines[line];
        while rows.get(*begin).is_some_and(|row| self.taken[*row]) {
            *begin += 1;
        }
        let ahead = rows[*begin..].iter().filter(|row| !self.taken[**row]);
        let like = |row: &usize| self.alike.get(&self.likeness[*row]).copied().unwrap_or(0);
        ahead.copied().take(LOOK_AHEAD).min_by_key(like)
    }

    fn take(&mut self, row: usize) {
        self.taken[row] = true;
        *self.alike.entry(self.likeness[row]).or_default() += 1;
        for place in told(self.labels.states().row(row)) {
            let line = &mut self.lines[place];
            line.told += line.weight;
        }
    }
}

/// The lines that a row stands in: of each category the first is of presences.
fn told(row: ndarray::ArrayView1<'_, i8>) -> impl Iterator<Item = usize> {
    let entries = row.into_iter().copied().enumerate();
    entries.filter_map(|(category, state)| match state {
        0 => None,
        1.. => Some(2 * category),
        _ => Some(2 * category + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of states over categories `c0`, `c1`, ...
    fn matrix(rows: &[Vec<i8>]) -> LabelMatrix {
        let ids = (0..rows.len()).map(|row| format!("i{row}")).collect();
        let categories = (0..rows[0].len()).map(|c| format!("c{c}")).collect();
        let mut labels = LabelMatrix::filled(ids, categories, 0);
        let states: Vec<i8> = rows.iter().flatten().copied().collect();
        labels.flat_mut().copy_from_slice(&states);
        labels
    }

    #[test]
    fn the_rare_come_whole_and_the_frequent_by_their_newest() {
        // Three images have c1, a hundred c0.
        let rows: Vec<Vec<i8>> = (0..103)
            .map(|row| match row % 34 == 17 {
                true => vec![0, 1],
                false => vec![1, 0],
            })
            .collect();
        let labels = matrix(&rows);
        let said: Vec<i64> = (0..103).collect();
        let order = ranking(&labels, &said, |_| false);
        let mut all = order.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..103), "each row once");
        let rare: Vec<usize> = order[..6]
            .iter()
            .copied()
            .filter(|r| rows[*r][1] > 0)
            .collect();
        assert_eq!(rare, [85, 51, 17]);
        let frequent: Vec<usize> = order.iter().copied().filter(|r| rows[*r][0] > 0).collect();
        assert!(frequent.is_sorted_by(|a, b| a > b), "newest first");
    }

    #[test]
    fn different_images_come_before_more_of_the_same() {
        // Ten that are alike are newer than one that says something else, too.
        let mut rows = vec![vec![1, -1]];
        rows.extend(vec![vec![1, 0]; 6]);
        let said: Vec<i64> = (0..7).collect();
        let order = ranking(&matrix(&rows), &said, |_| false);
        assert!(order[..2].contains(&0), "{order:?}");
    }

    #[test]
    fn what_measures_is_drawn_evenly_and_keeps_its_share() {
        let rows: Vec<Vec<i8>> = (0..100)
            .map(|row| vec![1, i8::from(row % 10 == 0)])
            .collect();
        let labels = matrix(&rows);
        let measures = |id: &str| id.ends_with('3') || id.ends_with('0');
        let order = ranking(&labels, &[0; 100], measures);
        for part in [10, 25, 50, 100] {
            let held = order[..part]
                .iter()
                .filter(|r| measures(&format!("i{r}")))
                .count();
            assert!(held.abs_diff(part / 5) <= 1, "{held} of {part}");
        }
        // The rare are among those that measure as often as anywhere.
        let first: Vec<_> = order
            .iter()
            .filter(|r| measures(&format!("i{r}")))
            .take(10)
            .collect();
        let rare = first.iter().filter(|r| **r % 10 == 0).count();
        assert!((1..=9).contains(&rare), "{first:?}");
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let labels = matrix(&[vec![1, -1], vec![0, 1], vec![1, 0]]);
        let thinned = Thinned::of(&labels, &[0, 2]);
        assert_eq!((thinned.images, thinned.known), (2, 3));
        assert_eq!(thinned.present, BTreeMap::from([("c0".to_owned(), 2)]));
    }
}

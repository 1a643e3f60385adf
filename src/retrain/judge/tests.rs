//! Simulated scores, where the truth is known.

use super::*;
use rand::rngs::StdRng;

struct World {
    categories: Vec<String>,
    labels: Vec<i8>,
    truth: Vec<bool>,
}

/// `images` x `categories` with rates between 5 % and 50 %, of which a share is known.
fn world(images: usize, categories: usize, known: f64, seed: u64) -> World {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut labels = Vec::new();
    let mut truth = Vec::new();
    for _ in 0..images {
        for k in 0..categories {
            let rate = 0.05 + 0.45 * k as f64 / categories as f64;
            let present = rng.random_bool(rate);
            truth.push(present);
            labels.push(match (rng.random_bool(known), present) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => -1,
            });
        }
    }
    World {
        categories: (0..categories).map(|k| format!("c{k}")).collect(),
        labels,
        truth,
    }
}

impl World {
    /// Logits that tell presences from absences by `signal` standard deviations.
    fn scores(&self, signal: f64, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        self.truth
            .iter()
            .map(|p| (if *p { signal } else { 0.0 } + normal()) as f32)
            .collect()
    }

    fn matrix<'a, T>(&self, values: &'a [T]) -> ArrayView2<'a, T> {
        let columns = self.categories.len();
        ArrayView2::from_shape((values.len() / columns, columns), values).unwrap()
    }

    fn judge(&self, candidate: &[f32], champion: &[f32]) -> Judgement {
        let trial = Trial {
            categories: &self.categories,
            candidate: self.matrix(candidate),
            champion: self.matrix(champion),
            labels: self.matrix(&self.labels),
        };
        judge(&trial, &[], &JudgeConfig::default(), 1)
    }
}

fn failed(j: &Judgement) -> Vec<&str> {
    let gates = j.gates.iter().filter(|g| !g.passed);
    gates.map(|g| g.name.as_str()).collect()
}

#[test]
fn better_is_promoted_equal_is_held_and_worse_is_rejected() {
    let w = world(600, 12, 0.5, 3);
    let champion = w.scores(1.5, 10);
    let better = w.judge(&w.scores(2.5, 11), &champion);
    assert_eq!(better.verdict, Verdict::Promote, "{:?}", failed(&better));
    assert!(better.difference.lower > 0.0);
    let same = w.judge(&champion, &champion);
    assert_eq!(same.verdict, Verdict::Hold);
    assert_eq!(failed(&same), ["worth the change"]);
    assert_eq!(same.difference.estimate, 0.0);
    let worse = w.judge(&w.scores(0.8, 12), &champion);
    assert_eq!(worse.verdict, Verdict::Reject);
    // Trained on shuffled labels: knows nothing.
    let shuffled = w.judge(&w.scores(0.0, 13), &champion);
    assert_eq!(shuffled.verdict, Verdict::Reject);
    assert!(shuffled.difference.upper < -0.1);
}

#[test]
fn an_equally_good_candidate_is_not_promoted_by_luck() {
    let (mut promoted, mut rejected) = (0, 0);
    for seed in 0..40 {
        let w = world(300, 8, 0.4, 100 + seed);
        let j = w.judge(&w.scores(1.5, 2 * seed), &w.scores(1.5, 2 * seed + 1));
        promoted += usize::from(j.verdict == Verdict::Promote);
        rejected += usize::from(j.verdict == Verdict::Reject);
    }
    // At 95 % one-sided bounds about 2 of 40 may be wrong in either direction.
    assert!(promoted <= 5, "{promoted} of 40 promoted by luck");
    assert!(rejected <= 5, "{rejected} of 40 rejected by bad luck");
}

#[test]
fn noise_on_a_rare_category_does_not_reject_but_a_real_fall_does() {
    let mut w = world(600, 10, 0.5, 5);
    let champion = w.scores(1.5, 10);
    let mut candidate = w.scores(2.5, 11);
    // Category 0 becomes rare: three known presences, of which the candidate happens to miss two.
    let mut left = 3;
    for i in 0..600 {
        let (label, truth) = (&mut w.labels[i * 10], &mut w.truth[i * 10]);
        if *label > 0 {
            if left > 0 {
                candidate[i * 10] = if left == 1 { 9.0 } else { -9.0 };
                left -= 1;
            } else {
                *label = -1;
                *truth = false;
            }
        }
    }
    let noisy = w.judge(&candidate, &champion);
    let rare = &noisy.categories[0];
    assert_eq!(rare.present, 3);
    assert_eq!(
        noisy.verdict,
        Verdict::Promote,
        "{:?} {rare:?}",
        noisy.gates
    );

    // A common category that the candidate has unlearned.
    for i in 0..600 {
        candidate[i * 10 + 9] = 0.0;
    }
    let fallen = w.judge(&candidate, &champion);
    assert!(fallen.difference.lower > 0.0, "the mean still rises");
    assert_eq!(fallen.verdict, Verdict::Reject);
    assert_eq!(failed(&fallen), ["no category falls"]);
    let gate = fallen.gates.iter().find(|g| !g.passed).unwrap();
    assert!(gate.measured.starts_with("c9 "), "{}", gate.measured);
}

#[test]
fn broken_outputs_and_failed_checks_are_rejected() {
    let w = world(200, 4, 0.5, 7);
    let champion = w.scores(1.0, 1);
    let mut candidate = w.scores(3.0, 2);
    candidate[5] = f32::NAN;
    let j = w.judge(&candidate, &champion);
    assert_eq!(j.verdict, Verdict::Reject);
    assert!(failed(&j).contains(&"finite scores"));
    let better = w.scores(3.0, 2);
    let trial = Trial {
        categories: &w.categories,
        candidate: w.matrix(&better),
        champion: w.matrix(&champion),
        labels: w.matrix(&w.labels),
    };
    let canary = Check {
        name: "canary".into(),
        passed: false,
        detail: "head.onnx gives 3 scores, not 4".into(),
    };
    let j = judge(&trial, &[canary], &JudgeConfig::default(), 1);
    assert_eq!((j.verdict, failed(&j)), (Verdict::Reject, vec!["canary"]));
}

#[test]
fn without_evidence_nothing_changes() {
    let w = world(10, 3, 0.5, 9);
    let j = w.judge(&w.scores(4.0, 1), &w.scores(0.0, 2));
    assert_eq!(j.verdict, Verdict::Hold);
    let mut blind = world(100, 3, 0.5, 9);
    blind.labels.fill(0);
    let j = blind.judge(&blind.scores(4.0, 1), &blind.scores(0.0, 2));
    assert_eq!((j.verdict, j.categories.len()), (Verdict::Hold, 0));
    let nothing = Trial {
        categories: &[],
        candidate: ArrayView2::from(&[[]; 0]),
        champion: ArrayView2::from(&[[]; 0]),
        labels: ArrayView2::from(&[[]; 0]),
    };
    let j = judge(&nothing, &[], &JudgeConfig::default(), 1);
    assert_eq!(j.verdict, Verdict::Hold);
}

#[test]
fn unknown_entries_count_nowhere() {
    let w = world(400, 6, 0.3, 11);
    let (a, b) = (w.scores(2.0, 1), w.scores(1.0, 2));
    let reference = w.judge(&a, &b);
    let (mut a2, mut b2) = (a.clone(), b.clone());
    for (i, label) in w.labels.iter().enumerate() {
        if *label == 0 {
            a2[i] = -50.0;
            b2[i] = 50.0;
        }
    }
    assert_eq!(w.judge(&a2, &b2), reference);
}

#[test]
fn the_average_precision_is_the_textbook_one() {
    // Ranks 1, 3, 4 of five are present: (1/1 + 2/3 + 3/4) / 3.
    let scores = [5.0, 4.0, 3.0, 2.0, 1.0];
    let ranked = |scores: &[f32], labels: &[i8]| Ranking::new(scores.into(), labels.into());
    let ranking = ranked(&scores, &[1, -1, 1, 1, -1]);
    let expected = (1.0 + 2.0 / 3.0 + 0.75) / 3.0;
    let ap = ranking.average_precision(&[1; 5]).unwrap();
    assert!((ap - expected).abs() < 1e-12);
    // Doubling an image is the same as writing it twice.
    let twice = [5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 1.0];
    let written = ranked(&twice, &[1, -1, -1, 1, 1, 1, -1]);
    let drawn = ranking.average_precision(&[1, 2, 2, 1, 1]).unwrap();
    let ap = written.average_precision(&[1; 7]).unwrap();
    assert!((ap - drawn).abs() < 1e-12);
    assert_eq!(ranking.average_precision(&[1, 0, 1, 1, 0]), None);
}

#[test]
fn the_judgement_repeats_on_any_number_of_threads() {
    let w = world(200, 5, 0.5, 13);
    let (a, b) = (w.scores(1.4, 1), w.scores(1.2, 2));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| w.judge(&a, &b))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn the_interval_covers_the_true_difference() {
    // The bounds are one-sided 95 %: together they should cover about 90 % of the time.
    let (mut covered, rounds) = (0, 60);
    let big = world(20_000, 3, 1.0, 999);
    let truth = big
        .judge(&big.scores(2.0, 1), &big.scores(1.5, 2))
        .difference
        .estimate;
    for seed in 0..rounds {
        let w = world(400, 3, 0.5, 1000 + seed);
        let d = w
            .judge(&w.scores(2.0, 5000 + seed), &w.scores(1.5, 9000 + seed))
            .difference;
        covered += usize::from(d.lower <= truth && truth <= d.upper);
    }
    assert!(covered >= 45, "covered {covered} of {rounds}");
}

#[test]
fn the_held_out_part_is_stable_and_of_the_right_size() {
    let ids: Vec<String> = (0..20_000).map(|i| format!("img-{i}")).collect();
    let count = |share| ids.iter().filter(|id| is_held_out(id, share)).count();
    assert!((3800..4200).contains(&count(0.2)), "{}", count(0.2));
    assert_eq!((count(0.0), count(1.0)), (0, 20_000));
    // A larger share contains the smaller one, and the assignment is part of the contract: it must
    // never change.
    assert!(
        ids.iter()
            .all(|id| !is_held_out(id, 0.1) || is_held_out(id, 0.2))
    );
    let first: Vec<&str> = ids
        .iter()
        .filter(|id| is_held_out(id, 0.2))
        .take(4)
        .map(|s| s.as_str())
        .collect();
    assert_eq!(first, ["img-2", "img-9", "img-10", "img-11"]);
}

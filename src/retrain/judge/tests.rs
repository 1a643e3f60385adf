//! Simulated scores, where the truth is known.

use super::*;
use rand::rngs::StdRng;
use tagstream_train::eval::tags::TagTarget;

struct World {
    categories: Vec<String>,
    groups: Vec<usize>,
    parts: Vec<usize>,
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
        groups: (0..images).collect(),
        parts: vec![0; images],
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

    fn trial<'a>(&'a self, candidate: &'a [f32], champion: &'a [f32]) -> Trial<'a> {
        Trial {
            categories: &self.categories,
            candidate: self.matrix(candidate),
            champion: self.matrix(champion),
            labels: self.matrix(&self.labels),
            groups: &self.groups,
            parts: &self.parts,
            tags: None,
            look: 1,
        }
    }

    fn judge(&self, candidate: &[f32], champion: &[f32]) -> Judgement {
        let trial = self.trial(candidate, champion);
        judge(&trial, &[], &JudgeConfig::default(), 1)
    }

    fn emitted<'a>(&'a self, odds: &'a [f32], thresholds: &'a Array2<f32>) -> Emitted<'a> {
        Emitted {
            odds: self.matrix(odds),
            thresholds: thresholds.view(),
        }
    }

    /// With tags, a threshold for all categories of each model.
    fn judge_tags(
        &self,
        [candidate, champion]: [(&[f32], f32); 2],
        target: TagTarget,
    ) -> Judgement {
        let shape = self.matrix(&self.labels).dim();
        let all = |threshold| Array2::from_elem(shape, threshold);
        let (after, before) = (all(candidate.1), all(champion.1));
        let tags = TrialTags {
            candidate: self.emitted(candidate.0, &after),
            champion: self.emitted(champion.0, &before),
            champion_alike: self.emitted(champion.0, &before),
            target,
        };
        let trial = Trial {
            tags: Some(tags),
            ..self.trial(candidate.0, champion.0)
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
    let trial = w.trial(&better, &champion);
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
        groups: &[],
        parts: &[],
        tags: None,
        look: 1,
    };
    let j = judge(&nothing, &[], &JudgeConfig::default(), 1);
    assert_eq!(j.verdict, Verdict::Hold);
    assert_eq!(
        j.labels_wanted, None,
        "nothing is known: nobody knows how much more"
    );
}

#[test]
fn of_a_handful_of_labels_no_map_is_told_but_how_many_more_would_do() {
    let mut w = world(60, 6, 1.0, 21);
    // Presences of one category alone are known, three of them.
    for (at, label) in w.labels.iter_mut().enumerate() {
        if at % 6 != 5 || at > 60 {
            *label = (*label).min(0);
        }
    }
    let perfect: Vec<f32> = w
        .truth
        .iter()
        .map(|yes| if *yes { 4.0 } else { -4.0 })
        .collect();
    let j = w.judge(&perfect, &perfect);
    assert_eq!((j.verdict, j.categories.len()), (Verdict::Hold, 1));
    let summary = j.summary();
    assert!(
        !summary.contains("mAP") && !summary.contains("100.00"),
        "{summary}"
    );
    assert!(
        summary.contains("enough for a decision at about"),
        "{summary}"
    );
    // Undecided for noise alone: the bounds say how many.
    let w = world(150, 6, 0.3, 22);
    let j = (0..20)
        .map(|seed| w.judge(&w.scores(1.6, 100 + seed), &w.scores(1.4, 200 + seed)))
        .find(|j| failed(j) == ["mAP certainly not worse"] && j.difference.estimate > 0.0)
        .unwrap();
    assert!(j.labels_wanted.unwrap() > 0, "{}", j.summary());
    assert!(j.summary().contains("mAP"), "{}", j.summary());
}

#[test]
fn later_looks_at_one_champion_ask_for_more() {
    let w = world(600, 12, 0.5, 3);
    let (better, champion) = (w.scores(2.5, 11), w.scores(1.5, 10));
    let lower = |look| {
        let trial = Trial {
            look,
            ..w.trial(&better, &champion)
        };
        let j = judge(&trial, &[], &JudgeConfig::default(), 1);
        (j.difference.lower, j.difference.upper)
    };
    let bounds = [1, 2, 10, 100].map(lower);
    assert!(
        bounds.windows(2).all(|two| two[1].0 < two[0].0),
        "{bounds:?}"
    );
    assert!(bounds.iter().all(|b| b.1 == bounds[0].1), "{bounds:?}");
}

/// One presence more or less of a category that has three moves its AP by as much as chance does.
#[test]
fn thin_categories_do_not_hide_what_the_others_tell() {
    let mut w = world(800, 40, 0.5, 41);
    // All but ten categories keep four of their known presences.
    for category in 10..40 {
        let mut seen = 0;
        for image in 0..800 {
            let label = &mut w.labels[image * 40 + category];
            if *label > 0 {
                seen += 1;
                *label = if seen > 4 { 0 } else { 1 };
            }
        }
    }
    let j = w.judge(&w.scores(1.9, 1), &w.scores(1.5, 2));
    let width = |d: Interval| d.upper - d.lower;
    assert_eq!(j.categories.len(), 40);
    assert!(
        width(j.by_presences) < 0.7 * width(j.difference),
        "{:?} {:?}",
        j.by_presences,
        j.difference
    );
    let presences = |c: &CategoryOutcome| c.present as f64;
    let weight: f64 = j.categories.iter().map(presences).sum();
    let sum = |c: &CategoryOutcome| presences(c) * (c.candidate - c.champion);
    let expected = j.categories.iter().map(sum).sum::<f64>() / weight;
    assert!((j.by_presences.estimate - expected).abs() < 1e-12);
    assert!((j.difference.estimate - (j.candidate_map - j.champion_map)).abs() < 1e-12);
}

#[test]
fn relatives_do_not_pass_for_independent_pictures() {
    let w = world(400, 6, 0.5, 31);
    let (a, b) = (w.scores(1.6, 1), w.scores(1.4, 2));
    let alone = w.judge(&a, &b).difference;
    // The same pictures, each four times.
    let four = |x: &[f32]| x.repeat(4);
    let copies = World {
        categories: w.categories.clone(),
        groups: w.groups.repeat(4),
        parts: vec![0; 1600],
        labels: w.labels.repeat(4),
        truth: w.truth.repeat(4),
    };
    let grouped = copies.judge(&four(&a), &four(&b)).difference;
    let apart = World {
        groups: (0..1600).collect(),
        parts: vec![0; 1600],
        ..copies
    };
    let apart = apart.judge(&four(&a), &four(&b)).difference;
    let width = |d: Interval| d.upper - d.lower;
    assert!((width(grouped) / width(alone) - 1.0).abs() < 0.1);
    assert!(
        width(apart) < 0.65 * width(alone),
        "copies would pass for evidence"
    );
}

#[test]
fn tags_have_gates_of_their_own() {
    let w = world(800, 12, 0.5, 41);
    let champion = w.scores(2.0, 1);
    // The same order of scores, but a threshold that tags nearly everything.
    let flood = w.judge_tags([(&champion, 0.02), (&champion, 0.6)], TagTarget::BestF1);
    assert_eq!(flood.verdict, Verdict::Hold);
    let names = failed(&flood);
    for gate in [
        "tags not certainly worse",
        "tags right",
        "tags as good as those emitted now",
        "tags a picture",
    ] {
        assert!(names.contains(&gate), "{gate}: {names:?}");
    }
    // Better scores, tags that are better: nothing against it.
    let better = w.scores(3.0, 2);
    let good = w.judge_tags([(&better, 0.8), (&champion, 0.6)], TagTarget::BestF1);
    assert_eq!(good.verdict, Verdict::Promote, "{:?}", failed(&good));
    let tags = good.tags.as_ref().unwrap();
    assert!(tags.f1.lower > 0.0 && tags.candidate.right > tags.champion.right);
    assert_eq!(tags.categories.len(), 12);
    assert!(
        good.summary().starts_with("tags right "),
        "{}",
        good.summary()
    );
    // Fewer than before are right although that was asked for.
    let loose = w.judge_tags(
        [(&better, 0.3), (&champion, 0.97)],
        TagTarget::Precision(0.9),
    );
    assert!(failed(&loose).contains(&"tags as often right as asked for"));
    assert_eq!(loose.verdict, Verdict::Hold);
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
    let ranked = |scores: &[f32], labels: &[i8]| {
        let parts = vec![0; labels.len()];
        Ranking::new(scores.into(), labels.into(), &parts)
    };
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
fn scores_of_different_heads_are_not_compared() {
    // Both parts are ranked rightly; the second head's scores lie lower altogether.
    let (scores, labels) = ([5.0, 4.0, 2.0, 1.0, 0.0], [1, -1, 1, -1, -1]);
    let of = |parts: [usize; 5]| {
        let ranking = Ranking::new((&scores).into(), (&labels).into(), &parts);
        ranking.average_precision(&[1; 5]).unwrap()
    };
    assert_eq!(of([0, 0, 1, 1, 1]), 1.0);
    assert!((of([0; 5]) - 5.0 / 6.0).abs() < 1e-12);
    // A part without an absence says nothing.
    assert_eq!(of([0, 1, 1, 1, 1]), 0.5);
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

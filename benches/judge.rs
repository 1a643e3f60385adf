//! How often the judge is right: simulated models whose true difference is known, photos and labels
//! as many and as rare as in a real retraining (2,200 photos, 36 categories, 2 of them a photo, a
//! tenth of the labels known).
//!
//! `cargo bench --bench judge -- benches/runs/judge.csv` writes a row a judgement and prints how
//! often each verdict fell. `ROUNDS=20` makes it shorter.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt::Write;
use tagstream::retrain::judge::{Emitted, JudgeConfig, Judgement, Trial, TrialTags, judge};
use tagstream_model::registry::Verdict;
use tagstream_train::eval::metrics::average_precision;
use tagstream_train::eval::tags::{TagTarget, TagsConfig, thresholds};

const IMAGES: usize = 2200;
const CATEGORIES: usize = 36;
/// How much of the noise of two models on one picture is the same: between zero-shot scores and
/// those of a memory on photos of Corel the correlation is .93 within presences, .81 within
/// absences.
const SHARED: f64 = 0.93;
/// Of the champion, about as good as a model after its first retraining.
const CHAMPION_MAP: f64 = 47.0;
const PARTS: usize = 5;
/// Share of the labels that are known.
const KNOWN: f64 = 0.1;

/// What a round is about.
struct Case {
    name: &'static str,
    /// The candidate's true gain, points.
    difference: f64,
    images: usize,
    /// Share of the known labels that are wrong.
    flipped: f64,
}

/// Share of the photos that show a category: from 14 % to 1.6 %, 2.04 categories a photo.
fn rate(category: usize) -> f64 {
    0.14 * (-(category as f64) * 0.0622).exp()
}

fn normal(random: &mut StdRng) -> f64 {
    (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
}

/// What the photos show, and what two models of these signals say, as log-odds.
struct Photos {
    truth: Array2<i8>,
    odds: [Array2<f32>; 2],
}

impl Photos {
    fn draw(images: usize, signals: [f64; 2], random: &mut StdRng) -> Self {
        let shape = (images, CATEGORIES);
        let mut truth = Array2::from_elem(shape, -1i8);
        let mut odds = [Array2::zeros(shape), Array2::zeros(shape)];
        for image in 0..images {
            for category in 0..CATEGORIES {
                let rate = rate(category);
                let present = random.random::<f64>() < rate;
                truth[[image, category]] = if present { 1 } else { -1 };
                let shared = normal(random);
                for (odds, signal) in odds.iter_mut().zip(signals) {
                    let own = normal(random);
                    let noise = SHARED.sqrt() * shared + (1.0 - SHARED).sqrt() * own;
                    let seen = noise + if present { signal } else { 0.0 };
                    let prior = (rate / (1.0 - rate)).ln();
                    odds[[image, category]] =
                        (signal * seen - signal * signal / 2.0 + prior) as f32;
                }
            }
        }
        Photos { truth, odds }
    }

    /// A share of the labels, drawn evenly, of which a share says the opposite.
    fn labels(&self, case: &Case, random: &mut StdRng) -> Array2<i8> {
        self.truth.mapv(|label| {
            let (known, wrong) = (random.random::<f64>(), random.random::<f64>());
            match (known < KNOWN, wrong < case.flipped) {
                (false, _) => 0,
                (true, false) => label,
                (true, true) => -label,
            }
        })
    }
}

/// True mAP of a signal, percent.
fn true_map(signal: f64) -> f64 {
    let photos = Photos::draw(20_000, [signal; 2], &mut StdRng::seed_from_u64(7));
    let columns = photos.odds[0]
        .columns()
        .into_iter()
        .zip(photos.truth.columns());
    let aps = columns.filter_map(|(odds, truth)| Some(average_precision(odds, truth)?.plain));
    100.0 * aps.sum::<f64>() / CATEGORIES as f64
}

/// The signal of a true mAP.
fn signal_of(map: f64) -> f64 {
    let (mut low, mut high) = (0.5, 5.0);
    for _ in 0..14 {
        let middle = (low + high) / 2.0;
        if true_map(middle) < map {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// Thresholds of every photo, chosen by the labels of other parts.
fn by_other_parts(odds: &Array2<f32>, labels: &Array2<i8>, config: &TagsConfig) -> Array2<f32> {
    let mut chosen = Array2::zeros(labels.dim());
    for part in 0..PARTS {
        let others: Vec<usize> = (0..labels.nrows())
            .filter(|at| at % PARTS != part)
            .collect();
        let odds = odds.select(Axis(0), &others);
        let known = labels.select(Axis(0), &others);
        let found: Array1<f32> = thresholds(odds.view(), known.view(), 1.0, config).into();
        let mut rows = chosen.slice_mut(s![part..;PARTS, ..]);
        rows.rows_mut()
            .into_iter()
            .for_each(|mut row| row.assign(&found));
    }
    chosen
}

/// A candidate and a champion of these signals before the judge.
fn judged(signals: [f64; 2], case: &Case, (look, seed): (usize, u64)) -> Judgement {
    let mut random = StdRng::seed_from_u64(seed);
    let config = TagsConfig::default();
    // The champion's thresholds are of other labels: it has been serving for a while.
    let before = Photos::draw(IMAGES, [signals[1]; 2], &mut random);
    let labels = before.labels(case, &mut random);
    let own: Array1<f32> = thresholds(before.odds[0].view(), labels.view(), 1.0, &config).into();
    let photos = Photos::draw(case.images, signals, &mut random);
    let labels = photos.labels(case, &mut random);
    // The candidate's are chosen by the other parts' labels.
    let chosen = photos
        .odds
        .each_ref()
        .map(|odds| by_other_parts(odds, &labels, &config));
    let names: Vec<String> = (0..CATEGORIES).map(|k| format!("c{k}")).collect();
    let groups: Vec<usize> = (0..case.images).collect();
    let own: ArrayView2<'_, f32> = own.broadcast(labels.dim()).expect("a row fits all rows");
    let emitted = |model: usize, thresholds| Emitted {
        odds: photos.odds[model].view(),
        thresholds,
    };
    let tags = TrialTags {
        candidate: emitted(0, chosen[0].view()),
        champion: emitted(1, own),
        champion_alike: emitted(1, chosen[1].view()),
        target: TagTarget::BestF1,
    };
    // A held-out fifth was left out by one head, all photos by five.
    let heads = if case.images == IMAGES { PARTS } else { 1 };
    let parts: Vec<usize> = (0..case.images).map(|at| at % heads).collect();
    let trial = Trial {
        categories: &names,
        candidate: photos.odds[0].view(),
        champion: photos.odds[1].view(),
        labels: labels.view(),
        groups: &groups,
        parts: &parts,
        tags: Some(tags),
        look,
    };
    judge(&trial, &[], &JudgeConfig::default(), seed)
}

fn row(rows: &mut String, case: &Case, seed: u64, j: &Judgement) {
    let failed: Vec<&str> = j.failed_gates().map(|gate| gate.name.as_str()).collect();
    let _ = writeln!(
        rows,
        "{},{},{},{},{},{seed},{},{:.3},{:.3},{:.3},{}",
        case.name,
        case.difference,
        case.images,
        case.flipped,
        j.look,
        j.verdict,
        100.0 * j.difference.estimate,
        100.0 * j.difference.lower,
        100.0 * j.difference.upper,
        failed.join(";")
    );
}

/// Everything that is asked of the judge.
fn cases() -> Vec<Case> {
    let gains = [4.6, 0.0, -1.0, -4.0];
    let of = |name, images, flipped| {
        gains.map(|difference| Case {
            name,
            difference,
            images,
            flipped,
        })
    };
    let noisy = [0.05, 0.1, 0.2].map(|flipped| of("labels flipped", IMAGES, flipped));
    [
        of("out of fold", IMAGES, 0.0),
        of("held-out fifth", IMAGES / 5, 0.0),
    ]
    .into_iter()
    .chain(noisy)
    .flatten()
    .collect()
}

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok());
    let rounds: u64 = rounds.unwrap_or(200);
    let mut rows = String::from(
        "what,true_difference,images,flipped,look,seed,verdict,estimate,lower,upper,failed_gates\n",
    );
    let champion = signal_of(CHAMPION_MAP);
    println!("what, true difference, photos, labels flipped: promoted, held, rejected");
    for case in cases() {
        let signals = [signal_of(CHAMPION_MAP + case.difference), champion];
        let mut fell = [0u64; 3];
        for seed in 0..rounds {
            let j = judged(signals, &case, (1, seed));
            fell[j.verdict as usize] += 1;
            row(&mut rows, &case, seed, &j);
        }
        keep(&rows);
        let [promoted, held, rejected] = fell.map(|n| n as f64 / rounds as f64);
        println!(
            "{}, {:+.1}, {}, {}: {promoted:.3}, {held:.3}, {rejected:.3}",
            case.name, case.difference, case.images, case.flipped
        );
    }
    // The same champion looked at again and again with candidates one point worse.
    let case = Case {
        name: "looks",
        difference: -1.0,
        images: IMAGES,
        flipped: 0.0,
    };
    let signals = [signal_of(CHAMPION_MAP + case.difference), champion];
    let (champions, looks) = (rounds / 4, 28);
    let mut passed = 0;
    for champion in 0..champions {
        let mut once = false;
        for look in 1..=looks {
            let seed = 1_000_000 + champion * 100 + look as u64;
            let j = judged(signals, &case, (look, seed));
            once |= j.verdict == Verdict::Promote;
            row(&mut rows, &case, seed, &j);
        }
        passed += u64::from(once);
    }
    let share = passed as f64 / champions.max(1) as f64;
    println!("-1.0 passes at least once in {looks} looks: {share:.3} of {champions} champions");
    keep(&rows);
}

/// Writes the rows so far to the file that was named.
fn keep(rows: &str) {
    if let Some(path) = std::env::args().find(|path| path.ends_with(".csv")) {
        std::fs::write(path, rows).expect("the rows can be written");
    }
}

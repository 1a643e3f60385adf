//! The fuzzers' seeds, every input that once broke something, and mutations of them, through the
//! fuzzers' own bodies.

#[path = "../../fuzz/bodies/mod.rs"]
mod bodies;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn seeds(name: &str) -> Vec<Vec<u8>> {
    // Both take images.
    let name = if name == "decoders" { "image" } else { name };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds for {name}");
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

/// Runs a body; on a panic the input is kept, so that it can become a seed.
fn run(name: &str, body: bodies::Body, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
        let kept = std::env::temp_dir().join(format!("tagstream-fuzz-{name}-{}", input.len()));
        std::fs::write(&kept, input).unwrap();
        panic!("{name}: {what} broke it; the input is {}", kept.display());
    }
}

#[test]
fn every_kept_input_is_handled() {
    for (name, body) in bodies::ALL {
        for (i, input) in seeds(name).iter().enumerate() {
            run(name, body, input, &format!("seed {i}"));
        }
    }
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut StdRng) {
    const BYTES: [u8; 12] = [
        0, 1, 0x7f, 0x80, 0xff, b'"', b'/', b'.', b'%', b'9', b'-', b',',
    ];
    for _ in 0..dice.random_range(1..6) {
        if input.is_empty() {
            input.push(0);
        }
        let at = dice.random_range(0..input.len());
        let until = (at + dice.random_range(1..17)).min(input.len());
        match dice.random_range(0..8) {
            0 => input[at] ^= 1 << dice.random_range(0..8),
            1 | 2 => input[at] = *BYTES.choose(dice).unwrap(),
            3 => input[at] = dice.random(),
            4 => drop(input.drain(at..until)),
            5 => {
                let piece = input[at..until].to_vec();
                input.splice(at..at, piece);
            }
            6 => input.truncate(at + 1),
            _ => {
                let other = others.choose(dice).unwrap();
                let from = dice.random_range(0..other.len().max(1)).min(other.len());
                let to = (from + dice.random_range(1..64)).min(other.len());
                input.splice(at..until, other[from..to].iter().copied());
            }
        }
    }
}

/// `TAGSTREAM_FUZZ_SECONDS` runs each target for so long instead, `TAGSTREAM_FUZZ_TARGET` only one
/// of them, `TAGSTREAM_FUZZ_SEED` others.
#[test]
fn mutations_of_every_seed_are_handled() {
    let setting = |name: &str| std::env::var(name).ok();
    let seconds: Option<u64> = setting("TAGSTREAM_FUZZ_SECONDS").map(|n| n.parse().unwrap());
    let only = setting("TAGSTREAM_FUZZ_TARGET");
    let seed = setting("TAGSTREAM_FUZZ_SEED").map_or(1, |n| n.parse().unwrap());
    for (name, body) in bodies::ALL {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let seeds = seeds(name);
        let mut dice = StdRng::seed_from_u64(seed);
        let started = std::time::Instant::now();
        let mut count: u64 = 0;
        loop {
            let enough = match seconds {
                Some(seconds) => started.elapsed().as_secs() >= seconds,
                None => count >= 2_000,
            };
            if enough {
                break;
            }
            let mut input = seeds.choose(&mut dice).unwrap().clone();
            mutate(&mut input, &seeds, &mut dice);
            run(
                name,
                body,
                &input,
                &format!("mutation {count} of seed {seed}"),
            );
            count += 1;
        }
        eprintln!(
            "{name}: {count} inputs in {:.0} s",
            started.elapsed().as_secs_f64()
        );
    }
}

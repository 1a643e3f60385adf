//! The process dies, at random moments and at each step of a commit, and is started again: the rows
//! are those of an undisturbed run.

use crate::child::Stage;
use crate::harness::World;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tagstream_core::failpoint;

const MESSAGES: usize = 240;
const PARTITIONS: i32 = 2;

fn world(name: &str) -> (World, usize) {
    let mut world = World::new(name, PARTITIONS);
    // Small files, so that there are many commits to die in.
    world.config.output.max_file_age_ms = 20;
    let broken = world.produce(0, MESSAGES);
    (world, broken)
}

/// What an image says, however often it is asked.
fn rows_by_image(world: &World) -> BTreeMap<String, (i32, i64, Vec<f32>)> {
    let rows = world.rows();
    let count = rows.len();
    let map: BTreeMap<_, _> = rows
        .into_iter()
        .map(|r| (r.image_id, (r.partition, r.offset, r.embedding)))
        .collect();
    assert_eq!(map.len(), count, "an image is there twice");
    map
}

fn assert_like_undisturbed(
    world: &World,
    broken: usize,
    undisturbed: &BTreeMap<String, (i32, i64, Vec<f32>)>,
) {
    let half = MESSAGES as i64 / 2;
    world.assert_exactly_once(&[half, half], MESSAGES - broken);
    for (image, (partition, offset, embedding)) in rows_by_image(world) {
        let (p, o, e) = &undisturbed[&image];
        assert_eq!((partition, offset), (*p, *o), "{image}");
        // The last bits of a sum depend on the size of the batch that the image happened to be in.
        let near = embedding.iter().zip(e).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "{image}: {embedding:?}, undisturbed {e:?}");
    }
}

/// `TAGSTREAM_TEST_CRASH_SEEDS` raises the number of seeds.
#[test]
fn sigkill_at_random_moments_loses_and_doubles_nothing() {
    let seeds: u64 = std::env::var("TAGSTREAM_TEST_CRASH_SEEDS").map_or(10, |n| n.parse().unwrap());
    let (calm, broken) = world("calm");
    let started = Instant::now();
    calm.start("calm", "").finish();
    let duration = started.elapsed();
    let undisturbed = rows_by_image(&calm);
    assert_eq!(undisturbed.len(), MESSAGES - broken);
    let (next, kills) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds {
                        return;
                    }
                    let mut random = StdRng::seed_from_u64(seed);
                    let (world, broken) = world(&format!("kill-{seed}"));
                    for life in 0..3 {
                        let moment = duration.mul_f64(random.random_range(0.1..1.1));
                        let mut stage = world.start(&format!("life-{life}"), "");
                        match stage.wait_or_kill_after(moment) {
                            Some(status) => {
                                assert!(status.success(), "seed {seed}: {status}\n{}", stage.log())
                            }
                            None => _ = kills.fetch_add(1, Ordering::SeqCst),
                        }
                    }
                    world.start("last", "").finish();
                    assert_like_undisturbed(&world, broken, &undisturbed);
                }
            });
        }
    });
    assert!(
        kills.load(Ordering::SeqCst) >= seeds,
        "the process was hardly ever killed alive"
    );
}

/// Dies at the N-th pass of each place, then is started again.
#[test]
fn dying_at_any_step_of_a_commit_loses_and_doubles_nothing() {
    let (calm, _) = world("calm-steps");
    calm.start("calm", "").finish();
    let undisturbed = rows_by_image(&calm);
    let places = failpoint::places(&failpoint::MESSAGE_STEPS);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(place) = places.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    let pass = match place.as_str() {
                        // Once for each image; the others once for each file.
                        p if p.starts_with("fetch") || p.starts_with("infer") => 30,
                        "offset.commit.after" => 1,
                        _ => 2,
                    };
                    let (world, broken) = world(&format!("step-{place}"));
                    world.start("dying", &format!("{place}=kill@{pass}")).dies();
                    world.start("again", "").finish();
                    assert_like_undisturbed(&world, broken, &undisturbed);
                }
            });
        }
    });
}

/// A process is frozen just before or just after its put, another takes its partitions over and
/// reads everything; then the first wakes.
#[test]
fn a_frozen_process_that_wakes_after_its_successor_writes_nothing_twice() {
    for place in ["put.before", "put.after"] {
        let (world, broken) = world(&format!("frozen-{place}"));
        let mut zombie: Stage = world.start("zombie", &format!("{place}=stop@2"));
        zombie.freezes();
        let successor = world.start("successor", "");
        successor.finish();
        let half = MESSAGES as i64 / 2;
        world.assert_exactly_once(&[half, half], MESSAGES - broken);
        zombie.signal("CONT");
        zombie.wait();
        world.assert_exactly_once(&[half, half], MESSAGES - broken);
    }
}

/// An injected error ends the process with a code that says to try again, and trying again helps.
#[test]
fn an_error_ends_the_process_with_a_code_and_the_next_one_goes_on() {
    let (world, broken) = world("error");
    let mut stage = world.start("failing", "put.before=error@3");
    assert_eq!(stage.wait().code(), Some(75), "{}", stage.log());
    world.start("again", "").finish();
    let half = MESSAGES as i64 / 2;
    world.assert_exactly_once(&[half, half], MESSAGES - broken);
}

/// SIGTERM finishes what was read; a hang keeps nobody from ending by the second signal.
#[test]
fn sigterm_drains_and_a_second_one_ends_at_once() {
    let (world, _) = world("term");
    let mut stage = world.start("hanging", "put.before=hang@2");
    let started = Instant::now();
    while !stage.log().contains("file committed") {
        assert!(started.elapsed() < crate::harness::STUCK, "{}", stage.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.signal("TERM");
    while !stage.log().contains("stopping") {
        assert!(started.elapsed() < crate::harness::STUCK, "{}", stage.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.signal("TERM");
    assert_eq!(stage.wait().code(), Some(1), "{}", stage.log());
}

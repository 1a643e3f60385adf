//! SIGKILL during a retraining: at random moments, and between its version and its decision.

use super::world::{Words, World, truth};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;
use tagstream_model::registry::Action;

/// Whatever the moment: the registry is whole, one version serves, nothing that was decided is
/// forgotten, and the next run finishes the work. 20 kills, or as many as `TAGSTREAM_TEST_KILLS`
/// says.
#[test]
fn a_killed_run_leaves_a_whole_registry_and_is_finished_by_the_next() {
    let kills: u64 = match std::env::var("TAGSTREAM_TEST_KILLS") {
        Ok(text) => text.parse().expect("TAGSTREAM_TEST_KILLS is a number"),
        Err(_) => 20,
    };
    let seed = 4;
    let mut random = StdRng::seed_from_u64(seed);
    let images = 60 * (kills + 2);
    let mut world = World::new(
        images,
        Words::Unknown,
        "method = \"linear-probe\"\nset = [\"optimizer.epochs=12\"]",
    );
    // How long an undisturbed run takes here: kills are drawn from that time.
    world.label(0..60, truth);
    let began = Instant::now();
    let code = world.finish(&[]);
    assert!(matches!(code, Some(0 | 3 | 99)), "{}", world.log());
    let whole_run = began.elapsed();

    let mut labelled = 1;
    let mut decided = world.history();
    for kill in 0..kills {
        // A run that has decided leaves nothing to do: it gets new labels.
        if decided.len() as u64 > labelled {
            world.label(60 * labelled..60 * (labelled + 1), truth);
            labelled += 1;
        }
        let mut child = world.retrain(&[]);
        // Not a wait for anything: the moment is what varies.
        std::thread::sleep(whole_run.mul_f64(random.random_range(0.0..1.1)));
        child.kill().unwrap();
        child.wait().unwrap();
        world.assert_whole();
        let history = world.history();
        assert!(
            history.len() >= decided.len() && history[..decided.len()] == decided,
            "kill {kill} of seed {seed}: the history lost an entry"
        );
        decided = history;
    }

    let code = world.finish(&[]);
    assert!(matches!(code, Some(0 | 3 | 99)), "{}", world.log());
    world.assert_whole();
    let history = world.history();
    // Every batch of labels was decided on exactly once, by one registered version each (and the
    // first model).
    assert_eq!(history.len() as u64, labelled + 1, "{history:#?}");
    assert_eq!(world.versions() as u64, labelled + 1);
    let mut runs: Vec<_> = history.iter().filter_map(|e| e.run.clone()).collect();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len() as u64, labelled);
    assert_eq!(history[0].action, Action::Promoted);
}

/// The version is registered, its decision is not: the labels are not taken for decided ones, and
/// the next run decides on the same version.
#[test]
fn a_run_killed_between_its_version_and_its_decision_is_finished_by_the_next() {
    let mut world = World::new(
        60,
        Words::Unknown,
        "method = \"linear-probe\"\nset = [\"optimizer.epochs=2\"]",
    );
    world.label_all(truth);
    // The pointer is first moved to raise the fence, then by the decision.
    let status = world.retrain_failing("pointer.before=kill@2");
    assert_eq!(status.signal(), Some(9), "{}", world.log());
    assert_eq!((world.versions(), world.history().len()), (2, 1));

    let code = world.finish(&[]);
    assert!(matches!(code, Some(0 | 3 | 99)), "{}", world.log());
    assert_eq!((world.versions(), world.history().len()), (2, 2));
    // Now there is nothing left to do.
    assert_eq!(world.finish(&[]), Some(99));
    assert_eq!((world.versions(), world.history().len()), (2, 2));
}

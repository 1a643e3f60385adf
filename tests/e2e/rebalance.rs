//! Members of the group come and go while messages are read: partitions move, nothing is lost or
//! doubled, nobody ends too early.

use crate::child::{Launch, Stage};
use crate::harness::{STUCK, World};
use std::time::{Duration, Instant};

const FOR_EVER: Launch<'_> = Launch {
    model: None,
    failpoints: "",
    for_ever: true,
    http: false,
    memory_kib: 0,
    group: None,
    environment: &[],
};

/// Waits until the table has `rows` rows.
fn wait_for_rows(world: &World, rows: usize, stages: &[&Stage]) {
    let started = Instant::now();
    while world.rows().len() < rows {
        let logs = || stages.iter().map(|s| s.log()).collect::<String>();
        assert!(started.elapsed() < STUCK, "{}", logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The group still believes in a process that hangs. Whoever joins gets a part of the partitions at
/// first; it must not conclude from its own part that everything is read.
#[test]
fn a_run_to_the_end_waits_for_what_others_hold() {
    let world = World::new("holder", 2);
    let broken = world.produce(0, 200);
    let hanging = Launch {
        failpoints: "put.before=hang",
        ..FOR_EVER
    };
    let mut holder = world.launch("holder", &hanging);
    holder.says("partition assigned", 2);
    let mut second = world.start("second", "");
    second.says("looking after the partitions", 1);
    assert!(second.is_running());
    drop(holder);
    second.finish();
    world.assert_exactly_once(&[100, 100], 200 - broken);
}

#[test]
fn partitions_move_to_a_second_member_and_back() {
    let mut world = World::new("rebalance", 4);
    // Half of a session is the time to finish what was read before a partition is given away.
    world.config.kafka.session_timeout_ms = 10_000;
    world.config.output.max_file_age_ms = 100;
    let mut broken = world.produce(0, 400);
    let mut first = world.launch("first", &FOR_EVER);
    first.says("file committed", 1);
    let mut second = world.launch("second", &FOR_EVER);
    broken += world.produce(400, 400);
    second.says("partition assigned", 1);
    broken += world.produce(800, 400);
    second.says("file committed", 1);
    first.signal("TERM");
    let status = first.wait();
    assert!(status.success(), "{status}\n{}", first.log());
    broken += world.produce(1200, 400);
    wait_for_rows(&world, 1600 - broken, &[&first, &second]);
    second.signal("TERM");
    let status = second.wait();
    assert!(status.success(), "{status}\n{}", second.log());
    world.assert_exactly_once(&[400; 4], 1600 - broken);
    // What had been read was finished before the partitions were given away: nobody did it again.
    for stage in [&first, &second] {
        assert!(
            !stage.log().contains("another writer committed"),
            "{}",
            stage.log()
        );
    }
}

/// The polling thread stands still for longer than the group allows. The process ends, aloud; the
/// next one goes on.
#[test]
fn being_thrown_out_of_the_group_ends_the_process() {
    let mut world = World::new("thrown-out", 1);
    let usual = world.config.kafka.clone();
    world.config.kafka.session_timeout_ms = 1_500;
    // Half of it is what a start may take: enough on a busy machine.
    world.config.kafka.max_poll_interval_ms = 6_000;
    let broken = world.produce(0, 100);
    let stuck = Launch {
        failpoints: "source.poll=delay15000@10",
        ..FOR_EVER
    };
    let mut stage = world.launch("stuck", &stuck);
    assert_eq!(stage.wait().code(), Some(75), "{}", stage.log());
    assert!(
        stage.log().contains("thrown out of the consumer group"),
        "{}",
        stage.log()
    );
    world.config.kafka = usual;
    world.start("again", "").finish();
    world.assert_exactly_once(&[100], 100 - broken);
}

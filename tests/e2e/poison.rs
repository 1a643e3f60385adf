//! No message ends the process for ever: whatever it ends it by, it is found and set aside.

use crate::child::{Launch, Stage};
use crate::harness::{STUCK, World, is_real_broker, not_tested, unique};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Enough for the stage, and soon used up.
const MEMORY_KIB: u64 = 1_200_000;
const ABORT: i32 = 6;
const KILL: i32 = 9;
const SEGV: i32 = 11;

/// Whether a process ended by what embedded brokers do only: they name members by addresses in
/// their memory. One that they threw out for being late comes back by its old name, a new process
/// can get the same, and its client takes itself for the leader of a group of none
/// (librdkafka 2.12, `rd_kafka_sticky_assignor_assign_cb`): no message of ours had part in it.
fn by_a_doubled_name(status: ExitStatus) -> bool {
    let doubled = !is_real_broker() && status.signal() == Some(SEGV);
    if doubled {
        println!("an embedded broker gave two members one name: started again");
    }
    doubled
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Signal(i32),
    Exit(i32),
}

/// A control group of the kernel's with little memory, where one can be made.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<Self> {
        let name = unique("tagstream");
        let limit = (MEMORY_KIB << 10).to_string();
        for (folder, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let folder = Path::new(folder).join(&name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = MemoryGroup(folder);
            if std::fs::write(group.0.join(file), &limit).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl World {
    /// `count` good messages, and at the offsets `marked` of partition 0 some that end the process.
    fn produce_marked(&self, count: usize, marked: &[usize]) {
        let uri = format!("file://{}", self.picture(1).display());
        let value = |(i, name): (usize, String)| {
            let value = serde_json::json!({"image_id": name, "uri": uri}).to_string();
            (i as i32 % self.partitions, Some(value))
        };
        let name = |i: usize| match i.is_multiple_of(self.partitions as usize)
            && marked.contains(&(i / self.partitions as usize))
        {
            true => (i, format!("marked-{i}")),
            false => (i, format!("image-{i}")),
        };
        self.produce_raw((0..count).map(name).map(value));
    }

    /// (offset, reason) of the messages that were set aside.
    fn poison(&self) -> Vec<(String, String)> {
        let letters = self.read_topic(&self.config.output.dead_letter_topic);
        let poison = letters.into_iter().map(|(_, _, headers)| {
            assert_eq!(headers["error.kind"], "poison", "{headers:?}");
            (
                headers["source.offset"].clone(),
                headers["error.message"].clone(),
            )
        });
        let mut poison: Vec<_> = poison.collect();
        poison.dedup();
        poison
    }

    /// Starts the stage again and again until it has read everything; how often it died, as
    /// `expected`.
    fn until_done(&self, name: &str, launch: &Launch<'_>, expected: Death) -> usize {
        let mut deaths = 0;
        for life in 0..20 {
            let mut stage = self.launch(&format!("{name}-{life}"), launch);
            let status = stage.wait();
            if status.success() {
                return deaths;
            }
            if by_a_doubled_name(status) {
                continue;
            }
            deaths += 1;
            let death = status.signal().map(Death::Signal);
            let death = death.or(status.code().map(Death::Exit));
            assert_eq!(death, Some(expected), "{status}:\n{}", stage.log());
        }
        panic!("it dies for ever");
    }
}

#[test]
fn a_message_that_aborts_the_process_is_set_aside() {
    let world = World::new("abort", 1);
    world.produce_marked(40, &[17]);
    let launch = Launch {
        failpoints: "marked=abort",
        ..Launch::default()
    };
    let deaths = world.until_done("abort", &launch, Death::Signal(ABORT));
    // Three, then two under the message alone.
    assert_eq!(deaths, 5);
    world.assert_exactly_once(&[40], 39);
    let poison = world.poison();
    assert_eq!(poison.len(), 1);
    assert_eq!(poison[0].0, "17");
    let reason = &poison[0].1;
    assert!(
        reason.contains("died 2 times") && reason.contains("decoding"),
        "{reason}"
    );
    // The normal pace again.
    world.produce(40, 20);
    let mut after = world.launch("after", &launch);
    assert!(after.wait().success(), "{}", after.log());
    assert!(
        !after.log().contains("processes died here"),
        "{}",
        after.log()
    );
}

/// A bug that a message meets ends the process with an error, not by a signal.
#[test]
fn a_message_that_makes_a_task_panic_is_set_aside() {
    let world = World::new("panic", 1);
    world.produce_marked(20, &[7]);
    let launch = Launch {
        failpoints: "marked=panic",
        ..Launch::default()
    };
    let deaths = world.until_done("panic", &launch, Death::Exit(1));
    assert_eq!(deaths, 5);
    world.assert_exactly_once(&[20], 19);
    assert_eq!(world.poison()[0].0, "7");
}

/// Rows that were finished long before the process died are in no file yet: what kills lies far
/// behind the head of the chain.
#[test]
fn what_kills_far_behind_the_head_is_found_and_so_is_the_next() {
    let mut world = World::new("far", 1);
    world.config.output.max_file_age_ms = 60_000;
    world.config.output.max_file_mib = 64;
    world.produce_marked(1_500, &[1_400, 1_403]);
    let launch = Launch {
        failpoints: "marked=kill",
        ..Launch::default()
    };
    let deaths = world.until_done("far", &launch, Death::Signal(KILL));
    // Nine tell all; a life that ends before it is noted, on a slow machine, tells nothing.
    assert!(deaths <= 12, "{deaths} deaths");
    world.assert_exactly_once(&[1_500], 1_498);
    let poison = world.poison();
    let offsets: Vec<&str> = poison.iter().map(|(offset, _)| &**offset).collect();
    assert_eq!(offsets, ["1400", "1403"]);
}

#[test]
fn a_message_that_takes_all_memory_is_set_aside() {
    let world = World::new("hoard", 1);
    world.produce_marked(30, &[3]);
    let launch = Launch {
        failpoints: "marked=hoard",
        memory_kib: MEMORY_KIB,
        ..Launch::default()
    };
    // An allocation that fails aborts.
    world.until_done("hoard", &launch, Death::Signal(ABORT));
    world.assert_exactly_once(&[30], 29);
    assert_eq!(world.poison()[0].0, "3");
}

/// As a container's limit does it.
#[test]
fn a_message_for_which_the_kernel_kills_the_process_is_set_aside() {
    let Some(group) = MemoryGroup::new() else {
        return not_tested("a kill by the memory limit of a control group: none can be made here");
    };
    let world = World::new("limit", 1);
    world.produce_marked(30, &[3]);
    let launch = Launch {
        failpoints: "marked=hoard",
        group: Some(&group.0),
        ..Launch::default()
    };
    world.until_done("limit", &launch, Death::Signal(KILL));
    world.assert_exactly_once(&[30], 29);
    assert_eq!(world.poison()[0].0, "3");
}

/// A group of three, each member ended in another way by the same message, each started again: no
/// innocent message is set aside, and the other partitions get on.
#[test]
fn a_group_of_three_sets_aside_the_one_message_that_ends_its_members() {
    let world = World::new("group", 3);
    let count = 120;
    let group = MemoryGroup::new();
    world.produce_marked(count, &[11]);
    let launch = |member: usize| Launch {
        failpoints: ["marked=abort", "marked=hoard", "marked=kill"][member],
        memory_kib: if group.is_none() { MEMORY_KIB } else { 0 },
        group: group.as_ref().filter(|_| member == 1).map(|g| &*g.0),
        for_ever: true,
        ..Launch::default()
    };
    let mut lives = 0;
    let mut start = |member: usize| {
        lives += 1;
        (
            member,
            world.launch(&format!("group-{lives}"), &launch(member)),
        )
    };
    let mut members: Vec<(usize, Stage)> = (0..3).map(&mut start).collect();
    let mut deaths = 0;
    let started = Instant::now();
    while world.rows().len() < count - 1 {
        assert!(
            started.elapsed() < 4 * STUCK,
            "{deaths} deaths, {} rows",
            world.rows().len()
        );
        for (member, stage) in &mut members {
            if let Some(status) = stage.ended() {
                let signal = status.signal();
                let doubled = by_a_doubled_name(status);
                assert!(
                    doubled || [Some(ABORT), Some(KILL)].contains(&signal),
                    "{status}:\n{}",
                    stage.log()
                );
                deaths += usize::from(!doubled);
                *stage = start(*member).1;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for (_, stage) in &members {
        stage.signal("TERM");
    }
    for (_, mut stage) in members {
        assert!(stage.wait().success(), "{}", stage.log());
    }
    world.assert_exactly_once(&[40, 40, 40], count - 1);
    assert_eq!(world.poison().len(), 1);
    assert_eq!(world.poison()[0].0, "11");
    // A member that dies while the group is being dealt out anew may have died for nobody's record.
    assert!((5..=12).contains(&deaths), "{deaths} deaths");
}

/// Ends that are no message's fault: told to end while something hangs, and a step that fails.
#[test]
fn lives_that_end_in_order_are_no_deaths() {
    let mut world = World::new("order", 1);
    world.config.shutdown.drain_timeout_ms = 300;
    world.produce(0, 10);
    for life in 0..4 {
        let launch = Launch {
            failpoints: "infer.before=hang",
            for_ever: true,
            ..Launch::default()
        };
        let mut stage = world.launch(&format!("hangs-{life}"), &launch);
        stage.says("failpoint: hang", 1);
        stage.signal("TERM");
        stage.wait();
        let mut stage = world.start(&format!("fails-{life}"), "put.before=error");
        assert_eq!(stage.wait().code(), Some(75), "{}", stage.log());
    }
    let mut last = world.start("last", "");
    assert!(last.wait().success(), "{}", last.log());
    assert!(!last.log().contains("processes died"), "{}", last.log());
    world.assert_exactly_once(&[10], 9);
}

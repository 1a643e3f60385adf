//! The stage and its decoding helpers: what hostile pictures do to good ones, and what is seen
//! where no helper can be started.

use crate::child::Launch;
use crate::common::get;
use crate::common::hostile::{all, png_of, tiff_of_wide_tiles};
use crate::harness::{STUCK, World};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// References to `files`, round robin over the partitions.
fn produce(world: &World, files: &[(String, Vec<u8>)]) {
    let values = files.iter().enumerate().map(|(i, (name, bytes))| {
        let path = world.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let uri = format!("file://{}", path.display());
        let value = serde_json::json!({"image_id": name, "uri": uri}).to_string();
        (i as i32 % world.partitions, Some(value))
    });
    world.produce_raw(values);
}

/// Each hostile picture becomes a row or a dead letter that names its cause, and takes no good one
/// with it.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_pictures_between_good_ones_cost_themselves_alone() {
    let mut world = World::new("hostile", 2);
    world.config.decode.max_megapixels = 1;
    world.config.decode.max_alloc_mib = 32;
    world.config.decode.threads = 2;
    world.config.decode.timeout_ms = 2_000;
    let good = std::fs::read(world.picture(1)).unwrap();
    let mut hostile: Vec<_> = all().into_iter().map(|hostile| hostile.bytes).collect();
    hostile.push(tiff_of_wide_tiles(12_000));
    let mut files = Vec::new();
    for (i, bytes) in hostile.into_iter().enumerate() {
        files.push((format!("hostile-{i}"), bytes));
        files.push((format!("good-{i}"), good.clone()));
    }
    produce(&world, &files);
    world.drain().await.unwrap();
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    let of = files.len() as i64;
    world.assert_exactly_once(&[(of + 1) / 2, of / 2], files.len() - letters.len());
    for (_, value, headers) in &letters {
        assert!(value.contains("hostile-"), "{value}: {headers:?}");
        let kind = &headers["error.kind"];
        assert!(
            ["bad_image", "too_large", "unsupported_image"].contains(&kind.as_str()),
            "{kind}"
        );
    }
    let causes: Vec<&str> = letters
        .iter()
        .map(|l| l.2["error.message"].as_str())
        .collect();
    for cause in ["decode.max_alloc_mib", "decode.timeout_ms"] {
        assert!(
            causes.iter().any(|c| c.contains(cause)),
            "{cause}: {causes:#?}"
        );
    }
}

/// Without a helper the stage does not begin, and says what to do.
#[test]
fn a_stage_that_cannot_start_a_helper_refuses_to_begin() {
    let mut world = World::new("no-helper", 1);
    world.produce(0, 10);
    world.config.decode.helper = "/bin/false".into();
    let mut stage = world.start("no-helper", "");
    let status = stage.wait();
    assert_eq!(status.code(), Some(1), "{}", stage.log());
    let log = stage.log();
    assert!(
        log.contains("the decoding helper `/bin/false` cannot be started"),
        "{log}"
    );
    assert_eq!(world.rows().len(), 0);
}

/// The processes that a process has started.
fn children(process: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let lists = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let lists: Vec<String> = lists.collect();
    let all = lists.iter().flat_map(|list| list.split_whitespace());
    all.map(|id| id.parse().unwrap()).collect()
}

/// A helper that cannot be started again is no fault of the picture: it waits, `livez` says so, and
/// it becomes a row when there is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_picture_waits_for_a_decoder_and_livez_says_so() {
    let mut world = World::new("lost-helper", 1);
    let helper = world.folder.path().join("helper");
    let program = Path::new(env!("CARGO_BIN_EXE_tagstream"));
    symlink(program, &helper).unwrap();
    world.config.decode.helper = helper.display().to_string();
    world.config.http.liveness_limit_ms = 2_000;
    world.config.output.max_file_age_ms = 100;
    let launch = Launch {
        for_ever: true,
        http: true,
        ..Launch::default()
    };
    let mut stage = world.launch("lost-helper", &launch);
    let address = stage.address();
    let rows = async |wanted: usize| {
        let started = Instant::now();
        while world.rows().len() < wanted {
            assert!(started.elapsed() < STUCK, "{}", stage.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let picture = png_of(64, 64, 2, &[]);
    produce(&world, &[("first".into(), picture.clone())]);
    rows(1).await;
    std::fs::remove_file(&helper).unwrap();
    for child in children(stage.id()) {
        // SAFETY: takes numbers only; it is a child of a process that this test has started.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    produce(&world, &[("waits".into(), picture)]);
    let livez = async |wanted: u16| {
        let started = Instant::now();
        loop {
            let url = format!("http://{address}/health/livez");
            let answer = get(&url).await.unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            if status == wanted {
                return text;
            }
            assert!(
                started.elapsed() < STUCK,
                "{status} {text}\n{}",
                stage.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let text = livez(503).await;
    assert!(text.contains("decoders"), "{text}");
    assert_eq!(
        world
            .read_topic(&world.config.output.dead_letter_topic)
            .len(),
        0
    );
    symlink(program, &helper).unwrap();
    livez(200).await;
    rows(2).await;
    assert_eq!(world.rows().len(), 2);
}

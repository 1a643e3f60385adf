//! `tagstream retrain` as an operator calls it: labels in a table, a registry, the demo model.

mod kills;
mod world;

use crate::common::hook::Hook;
use std::time::Duration;
use tagstream::retrain::judge::is_held_out;
use tagstream_model::categories::ThresholdSource;
use tagstream_model::registry::{Action, Verdict};
use world::{RUNTIME, Words, World, truth};

/// The whole method, cut to what a debug build does in seconds.
const SHORT: &str = "set = [\"optimizer.least_share=0\", \"optimizer.epochs=2\"]";

#[test]
fn labels_make_a_better_model_which_is_promoted_and_reported() {
    let mut world = World::new(400, Words::Unknown, SHORT);
    world.label_all(truth);
    assert_eq!(world.finish(&["--dry-run"]), Some(0), "{}", world.log());
    assert_eq!(world.versions(), 1, "a dry run registers nothing");

    assert_eq!(world.finish(&[]), Some(0), "{}", world.log());
    world.assert_whole();
    let history = world.history();
    let entry = history.last().unwrap();
    assert_eq!(
        (entry.action, entry.verdict),
        (Action::Promoted, Some(Verdict::Promote))
    );
    let current = RUNTIME.block_on(world.registry.current()).unwrap();
    assert_eq!((current.version, current.run.is_some()), (2, true));
    let (parts, files) = (
        0..5,
        ["report.html", "report.json", "labels.csv.gz", "folds.json"],
    );
    let heads: Vec<String> = parts
        .map(|part| format!("fold-{part}.safetensors"))
        .collect();
    let files = files.into_iter().chain(["groups.csv.gz"]);
    for name in files.chain(heads.iter().map(String::as_str)) {
        assert!(current.attachments.contains_key(name), "{name}");
    }
    let report = world.report();
    let gain = report["judgement"]["difference"]["estimate"].as_f64();
    assert!(gain.unwrap() > 0.2, "mAP rose by {gain:?}");
    // Out of fold: all that were learned from judge, too.
    let labels = &report["labels"];
    assert_eq!(labels["judged_images"], labels["used_images"]);
    assert!(labels["judged_images"].as_u64().unwrap() > 350);
    let tags = &report["judgement"]["tags"];
    let f1 = |of: &str| tags[of]["f1"].as_f64().unwrap_or_default();
    assert!(f1("candidate") > f1("champion") + 0.2, "{tags}");
    let bundle = world.bundle(2);
    let thresholds = bundle.manifest().categories.iter().map(|c| c.threshold);
    assert!(
        thresholds.into_iter().all(|t| t >= 0.0999),
        "no tag below the floor"
    );
    assert_eq!(report["examples"].as_array().unwrap().len(), 12);

    // The same labels again: nothing to do.
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    assert!(world.log().contains("nothing to do"));
    assert_eq!(world.versions(), 2);
}

#[test]
fn a_candidate_that_learned_shuffled_labels_is_rejected() {
    let mut world = World::new(
        400,
        Words::Known,
        "method = \"linear-probe\"\nset = [\"optimizer.epochs=20\"]",
    );
    let (hook, nobody) = (Hook::start(), closed_port());
    let (webhook, tracking) = (hook.url(), format!("http://{nobody}"));
    world.configure(&format!(
        "[judge]\nfolds = 1\n[notify]\nwebhook = {webhook:?}\n[mlflow]\nurl = {tracking:?}\n\
         retries = 0"
    ));
    // Images that are learned from are labelled with what another picture shows; held-out ones
    // honestly.
    world.label_all(|i, category| {
        let id = world::scene(i).image_id;
        truth(if is_held_out(&id, 0.2) { i } else { 5000 + i }, category)
    });
    assert_eq!(world.finish(&[]), Some(3), "{}", world.log());
    assert_eq!((world.serving(), world.versions()), (1, 2));
    assert_eq!(world.history().last().unwrap().action, Action::Rejected);
    world.assert_whole();
    let told = hook.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&told[0]["event"], &told[0]["command"]),
        (&"rejected".into(), &"retrain".into())
    );
    assert_eq!(told[0]["model"]["version"], 2);
    assert_eq!(told[0]["why"], world.history().last().unwrap().why);
    let log = world.log();
    assert!(
        log.contains("the run was not recorded") && log.contains(&tracking),
        "{log}"
    );
    assert!(!log.contains("hunter2"), "{log}");
}

fn closed_port() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_candidate_as_good_as_the_champion_is_held() {
    let train = "method = \"linear-probe\"\nset = [\"optimizer.epochs=20\"]\nwarm_start = false";
    let mut world = World::new(400, Words::Unknown, train);
    world.configure("[judge]\nfolds = 1\nmin_categories = 1");
    world.label(0..300, truth);
    assert_eq!(world.finish(&[]), Some(0), "{}", world.log());
    // New labels on held-out pictures only: a second run learns what the first one learned.
    let held_out = |i: &u64| is_held_out(&world::scene(*i).image_id, 0.2);
    world.label((300..400).filter(held_out), truth);
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    let judgement = &world.report()["judgement"];
    assert_eq!(judgement["difference"]["estimate"], 0.0, "{judgement}");
    assert_eq!((world.serving(), world.versions()), (2, 3));
    assert_eq!(world.history().last().unwrap().action, Action::Held);

    // Held is no hindrance: who wants it promotes it by hand, and takes it back.
    world::run(&mut world.registry_command(&["promote", "3"]));
    assert_eq!(world.serving(), 3);
    world::run(&mut world.registry_command(&["rollback"]));
    assert_eq!(world.serving(), 2);
    world.assert_whole();
}

/// Before the first label: the model adapts to what the stream has shown, which nothing can judge.
#[test]
fn without_a_label_the_model_adapts_to_the_stream_and_is_offered() {
    let mut world = World::new(300, Words::Known, SHORT);
    std::fs::create_dir(world.path("tables")).unwrap();
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    assert!(world.log().contains("no labels"), "{}", world.log());
    world.predict_all();
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    assert_eq!((world.serving(), world.versions()), (1, 2));
    let entry = world.history().pop().unwrap();
    assert_eq!(entry.action, Action::Held);
    assert!(
        entry.why.contains("adapted to 300 pictures"),
        "{}",
        entry.why
    );
    let (before, adapted) = (world.bundle(1), world.bundle(2));
    assert_eq!(adapted.manifest().lineage.label_snapshot, None);
    assert_ne!(before.id(), adapted.id());
    let categories = adapted.manifest().categories.iter();
    let guessed = categories.map(|c| c.tags.threshold_from);
    assert!(
        guessed
            .into_iter()
            .all(|from| from == Some(ThresholdSource::Guess))
    );
    let [before, adapted] = [1, 2].map(|version| world.measured(version));
    // On these drawn pictures it costs some points (docs/retraining.md); guesses come to a fifth.
    assert!(adapted > 50.0, "mAP {before} -> {adapted}");

    // Nothing is new: nothing to do.
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    assert!(world.log().contains("nothing to do"), "{}", world.log());
    assert_eq!(world.versions(), 2);
    // Taken by hand, it is what labels are measured against: it has seen none of them.
    world::run(&mut world.registry_command(&["promote", "2"]));
    world.label_all(truth);
    world.finish(&[]);
    let report = world.report();
    assert_eq!(report["labels"]["judged_images"], 300, "{}", world.log());
    world.assert_whole();
}

/// Label Studio knows addresses of its own server alone; where pictures are the predictions know.
#[test]
fn an_export_of_label_studio_is_learned_from_and_promoted() {
    let train = "method = \"linear-probe\"\nset = [\"optimizer.epochs=20\"]\nwarm_start = false";
    let mut world = World::new(300, Words::Unknown, train);
    world.configure("[judge]\nmin_categories = 1");
    let tasks = (0..300).map(|i| {
        let of = |wanted: bool| {
            let names = world::names().iter().copied();
            names
                .filter(|name| truth(i, name) == wanted)
                .collect::<Vec<_>>()
        };
        let choices = |control: &str, names: Vec<&str>| {
            serde_json::json!({"type": "choices", "from_name": control, "to_name": "image",
                "value": {"choices": names}})
        };
        serde_json::json!({
            "id": i,
            "data": {"image": format!("/data/upload/29/{i:08x}-{}.jpg", world::scene(i).image_id)},
            "annotations": [{
                "result": [choices("objects", of(true)), choices("absent", of(false))],
                "was_cancelled": null,
                "completed_by": 1,
                "updated_at": "2026-01-01T00:00:00.000000Z",
            }],
            "predictions": [],
        })
    });
    let export = serde_json::Value::from(tasks.collect::<Vec<_>>());
    world.import("label-studio", &export.to_string());
    // Without predictions nobody knows where the pictures are.
    assert_eq!(world.finish(&["--dry-run"]), Some(99), "{}", world.log());
    world.predict_all();
    assert_eq!(world.finish(&[]), Some(0), "{}", world.log());
    assert_eq!(world.serving(), 2);
    assert_eq!(world.report()["labels"]["used_images"], 300);
}

/// A version of the old way keeps no heads that judge: it is judged on what it has not seen, and
/// the next one on everything.
#[test]
fn a_registry_of_the_old_way_goes_on_with_parts() {
    let train = "method = \"linear-probe\"\nset = [\"optimizer.epochs=20\"]";
    let mut world = World::new(400, Words::Unknown, train);
    world.configure("[judge]\nfolds = 1\nmin_categories = 1");
    world.label(0..200, truth);
    assert_eq!(world.finish(&[]), Some(0), "{}", world.log());
    let files = world.attachments(2);
    assert!(
        !files.iter().any(|name| name.starts_with("fold")),
        "{files:?}"
    );

    world.set("folds = 1", "folds = 5");
    world.label(200..300, truth);
    let code = world.finish(&[]);
    assert!(matches!(code, Some(0 | 99)), "{code:?}: {}", world.log());
    let report = world.report();
    let held_out = |i: &u64| is_held_out(&world::scene(*i).image_id, 0.2);
    let unseen = (0..200).filter(held_out).count() + 100;
    assert_eq!(report["labels"]["used_images"], 300);
    assert_eq!(report["labels"]["judged_images"], unseen);
    assert_eq!(report["labels"]["folds"], 5);
    if code == Some(99) {
        world::run(&mut world.registry_command(&["promote", "3"]));
    }

    // Now the champion has heads that judge: all images count.
    world.label(300..400, truth);
    let code = world.finish(&[]);
    assert!(
        matches!(code, Some(0 | 3 | 99)),
        "{code:?}: {}",
        world.log()
    );
    let report = world.report();
    assert_eq!(report["labels"]["judged_images"], 400);
    assert_eq!(report["judgement"]["look"], 1);
    // An image keeps its group for ever.
    let (before, mut after) = (world.groups(3), world.groups(4));
    after.retain(|image, _| before.contains_key(image));
    assert_eq!(before, after);
    world.assert_whole();
}

/// Heads that judge go along with a category that words added, and with other words for it, which
/// the next model keeps.
#[test]
fn a_champion_with_a_category_more_is_judged_by_its_parent_s_heads() {
    let train = "method = \"linear-probe\"\nset = [\"optimizer.epochs=20\"]";
    let mut world = World::new(200, Words::Unknown, train);
    world.label(0..150, truth);
    assert_eq!(world.finish(&[]), Some(0), "{}", world.log());
    let add = ["add-category", "umbrella stand", "--promote"];
    world::run(&mut world.registry_command(&add));
    assert_eq!(world.serving(), 3);
    let file = world.path("words.csv");
    let row = "umbrella stand,umbrella stand | hat rack:0.5,seven,stands,0.4";
    std::fs::write(
        &file,
        format!("name,words,templates,group,threshold\n{row}\n"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let set = ["set-words", "--categories", file, "--promote"];
    world::run(&mut world.registry_command(&set));
    assert_eq!(world.serving(), 4);
    world.label(150..200, truth);
    let code = world.finish(&[]);
    assert!(
        matches!(code, Some(0 | 3 | 99)),
        "{code:?}: {}",
        world.log()
    );
    assert_eq!(world.report()["labels"]["judged_images"], 200);
    let (before, after) = (world.bundle(4), world.bundle(5));
    let last = after.manifest().categories.last().unwrap();
    assert_eq!(Some(last), before.manifest().categories.last());
    assert_eq!(last.threshold, 0.4);
}

/// Nobody has filed a label yet, or `labels.url` is mistyped.
#[test]
fn a_folder_of_tables_that_is_not_there_is_a_usage_error() {
    let world = World::new(0, Words::Known, "method = \"zero-shot\"");
    for arguments in [["--dry-run"].as_slice(), &["--every", "1h"], &[]] {
        assert_eq!(world.finish(arguments), Some(2), "{}", world.log());
        let tables = world.path("tables");
        let named = format!("no folder {}", tables.display());
        assert!(world.log().contains(&named), "{}", world.log());
        assert!(!tables.exists());
    }
    world.assert_whole();
}

/// `--every` repeats, and hears SIGTERM in a later round as in the first.
#[test]
fn repeated_runs_end_on_sigterm() {
    let mut world = World::new(40, Words::Known, "method = \"zero-shot\"");
    world.label_all(truth);
    let mut child = world.retrain(&["--every", "1s"]);
    while world.log().matches("next run in").count() < 2 {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", world.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a signal to a child that has not been waited for yet.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let code = child.wait().unwrap().code();
    // Between two runs, or in the middle of the next.
    assert!(matches!(code, Some(0 | 75)), "{code:?}: {}", world.log());
    assert!(world.log().contains("HOLD") && world.log().contains("nothing to do"));
    world.assert_whole();
}

#[test]
fn of_two_promotions_at_once_one_wins_and_the_other_is_told() {
    let mut world = World::new(40, Words::Known, "method = \"zero-shot\"");
    // Too few images to judge by: the candidate is registered and held.
    world.label_all(truth);
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    for round in 0..4 {
        let serving = world.serving();
        let (other, expect) = ((3 - serving).to_string(), serving.to_string());
        let mut race: Vec<_> = ["first", "second"]
            .iter()
            .map(|who| {
                let promote = ["promote", &other, "--expect", &expect, "--who", who];
                world.registry_command(&promote).spawn().unwrap()
            })
            .collect();
        let mut codes: Vec<_> = race
            .iter_mut()
            .map(|child| child.wait().unwrap().code())
            .collect();
        codes.sort();
        assert_eq!(codes, [Some(0), Some(75)], "round {round}");
        assert_eq!(world.serving().to_string(), other);
        world.assert_whole();
    }
}

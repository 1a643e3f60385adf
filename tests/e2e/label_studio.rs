//! Label Studio's webhook: its own notices onto a topic, and what tables make of them.

use crate::harness::{World, bootstrap, create_topic, unique};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use std::process::Command;
use tagstream::serve::Pages;
use tagstream::serve::config::ServeConfig;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::events::{LabelEvent, LabelState};
use tagstream_model::registry::Registry;
use tagstream_train::labels::{LabelTable, LabellingConfig};

/// Pages whose webhook writes to a topic.
struct Hooked {
    world: World,
    config: ServeConfig,
    pages: Pages,
}

impl Hooked {
    async fn start(name: &str) -> Hooked {
        let mut world = World::new(name, 2);
        world.config.labels.topic = unique("hooked-labels");
        create_topic(&world.config.labels.topic, 2);
        let folder = world.folder.path();
        let url = folder.join("registry").to_str().unwrap().to_owned();
        Registry::open_or_create(&url, &ObjectStoreConfig::default())
            .await
            .unwrap();
        let mut config = ServeConfig::default();
        config.serve.bind = "127.0.0.1:0".into();
        config.registry.url = url;
        config.kafka.brokers = bootstrap();
        config.topics.labels = world.config.labels.topic.clone();
        config.label_studio.state = folder.join("studio").to_str().unwrap().into();
        let pages = Pages::start(&config).await.unwrap();
        Hooked {
            world,
            config,
            pages,
        }
    }

    async fn tell(&self, notice: &Value) -> (u16, Value) {
        let url = format!("http://{}/label-studio/webhook", self.pages.address());
        let client = tagstream::tls::http_client().build().unwrap();
        let request = client.post(url).header("content-type", "application/json");
        let answer = request.body(notice.to_string()).send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.text().await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// How many events a notice came to.
    async fn events_of(&self, notice: &Value) -> u64 {
        let (status, answer) = self.tell(notice).await;
        assert_eq!(status, 200, "{answer}");
        answer["events"].as_u64().unwrap()
    }

    fn topic(&self) -> Vec<LabelEvent> {
        let messages = self.world.read_topic(&self.config.topics.labels);
        let events = messages.iter().map(|(key, value, _)| {
            let event = LabelEvent::from_json(value.as_bytes()).unwrap();
            assert_eq!(key.as_deref(), Some(event.image_id.as_str()));
            event
        });
        let mut events: Vec<LabelEvent> = events.collect();
        events.sort_by_key(|event| event.event_time);
        events
    }

    /// What is known of a picture.
    fn known(&self, picture: &str) -> Vec<(String, LabelState)> {
        let table = LabelTable::of_events(&self.topic());
        let image = table.image(picture);
        let states = image.into_iter().flat_map(|image| image.states());
        states
            .map(|(name, state)| (name.to_owned(), state))
            .collect()
    }
}

/// The notices that Label Studio itself has sent, in their order.
fn notices() -> Vec<Value> {
    let text = include_str!("../fixtures/label-studio/requests.jsonl");
    let requests = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let hooks = requests.filter(|request| request["path"] == "/webhook");
    hooks.map(|request| request["body"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn label_studio_s_own_notices_become_label_events() {
    let hooked = Hooked::start("label-studio").await;
    let [created, changed, cancelled, gone, created_again, gone_again] = &notices()[..] else {
        panic!("the fixture has six notices");
    };
    let known = |names: &[(&str, LabelState)]| -> Vec<(String, LabelState)> {
        names
            .iter()
            .map(|(name, state)| (name.to_string(), *state))
            .collect()
    };
    let (cats, owl) = (
        ("cat & <dog>", LabelState::Present),
        ("owl", LabelState::Absent),
    );
    assert_eq!(hooked.events_of(created).await, 1);
    assert_eq!(hooked.known("photos/a b"), known(&[cats, owl]));
    let event = &hooked.topic()[0];
    assert_eq!(event.uri, "s3://photos/a%20b.jpg");
    assert_eq!(event.annotator, "1", "as an export names whoever it was");
    assert_eq!(hooked.events_of(created).await, 0, "the same again");
    assert_eq!(hooked.events_of(changed).await, 1);
    assert_eq!(
        hooked.events_of(created).await,
        0,
        "later than what came after it"
    );
    assert_eq!(hooked.known("photos/a b"), known(&[owl]));
    assert_eq!(hooked.events_of(cancelled).await, 0);
    assert_eq!(hooked.events_of(gone).await, 1);
    assert_eq!(hooked.events_of(gone).await, 0);
    assert_eq!(hooked.known("photos/a b"), []);
    // Another process, which knows of it from the disk.
    let again = Hooked {
        pages: Pages::start(&hooked.config).await.unwrap(),
        config: hooked.config.clone(),
        world: hooked.world,
    };
    assert_eq!(again.events_of(created).await, 0, "it is gone");
    // What is deleted is taken back now, whenever the notices of the fixture were sent.
    let mut created_again = created_again.clone();
    created_again["annotation"]["updated_at"] =
        (Utc::now() + TimeDelta::minutes(9)).to_rfc3339().into();
    assert_eq!(again.events_of(&created_again).await, 1);
    assert_eq!(again.known("photos/a b"), known(&[cats, owl]));
    assert_eq!(again.events_of(gone_again).await, 1);
    assert_eq!(again.known("photos/a b"), []);
    assert_eq!(again.topic().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_stay_names() {
    let hooked = Hooked::start("hostile-studio").await;
    let notice = |id: Value, image: &str, category: &str| {
        json!({
            "action": "ANNOTATION_CREATED",
            "project": {"id": "../../../up", "created_at": "/etc/passwd"},
            "task": {"id": 1, "data": {"image": "s3://b/a.jpg", "image_id": image}},
            "annotation": {
                "id": id, "task": 1, "completed_by": {"email": "<script>alert(1)</script>"},
                "updated_at": "2026-01-01T00:00:00Z",
                "result": [{"from_name": "present", "value": {"choices": [category]}}],
            },
        })
    };
    let long = "x".repeat(300_000);
    for (id, image, category) in [
        (json!("../../escaped"), "../../../escaped", "cat"),
        (json!("/tmp/escaped"), "/tmp/escaped", "a\u{0}b"),
        (json!(7), "x\nuri: evil", "<script>alert(1)</script>"),
        (json!(8.0), "..", "."),
        (json!(long), &long, "cat"),
    ] {
        let events = hooked.events_of(&notice(id, image, category)).await;
        assert_eq!(events, 1);
        assert_eq!(
            hooked.known(image),
            [(category.to_owned(), LabelState::Present)]
        );
    }
    let folder = hooked.world.folder.path();
    let beside = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(
        !beside
            .into_iter()
            .any(|name| name.to_string_lossy().contains("escaped"))
    );
    for entry in std::fs::read_dir(&hooked.config.label_studio.state).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            ["pictures", "annotations"].contains(&name.as_str()),
            "{name}"
        );
    }
    // What no label event can be is refused by name, and nothing of it is remembered.
    for (notice, said) in [
        (notice(json!(9), "a", ""), "names are read"),
        (notice(json!(null), "a", "cat"), "`id`"),
        (json!({"action": "ANNOTATION_CREATED"}), "`project`"),
        (
            json!({"action": "ANNOTATIONS_DELETED", "project": {"id": 1}}),
            "`annotations`",
        ),
    ] {
        let (status, answer) = hooked.tell(&notice).await;
        assert_eq!(status, 422, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(said),
            "{answer}"
        );
    }
    let far = notice(json!(10), "a", "cat")
        .to_string()
        .replace("2026-01-01", "2126-01-01");
    let (status, answer) = hooked.tell(&serde_json::from_str(&far).unwrap()).await;
    assert_eq!(status, 422, "{answer}");
    let other = json!({"action": "START_TRAINING", "project": {"id": 1}});
    assert_eq!(hooked.events_of(&other).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_build_remembered_is_read_and_what_a_newer_one_did_is_refused() {
    let hooked = Hooked::start("studio-memory").await;
    let notices = notices();
    hooked.events_of(&notices[0]).await;
    let files = |kind: &str| -> Vec<std::path::PathBuf> {
        let root = std::path::Path::new(&hooked.config.label_studio.state).join(kind);
        let folders = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let inside = |folder: std::path::PathBuf| std::fs::read_dir(folder).unwrap();
        folders
            .flat_map(inside)
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    let [picture] = &files("pictures")[..] else {
        panic!("one picture");
    };
    // The first form, as it is written now.
    let written: Value = serde_json::from_slice(&std::fs::read(picture).unwrap()).unwrap();
    let entries: Vec<&Value> = written["annotations"]
        .as_object()
        .unwrap()
        .values()
        .collect();
    let form = json!({
        "version": 1, "image_id": "photos/a b", "uri": "s3://photos/a%20b.jpg",
        "annotations": written["annotations"],
    });
    assert_eq!(written, form);
    let entry = json!({
        "time": "2026-01-02T00:51:03.288197Z", "annotator": "1", "present": ["cat & <dog>"],
        "absent": ["owl"], "unsettled": [], "pending": false, "gone": false,
    });
    assert_eq!(entries, [&entry]);
    let newer = written
        .to_string()
        .replace("\"version\":1", "\"version\":2");
    std::fs::write(picture, newer).unwrap();
    let (status, answer) = hooked.tell(&notices[1]).await;
    assert_eq!(status, 500, "{answer}");
    let said = answer["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("label_studio.state") && said.contains("form 2"),
        "{said}"
    );
    assert_eq!(hooked.topic().len(), 1);
}

/// Asks for tasks; the table's address is next.
pub(crate) const SUGGEST: [&str; 7] = [
    "labels",
    "suggest",
    "--count",
    "6",
    "--form",
    "label-studio",
    "--store",
];

/// The tasks carry what the model of each row would answer, and the configuration every category.
#[tokio::test(flavor = "multi_thread")]
async fn suggestions_are_tasks_and_a_project_s_configuration() {
    let world = World::new("suggest-studio", 1);
    world.produce(0, 12);
    world.drain().await.unwrap();
    let out = world.folder.path().join("tasks.json");
    let suggest = |out: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .args(SUGGEST)
            .args([
                world.config.output.url.as_str(),
                "--out",
                out.to_str().unwrap(),
            ])
            .envs(world.credentials())
            .output()
            .unwrap()
    };
    let output = suggest(&out);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("tasks.xml"),
        "{said}"
    );
    let tasks: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let xml = std::fs::read_to_string(out.with_extension("xml")).unwrap();
    let config = LabellingConfig::read(&xml).unwrap();
    let offered: Vec<&str> = config.controls[0]
        .labels
        .iter()
        .map(|(l, _)| l.as_str())
        .collect();
    let rows = world.rows();
    let mut asked_in_advance = 0;
    for task in tasks.as_array().unwrap() {
        let id = task["data"]["image_id"].as_str().unwrap();
        assert!(rows.iter().any(|row| row.image_id == id), "{id}");
        let predictions = task["predictions"].as_array().unwrap();
        assert_eq!(
            predictions.is_empty(),
            task["data"]["purpose"] == "measuring",
            "{task}"
        );
        for result in predictions
            .iter()
            .flat_map(|p| p["result"].as_array().unwrap())
        {
            asked_in_advance += 1;
            for choice in result["value"]["choices"].as_array().unwrap() {
                assert!(offered.contains(&choice.as_str().unwrap()), "{choice}");
            }
        }
    }
    assert!(asked_in_advance > 0, "{tasks}");
    // The file would stand where the configuration is written.
    let refused = suggest(&out.with_extension("xml"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--out"));
}

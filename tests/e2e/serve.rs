//! The pages beside a running stage, gone through in a browser as by a person.

use crate::browser::{Browser, Look};
use crate::child::{Launch, Stage};
use crate::harness::{STUCK, World, bootstrap, create_topic, not_tested, unique};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tagstream::serve::config::ServeConfig;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::events::LabelEvent;
use tagstream_model::registry::{Action, Decision, Registration, Registry};

pub(crate) const DESKTOP: Look = Look {
    width: 1280,
    height: 900,
    dark: false,
};
const PHONE: Look = Look {
    width: 390,
    height: 844,
    dark: true,
};

/// A stage with labels, its registry, and the pages.
struct Scene {
    world: World,
    registry: Registry,
    stage: Stage,
    pages: Stage,
    address: String,
}

async fn register(registry: &Registry, why: &str) {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
    let registration = Registration {
        bundle: &bundle,
        attachments: &[],
        who: "retrain",
        why,
        run: None,
    };
    let version = registry.register(&registration).await.unwrap().version;
    let decision = Decision::by_hand(Action::Promoted, version, "retrain", why);
    registry.decide(decision).await.unwrap();
}

/// The pages' configuration beside a world's stage, which tells how it does at `stage`.
pub(crate) fn pages_of(world: &World, registry: &str, stage: &str) -> ServeConfig {
    let mut config = ServeConfig::default();
    config.serve.bind = "127.0.0.1:0".into();
    config.registry.url = registry.into();
    config.tables.url = world.config.output.url.clone();
    config.kafka.brokers = bootstrap();
    config.topics.labels = world.config.labels.topic.clone();
    config.topics.dead_letters = world.config.output.dead_letter_topic.clone();
    config.stages.addresses = vec![stage.into()];
    config.stages.interval_ms = 200;
    config.stages.pictures_interval_ms = 200;
    config.review.refresh_s = 1;
    config.fetch = world.config.fetch.clone();
    config.decode = world.config.decode.clone();
    config
}

impl Scene {
    async fn start(name: &str) -> Scene {
        Self::start_with(name, |_| {}).await
    }

    async fn start_with(name: &str, change: impl FnOnce(&mut ServeConfig)) -> Scene {
        let mut world = World::new(name, 2);
        // A folder wherever the other tests keep their tables: the pages are told its name.
        world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
        world.config.object_store.s3.clear();
        world.config.source.statistics_interval_ms = 200;
        world.config.labels.enabled = true;
        world.config.labels.topic = unique("review-labels");
        create_topic(&world.config.labels.topic, 2);
        let url = world
            .folder
            .path()
            .join("registry")
            .to_str()
            .unwrap()
            .to_owned();
        let options = ObjectStoreConfig::default();
        let registry = Registry::open_or_create(&url, &options).await.unwrap();
        register(&registry, "the first").await;
        world.produce(0, 80);
        let launch = Launch {
            for_ever: true,
            http: true,
            ..Launch::default()
        };
        let mut stage = world.launch(name, &launch);
        let mut config = pages_of(&world, &url, &stage.address());
        change(&mut config);
        let mut pages = world.serve(&format!("{name}-pages"), &config);
        let address = pages.address_in("the pages are served");
        Scene {
            world,
            registry,
            stage,
            pages,
            address,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn events(&self) -> Vec<LabelEvent> {
        events_of(&self.world)
    }

    fn end(mut self) {
        for process in [&mut self.pages, &mut self.stage] {
            process.signal("TERM");
            assert!(process.wait().success(), "{}", process.log());
        }
    }
}

/// The events on the labels topic.
pub(crate) fn events_of(world: &World) -> Vec<LabelEvent> {
    let messages = world.read_topic(&world.config.labels.topic);
    let events = messages.iter().map(|(key, value, _)| {
        let event = LabelEvent::from_json(value.as_bytes()).unwrap();
        assert_eq!(key.as_deref(), Some(event.image_id.as_str()));
        event
    });
    let mut events: Vec<_> = events.collect();
    events.sort_by_key(|event| event.event_time);
    events
}

/// The question that is before somebody: its number on this page, and what it asks.
pub(crate) fn asked(browser: &mut Browser) -> (u64, String) {
    browser.until("document.querySelector('.ask')");
    let count = browser.run("Number(document.getElementById('question').dataset.count)");
    let text = browser.run(
        "(() => { const d = document.querySelector('.ask').dataset; \
         return d.imageId + ' ' + d.category })()",
    );
    (count.as_u64().unwrap(), text.as_str().unwrap().to_owned())
}

/// Presses a key and waits for what comes then.
pub(crate) fn press(browser: &mut Browser, key: &str) {
    let (count, _) = asked(browser);
    browser.key(key);
    browser.until(&format!(
        "Number(document.getElementById('question').dataset.count) > {count}"
    ));
}

pub(crate) fn known(browser: &mut Browser) -> u64 {
    browser.until("document.getElementById('known-total')");
    let known = browser.run("Number(document.getElementById('known-total').dataset.known)");
    known.as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_watches_labels_and_rolls_back() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let scene = Scene::start("serve").await;
    tokio::task::block_in_place(|| {
        watches(&mut browser, &scene);
        labels(&mut browser, &scene);
        labels_many(&mut browser, &scene);
    });
    // As a retraining would.
    register(&scene.registry, "the second, retrained").await;
    tokio::task::block_in_place(|| rolls_back(&mut browser, &scene));
    let pointer = scene.registry.pointer().await.unwrap().unwrap();
    assert_eq!(pointer.version, Some(1));
    assert_eq!(pointer.entry.why, "tags were better before");
    let audit = scene.pages.log();
    for act in ["rolled back", "label"] {
        let line = format!("\"act\":\"{act}\"");
        assert!(audit.contains(&line), "{act} is not in\n{audit}");
    }
    tokio::task::block_in_place(|| searches(&mut browser, &scene));
    let paths = [
        "/",
        "/review",
        "/review/grid?category=blue",
        "/search?tag=blue",
        "/models",
        "/models/1",
        "/models/compare?a=1&b=2",
        "/nothing",
    ];
    tokio::task::block_in_place(|| looks_everywhere(&mut browser, &scene.address, &paths));
    scene.end();
}

/// The stage on the live page, as it changes.
fn watches(browser: &mut Browser, scene: &Scene) {
    browser.look(DESKTOP);
    browser.open(&scene.url("/"));
    browser.until("document.getElementById('connection').textContent === 'live'");
    browser.until("document.querySelector('[data-live=stages]').innerText.includes('ready')");
    browser.until("document.querySelectorAll('[data-live=newest] figure').length === 24");
    browser.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)");
    let letters = "document.querySelector('[data-live=letters]').innerText";
    browser.until(&format!("{letters}.includes('bad_message')"));
    browser.until(&format!(
        "{letters}.includes('not valid') || {letters}.includes('EOF')"
    ));
    // Nobody loads the page again.
    browser.run("window.stayed = true");
    scene.world.produce(1_000, 40);
    browser
        .until("document.querySelector('[data-live=newest]').innerText.match(/image-10[0-3]\\d/)");
    assert_eq!(browser.run("window.stayed"), true);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.picture("live");
}

/// Twenty questions by keyboard.
fn labels(browser: &mut Browser, scene: &Scene) {
    browser.open(&scene.url("/review"));
    // The page moves until the first question is there.
    browser.until("document.querySelector('.ask img')?.naturalWidth > 0");
    browser.click("#annotator");
    browser.write("Ann Otator");
    // Leaves the field.
    browser.click("h1");
    browser.until("localStorage.getItem('tagstream-annotator') === 'Ann Otator'");
    let before = known(browser);
    let mut questions = BTreeSet::new();
    for at in 0..20 {
        questions.insert(asked(browser).1);
        press(browser, ["y", "n", "n", "y"][at % 4]);
    }
    assert_eq!(questions.len(), 20, "no question came twice");
    assert_eq!(known(browser), before + 20, "the counts rise");
    press(browser, "ArrowLeft");
    assert!(
        browser.text(".ask").contains("You said"),
        "{}",
        browser.text(".ask")
    );
    press(browser, "ArrowRight");
    press(browser, "u");
    assert_eq!(known(browser), before + 19);
    press(browser, "d");
    assert_eq!(known(browser), before + 19, "don't know is no label");
    let (count, _) = asked(browser);
    browser.key("a");
    browser.write("purple <b>haze</b>");
    browser.key("Enter");
    browser.run("document.querySelector('form.add').requestSubmit()");
    browser.until(&format!(
        "Number(document.getElementById('question').dataset.count) > {count}"
    ));
    let progress = browser.text("#progress");
    assert!(progress.contains("purple <b>haze</b>"), "{progress}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.picture("review");

    let events = scene.events();
    let retracted = events
        .iter()
        .filter(|event| !event.retract.is_empty())
        .count();
    assert_eq!((events.len(), retracted), (22, 1), "{events:?}");
    assert!(events.iter().all(|event| event.annotator == "Ann Otator"));
    assert!(
        events
            .iter()
            .all(|event| event.event_time.is_some() && !event.uri.is_empty())
    );
    let added = &events.last().unwrap().present;
    assert_eq!(added, &["purple <b>haze</b>"]);
    // A second window is somebody else.
    let before = asked(browser).1;
    let mut other = Browser::start().unwrap();
    other.open(&scene.url("/review"));
    let image = |question: &str| question.split(' ').next().unwrap().to_owned();
    assert_ne!(image(&asked(&mut other).1), image(&before));
}

/// Many pictures of one category at once.
fn labels_many(browser: &mut Browser, scene: &Scene) {
    let before = scene.events().len();
    browser.look(DESKTOP);
    browser.open(&scene.url("/review/grid?category=green"));
    browser.until("document.querySelectorAll('#grid .pictures img').length > 1");
    browser.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)");
    let count = browser.run("document.querySelectorAll('#grid .pictures img').length");
    let count = count.as_u64().unwrap() as usize;
    browser.picture("review-grid");
    browser.click("input[name=said-0][value=yes]");
    browser.click("input[name=said-1][value=pass]");
    browser.click("input[name=rest][value=no]");
    browser.click("#grid button.main");
    let sent = format!("{} answers were sent", count - 1);
    browser.until(&format!("document.body.innerText.includes('{sent}')"));
    browser.click("form:not(#grid) button.plain");
    browser.until("document.body.innerText.includes('was taken back')");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let events = scene.events();
    let events = &events[before..];
    let of = |list: fn(&LabelEvent) -> &Vec<String>| {
        events
            .iter()
            .filter(|event| list(event)[..] == ["green"])
            .count()
    };
    let counts = (of(|e| &e.present), of(|e| &e.absent), of(|e| &e.retract));
    assert_eq!(counts, (1, count - 2, 1), "{events:?}");
}

/// The new version, and back to the old one.
fn rolls_back(browser: &mut Browser, scene: &Scene) {
    let started = Instant::now();
    loop {
        browser.open(&scene.url("/models"));
        if browser.text("main").contains("version 2 serves") {
            break;
        }
        assert!(started.elapsed() < STUCK, "{}", browser.text("main"));
    }
    assert!(browser.text("main").contains("the second, retrained"));
    browser.click("summary");
    browser.click("#why-1");
    browser.write("tags were better before");
    browser.click("form[action='/models/decide'] button");
    browser.until("document.body.innerText.includes('version 1 serves')");
    assert!(browser.text("main").contains("tags were better before"));
    browser.picture("models");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Pictures by tag, by likeness and by time.
fn searches(browser: &mut Browser, scene: &Scene) {
    browser.open(&scene.url("/search"));
    browser.click("#tag");
    browser.write("blue");
    browser.click("#least");
    browser.write("90");
    browser.click("form.search button");
    browser.until("document.querySelectorAll('.pictures figure').length > 10");
    let scores = browser.run(
        "[...document.querySelectorAll('.tags')].every(t => t.innerText.includes('blue 0.9'))",
    );
    assert_eq!(scores, true, "{}", browser.text("main"));
    assert!(
        browser.text("main").contains("108 rows in"),
        "{}",
        browser.text("main")
    );
    browser.picture("search");
    let first = browser.text(".pictures figcaption span");
    browser.click(".pictures form button");
    browser.until("document.getElementById('image').value !== ''");
    assert_eq!(
        browser.text(".pictures figcaption span"),
        first,
        "most like itself"
    );
    browser.open(&scene.url("/search?from=2999-01-01"));
    browser.until("document.body.innerText.includes('Nothing was found')");
    browser.open(&scene.url("/search?words=a%20cat"));
    browser.until("document.body.innerText.includes('Words need the model')");
    browser.open(&scene.url("/search?image=nobody&from=yesterday"));
    browser.until("document.body.innerText.includes('A time is written as')");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_one_s_own_finds_its_like() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let scene = Scene::start_with("upload", |config| config.inference.enabled = true).await;
    let own = scene.world.picture(3);
    let broken = scene.world.folder.path().join("broken.png");
    std::fs::write(&broken, b"no picture").unwrap();
    tokio::task::block_in_place(|| {
        browser.look(DESKTOP);
        browser.open(&scene.url("/search"));
        let started = Instant::now();
        while browser.run("fetch('/v2/health/ready').then(a => a.ok)") != true {
            assert!(started.elapsed() < STUCK, "the model is never ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        // The model may be ready before the first rows are.
        while !browser.text("main").contains("72 rows") {
            assert!(started.elapsed() < STUCK, "{}", browser.text("main"));
            browser.open(&scene.url("/search?tag=blue&least=0"));
        }
        // Browsers complain of every answer that is none.
        browser.complaints();
        browser.choose("#upload", &own);
        browser.until("location.search.includes('vector=')");
        browser.until("document.querySelectorAll('.pictures figure').length > 10");
        assert!(browser.text("main").contains("the picture that you chose"));
        // Every eighth has these pixels; they come first.
        let names = browser.run(
            "[...document.querySelectorAll('.pictures figcaption')].slice(0, 5)\
             .map(c => Number(c.innerText.match(/image-(\\d+)/)[1]) % 8)",
        );
        assert_eq!(
            names,
            serde_json::json!([3, 3, 3, 3, 3]),
            "{}",
            browser.text("main")
        );
        // What was asked besides still holds.
        assert!(
            browser
                .run("location.search")
                .as_str()
                .unwrap()
                .contains("tag=blue")
        );
        assert_eq!(browser.complaints(), Vec::<String>::new());
        browser.picture("search-upload");
        browser.choose("#upload", &broken);
        browser.until("document.getElementById('trouble').innerText !== ''");
        let said = browser.complaints();
        assert!(said.iter().all(|said| said.contains("422")), "{said:?}");
    });
    scene.end();
}

/// What axe-core is, where it is installed.
fn axe() -> Option<String> {
    let Some(path) = std::env::var_os("TAGSTREAM_TEST_AXE") else {
        not_tested("pages by axe-core: there is none (scripts/setup.sh test)");
        return None;
    };
    // Nothing of it is an answer.
    Some(std::fs::read_to_string(path).unwrap() + "\n;0")
}

/// No page is wider than the window, too pale to read, has a fault that axe-core calls serious, or
/// complains.
pub(crate) fn looks_everywhere(browser: &mut Browser, pages_at: &str, paths: &[&str]) {
    let axe = axe();
    for look in [DESKTOP, PHONE] {
        for dark in [false, true] {
            browser.look(Look { dark, ..look });
            for path in paths {
                browser.open(&format!("http://{pages_at}{path}"));
                if *path == "/review" {
                    asked(browser);
                }
                let what = format!("{path} at {} px, dark: {dark}", look.width);
                let wide = browser.run("document.documentElement.scrollWidth");
                assert!(
                    wide.as_u64().unwrap() <= u64::from(look.width),
                    "{what}: {wide} px"
                );
                let pale = browser.run(include_str!("contrast.js"));
                assert_eq!(pale, serde_json::json!([]), "{what}");
                if let Some(axe) = &axe {
                    browser.run(axe);
                    let faults = browser.run(include_str!("axe.js"));
                    assert_eq!(faults, serde_json::json!([]), "{what}");
                }
                let complaints = browser.complaints();
                let expected = usize::from(*path == "/nothing");
                assert_eq!(complaints.len(), expected, "{what}: {complaints:?}");
                let size = if look.width < 600 { "phone" } else { "desktop" };
                let light = if dark { "dark" } else { "light" };
                let name = path.trim_matches('/').replace(['/', '?', '=', '&'], "-");
                browser.picture(&format!("{size}-{light}-{name}"));
            }
        }
    }
}

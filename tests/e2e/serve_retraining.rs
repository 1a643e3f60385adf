//! The whole way of a person at the pages, in a browser: the running stage, twenty answers by
//! keyboard, a retraining on what was labelled, the version that it makes, going back from it, and
//! pictures by words. Stage, pages and job are processes of their own with the demo model.

use crate::browser::Browser;
use crate::child::{Launch, Stage};
use crate::harness::{STUCK, World, bootstrap, create_topic, unique};
use crate::serve::{DESKTOP, asked, events_of, known, looks_everywhere, pages_of, press};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tagstream::demo::scenes::{Scene, Style, categories};
use tagstream::labelling::Publisher;
use tagstream::labelling::store::read_labels;
use tagstream_core::config::{KafkaConfig, ObjectStoreConfig};
use tagstream_core::events::LabelEvent;
use tagstream_core::storage::store::TableStore;
use tagstream_model::registry::{Registry, Verdict};

/// Pictures, all of which the stage tags.
const PICTURES: u64 = 400;
/// Categories: few enough that each has labels to be judged by.
const CATEGORIES: usize = 10;
/// Answers that the person gives.
const ANSWERS: usize = 20;
/// What a retraining on a busy machine may take; never part of what is asserted.
const RETRAINED: Duration = Duration::from_secs(600);

fn scene(number: u64) -> Scene {
    Scene::draw(7, number, Style::Plain, 128)
}

fn names() -> &'static [&'static str] {
    &categories()[..CATEGORIES]
}

fn tagstream(arguments: &[&str], paths: &[&Path]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    let command = command.args(arguments).args(paths);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// A stage on a registry in which the first model only guesses: its words for the categories mean
/// nothing.
struct Place {
    world: World,
    registry: PathBuf,
    stage: Stage,
    pages: Stage,
    address: String,
}

impl Place {
    fn start() -> Self {
        let mut world = World::new("retraining", 2);
        world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
        world.config.object_store.s3.clear();
        world.config.source.statistics_interval_ms = 200;
        // Nobody is killed here; who is kept waiting by a busy machine is not to be thrown out.
        world.config.kafka.session_timeout_ms = 30_000;
        world.config.model.watch_interval_ms = 200;
        world.config.labels.enabled = true;
        world.config.labels.topic = unique("retraining-labels");
        create_topic(&world.config.labels.topic, 2);
        let registry = registry(world.folder.path());
        for number in 0..PICTURES {
            let scene = scene(number);
            let path = world.folder.path().join(format!("{}.jpg", scene.image_id));
            std::fs::write(path, scene.jpeg().unwrap()).unwrap();
        }
        let launch = Launch {
            for_ever: true,
            http: true,
            model: Some(&registry),
            ..Launch::default()
        };
        let mut stage = world.launch("stage", &launch);
        let mut config = pages_of(&world, registry.to_str().unwrap(), &stage.address());
        config.inference.enabled = true;
        let mut pages = world.serve("pages", &config);
        let address = pages.address_in("the pages are served");
        Place {
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

    fn uri(&self, image_id: &str) -> String {
        let path = self.world.folder.path().join(format!("{image_id}.jpg"));
        format!("file://{}", path.display())
    }

    /// References to the pictures with these numbers.
    fn produce(&self, numbers: std::ops::Range<u64>) {
        self.world.produce_raw(numbers.map(|number| {
            let image_id = scene(number).image_id;
            let message = serde_json::json!({"image_id": image_id, "uri": self.uri(&image_id)});
            (number as i32 % 2, Some(message.to_string()))
        }));
    }

    async fn registry(&self) -> Registry {
        let url = self.registry.to_str().unwrap();
        let opened = Registry::open(url, &ObjectStoreConfig::default()).await;
        opened.unwrap()
    }

    /// What others say of two thirds of all entries, on the topic, and waits for the label table.
    async fn others_label(&self) {
        let events = (0..PICTURES).map(|number| {
            let scene = scene(number);
            let mut event = LabelEvent::about(&scene.image_id, self.uri(&scene.image_id));
            event.annotator = "others".into();
            for (at, name) in (0u64..).zip(names()) {
                if (number * 31 + at * 17) % 3 != 0 {
                    let said = match scene.has(name) {
                        true => &mut event.present,
                        false => &mut event.absent,
                    };
                    said.push((*name).to_owned());
                }
            }
            event
        });
        let events: Vec<LabelEvent> = events.collect();
        let kafka = KafkaConfig {
            brokers: bootstrap(),
            ..KafkaConfig::default()
        };
        let publisher = Publisher::new(&kafka, &self.world.config.labels.topic).unwrap();
        publisher.publish(&events).await.unwrap();
        let sent = events.iter().map(|e| e.present.len() + e.absent.len());
        let sent: usize = sent.sum();
        let options = ObjectStoreConfig::default();
        let store = TableStore::open_for_reading(&self.world.config.output.url, &options).unwrap();
        let started = Instant::now();
        loop {
            let table = read_labels(&store, "labels").await.unwrap();
            // Some of the person's own answers are about the same.
            if table.known().count() >= sent {
                return;
            }
            assert!(started.elapsed() < STUCK, "{}", self.stage.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The job, to its end.
    fn retrain(&self) {
        let folder = self.world.folder.path();
        let config = format!(
            "[registry]\nurl = {registry:?}\n[labels]\nurl = {tables:?}\n\
             [fetch]\nallow_schemes = [\"file\"]\nallow_path_prefixes = [{folder:?}]\n\
             [decode]\nhelper = {helper:?}\n[features]\ncache = {features:?}\n\
             [train]\nset = [\"optimizer.least_share=0\", \"optimizer.epochs=2\"]\n\
             work_folder = {work:?}\n",
            registry = self.registry,
            tables = self.world.config.output.url,
            helper = env!("CARGO_BIN_EXE_tagstream"),
            features = folder.join("features"),
            work = folder.join("work"),
        );
        let path = folder.join("retrain.toml");
        std::fs::write(&path, config).unwrap();
        let log = folder.join("retrain.log");
        let mut job = Command::new(env!("CARGO_BIN_EXE_tagstream"));
        let job = job.args(["retrain", "--config"]).arg(&path);
        let job = job.stdout(Stdio::null()).stdin(Stdio::null());
        let mut job = job
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = job.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > RETRAINED {
                job.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let said = std::fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.stage.log(), self.pages.log());
        }
    }
}

/// A registry with the demo model, by words that it was never taught.
fn registry(folder: &Path) -> PathBuf {
    let (list, bundle) = (folder.join("categories.txt"), folder.join("zero-shot"));
    let lines = names().iter();
    let lines = lines.map(|name| format!("{name}\t{}\n", name.chars().rev().collect::<String>()));
    std::fs::write(&list, lines.collect::<String>()).unwrap();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
    let registry = folder.join("registry");
    let (clip, list) = (clip.to_str().unwrap(), list.to_str().unwrap());
    let init = ["init", "--clip", clip, "--categories", list, "--out"];
    tagstream(&init, &[&bundle]);
    let add = ["registry", "add", "--promote", "--registry"];
    tagstream(&add, &[&registry, &bundle]);
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_labels_sees_the_retrained_version_goes_back_and_searches_by_words() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let mut place = Place::start();
    tokio::task::block_in_place(|| {
        watches(&mut browser, &place);
        answers(&mut browser, &place);
    });
    place.others_label().await;
    tokio::task::block_in_place(|| {
        // The live page is open while the job works: it shows the new version by itself.
        browser.open(&place.url("/"));
        browser.until("document.getElementById('connection').textContent === 'live'");
        browser.run("window.stayed = true");
        place.retrain();
        let model = "document.querySelector('[data-live=model]').innerText";
        browser.until(&format!("{model}.includes('version 2')"));
        browser.until(&format!("!{model}.includes('still runs')"));
        assert_eq!(browser.run("window.stayed"), true);
    });
    let history = place.registry().await.history().await.unwrap();
    let verdicts = history.iter().filter_map(|entry| entry.verdict);
    assert_eq!(verdicts.collect::<Vec<_>>(), [Verdict::Promote]);
    tokio::task::block_in_place(|| goes_back(&mut browser, &place));
    let pointer = place.registry().await.pointer().await.unwrap().unwrap();
    assert_eq!(pointer.version, Some(1));
    tokio::task::block_in_place(|| {
        searches(&mut browser, &place);
        let paths = [
            "/",
            "/models/2",
            "/models/compare?a=1&b=2",
            "/search?words=a+car",
        ];
        let paths = [&paths[..], &["/review", "/review/grid"]].concat();
        looks_everywhere(&mut browser, &place.address, &paths);
    });
    for process in [&mut place.pages, &mut place.stage] {
        process.signal("TERM");
        assert!(process.wait().success(), "{}", process.log());
    }
}

/// Pictures that come while somebody looks.
fn watches(browser: &mut Browser, place: &Place) {
    browser.look(DESKTOP);
    browser.open(&place.url("/"));
    browser.until("document.getElementById('connection').textContent === 'live'");
    browser.until("document.querySelector('[data-live=stages]').innerText.includes('ready')");
    browser.run("window.stayed = true");
    place.produce(0..PICTURES);
    browser.until("document.querySelectorAll('[data-live=newest] figure').length === 24");
    browser.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)");
    assert_eq!(browser.run("window.stayed"), true);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let started = Instant::now();
    while place.world.rows().len() < PICTURES as usize {
        assert!(started.elapsed() < STUCK, "{}", place.stage.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Twenty questions by keyboard, answered as it is.
fn answers(browser: &mut Browser, place: &Place) {
    browser.open(&place.url("/review"));
    browser.until("document.querySelector('.ask img')?.naturalWidth > 0");
    let before = known(browser);
    for _ in 0..ANSWERS {
        let question = asked(browser).1;
        let (image_id, category) = question.split_once(' ').unwrap();
        let number = (0..PICTURES).find(|number| scene(*number).image_id == image_id);
        let there = scene(number.unwrap()).has(category);
        press(browser, if there { "y" } else { "n" });
    }
    assert_eq!(known(browser), before + ANSWERS as u64, "the counts rise");
    let events = events_of(&place.world);
    assert_eq!(events.len(), ANSWERS, "{events:?}");
    // Where the model sees it: asked for by a key, drawn by the model over HTTP.
    browser.key("h");
    browser.until("document.querySelector('.ask .heat:not([hidden])')?.naturalWidth > 0");
    let kind = "fetch(document.querySelector('.ask .heat').src)\
                .then(answer => answer.headers.get('content-type'))";
    assert_eq!(browser.run(kind), "image/png");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.picture("retraining-review");
}

/// The version that the job made: in the list, with its verdict and report; then the one before.
fn goes_back(browser: &mut Browser, place: &Place) {
    browser.open(&place.url("/models"));
    let list = browser.text("main");
    assert!(list.contains("version 2 serves"), "{list}");
    assert!(list.contains("PROMOTE"), "{list}");
    browser.picture("retraining-models");
    browser.open(&place.url("/models/2"));
    let gates = browser.text("main");
    assert!(gates.contains("Gates"), "{gates}");
    browser.picture("retraining-version");
    browser.open(&place.url("/models/2/report"));
    assert!(browser.text("body").contains("PROMOTE"));
    browser.open(&place.url("/models"));
    browser.click("summary");
    browser.click("#why-1");
    browser.write("to see whether one can");
    browser.click("form[action='/models/decide'] button");
    browser.until("document.body.innerText.includes('version 1 serves')");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The stage follows.
    browser.open(&place.url("/"));
    let model = "document.querySelector('[data-live=model]').innerText";
    browser.until(&format!("{model}.includes('version 1')"));
    browser.until(&format!("!{model}.includes('still runs')"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Pictures by words, which are typed.
fn searches(browser: &mut Browser, place: &Place) {
    let started = Instant::now();
    while browser.run("fetch('/v2/health/ready').then(a => a.ok)") != true {
        assert!(started.elapsed() < STUCK, "the model is never ready");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Browsers complain of every answer that is none.
    browser.complaints();
    let shown = |name: &str| {
        let scenes = (0..PICTURES).filter(|number| scene(*number).has(name));
        scenes.count()
    };
    let name = names().iter().max_by_key(|name| shown(name)).unwrap();
    browser.open(&place.url("/search"));
    browser.click("#words");
    browser.write(&format!("a {name}"));
    browser.key("Enter");
    browser.run("document.querySelector('form.search').requestSubmit()");
    browser.until("document.querySelectorAll('.pictures figure').length > 10");
    let found = browser.run(
        "[...document.querySelectorAll('.pictures figcaption > span')].slice(0, 10)\
         .map(s => s.title)",
    );
    let found: Vec<String> = serde_json::from_value(found).unwrap();
    let right = found.iter().filter(|image_id| {
        let number = (0..PICTURES).find(|number| scene(*number).image_id == **image_id);
        scene(number.unwrap()).has(name)
    });
    let (right, by_chance) = (right.count(), 10.0 * shown(name) as f64 / PICTURES as f64);
    assert!(
        right as f64 > 2.0 * by_chance,
        "{right} of the first ten have {name}, {by_chance:.1} by chance"
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.picture("retraining-search");
}

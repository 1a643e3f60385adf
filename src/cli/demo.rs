//! `tagstream demo`: everything, with an embedded broker and the demo model.

mod configs;
mod pages;
mod summary;

use super::installed::demo_clip;
use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use summary::Summary;
use tagstream::demo::scenes::{DEFAULT_SIZE, Scene, Style};
use tagstream::demo::scoreboard::{Scoreboard, VersionScore, truth};
use tagstream::demo::story::{Followed, Running, Story, partial_labels, write_broken_pictures};
use tagstream_core::error::Exit;

/// Seeds of the two halves of the stream; the demo model was not trained on them, nor on their
/// style.
const SEEDS: [u64; 2] = [20_261_121, 20_261_122];
/// Names of the halves, and of their folders.
const HALVES: [&str; 2] = ["first", "second"];
/// Pale, blurred, noisy pictures, which the demo model finds hard.
const STYLE: Style = Style::Pale;
/// Share of all pairs of a scene of the first half and a category that are labelled.
const KNOWN: f64 = 0.1;
/// A retraining wants so many labels that are new.
const NEW_LABELS: usize = 100;
/// Exit codes of `tagstream retrain` that a story can go on from.
const JUDGED: [i32; 3] = [
    Exit::Success as i32,
    Exit::NothingToDo as i32,
    Exit::Rejected as i32,
];

/// Arguments of `tagstream demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How many scenes to stream: half of them before the retraining, half of them after it.
    #[arg(long, default_value_t = 8000)]
    pub images: usize,
    /// Where to leave the results.
    #[arg(long, default_value = "demo-out")]
    pub out: PathBuf,
    /// The demo model's weights.
    #[arg(long, default_value_os_t = demo_clip())]
    pub clip: PathBuf,
    /// Bound of the training time, minutes.
    #[arg(long, default_value_t = 2.5)]
    pub max_minutes: f64,
    /// Keep the stage running at the end, with its pages, until this is interrupted: to look, label
    /// some pictures, and retrain.
    #[arg(long)]
    pub serve: bool,
    /// The port of the pages; another one if it is taken.
    #[arg(long, default_value_t = 9480, requires = "serve")]
    pub port: u16,
}

/// The judge let the candidate not pass, which ends the story.
#[derive(Debug, thiserror::Error)]
#[error("the candidate was not promoted (exit code {code}): see why in {report}")]
struct NotPromoted {
    code: i32,
    report: String,
}

/// Runs the command.
pub(super) fn run(args: DemoArgs) -> anyhow::Result<Exit> {
    ensure!(args.images >= 400, "--images: at least 400");
    ensure!(
        args.clip.is_dir(),
        "no demo model at {}: run this in the repository, install it (`make install`), or name it \
         with --clip",
        args.clip.display()
    );
    let started = Instant::now();
    let program = std::env::current_exe().context("where is this binary?")?;
    let clip = args.clip.canonicalize()?;
    let demo = Demo::new(Story::begin(program, &args.out)?, args.images / 2);
    let told = demo.tell(&clip, args.max_minutes, started);
    let told_enough = |told: &anyhow::Result<()>| match told {
        Ok(()) => true,
        Err(error) => error.is::<NotPromoted>(),
    };
    if args.serve && told_enough(&told) {
        if let Err(error) = &told {
            eprintln!("\n  {error}");
        }
        demo.keep(args.port)?;
    } else if told.is_ok() {
        open(&demo.report());
        eprintln!(
            "\n  `--serve` keeps the stage running, and its pages: to look, label and retrain"
        );
    }
    told.map(|()| Exit::Success)
}

impl Demo {
    /// The story from its beginning to the figures at its end.
    fn tell(&self, clip: &Path, max_minutes: f64, started: Instant) -> anyhow::Result<()> {
        let demo = self;
        chapter("1. A stream of pictures that the model has never seen the like of");
        demo.draw_pictures()?;
        demo.register_model(clip)?;
        let scenes = SEEDS.map(|seed| draw(seed, demo.half));
        let config = demo.write("stage.toml", &demo.stage_config(""))?;
        let mut stage = demo.story.start_stage(&config)?;
        let mut progress = demo.story.follow()?;
        let (first_half, broken) = demo.stream(0, &scenes[0], &mut progress, &mut stage)?;

        chapter("2. Labels arrive, most of them missing");
        let (known, pairs) = demo.label(&scenes[0], &mut stage)?;

        chapter("3. Retraining, and the judge");
        let training = demo.retrain(max_minutes)?;

        chapter("4. The running stage takes the new model, and the stream goes on");
        let candidate = demo.serving()?;
        let seen = demo.stream_until(&candidate, &scenes[1], &mut progress, &mut stage)?;
        let (second_half, _) = demo.stream(1, &scenes[1][seen..], &mut progress, &mut stage)?;
        stage.finish()?;

        chapter("5. Before and after, on the second half, which nobody has labelled");
        let before = demo.measure(1)?;
        let board = Scoreboard::read(&demo.story.out().join("predictions"))?;
        ensure!(
            board.rows.len() == 2 * demo.half,
            "{} rows in the files, but {} good pictures were sent",
            board.rows.len(),
            2 * demo.half
        );
        let unseen = truth(&scenes[1]);
        let after = board.by_version(&unseen, |row| unseen.contains_key(&row.image_id))?;
        let after = after.get(&candidate).context(
        "the stage never took the new model: every picture of the second half has the old one's \
         tags",
    )?;

        let summary = Summary {
            board: &board,
            progress: &progress,
            tagging: [(demo.half, first_half), (demo.half - seen, second_half)],
            labels: (known, pairs),
            training,
            before,
            after,
        };
        summary.print_counts();
        ensure!(
            progress.done() == 2 * demo.half + broken,
            "messages were lost or doubled"
        );
        summary.print_gain(started);
        summary.print_places(demo.story.out());
        Ok(())
    }
}

/// The parts of the demonstration that have a place in its folder.
struct Demo {
    story: Story,
    /// Pictures in each half.
    half: usize,
}

impl Demo {
    fn new(story: Story, half: usize) -> Self {
        Demo { story, half }
    }

    fn pictures(&self, half: usize) -> PathBuf {
        self.story.out().join("pictures").join(HALVES[half])
    }

    fn registry(&self) -> String {
        show(&self.story.out().join("registry"))
    }

    /// The page of the retraining job, which is told to leave it in the folder of results.
    fn report(&self) -> PathBuf {
        self.story.out().join("report.html")
    }

    fn uri(&self, half: usize, scene: &Scene) -> String {
        format!("file://{}", self.picture(half, scene).display())
    }

    fn picture(&self, half: usize, scene: &Scene) -> PathBuf {
        let name = format!("images/{}.jpg", scene.image_id);
        self.pictures(half).join(name)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.story.out().join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Both halves as files; what is in the pictures goes to a folder that nobody but this command
    /// reads.
    fn draw_pictures(&self) -> anyhow::Result<()> {
        for (half, seed) in SEEDS.iter().enumerate() {
            let folder = self.pictures(half);
            self.story.run(
                "setup.log",
                &[
                    "scenes",
                    "--out",
                    &show(&folder),
                    "--count",
                    &self.half.to_string(),
                    "--seed",
                    &seed.to_string(),
                    "--style",
                    STYLE.name(),
                ],
                &[0],
            )?;
            let truth = self.truth(half);
            std::fs::create_dir_all(&truth)?;
            for name in ["labels.csv", "boxes.csv", "scenes.jsonl"] {
                std::fs::rename(folder.join(name), truth.join(name))?;
            }
        }
        Ok(())
    }

    fn truth(&self, half: usize) -> PathBuf {
        self.story.out().join("truth").join(HALVES[half])
    }

    /// A zero-shot model, and a registry in which it serves.
    fn register_model(&self, clip: &Path) -> anyhow::Result<()> {
        let model = show(&self.story.out().join("zero-shot"));
        let categories = self.pictures(0).join("categories.txt");
        let (clip, categories) = (show(clip), show(&categories));
        let init = ["init", "--clip", &clip, "--categories", &categories];
        let init: Vec<&str> = init.into_iter().chain(["--out", &model]).collect();
        self.story.run("setup.log", &init, &[0])?;
        let registry = self.registry();
        let who = [
            "--who",
            "demo",
            "--why",
            "zero-shot: nothing was labelled yet",
        ];
        let add = [&["registry", "add", &model, "--promote"][..], &who].concat();
        let add: Vec<&str> = add.into_iter().chain(["--registry", &registry]).collect();
        self.story.run("setup.log", &add, &[0])?;
        Ok(())
    }

    /// Labels some of what is in the first half's pictures and waits until the stage has filed it.
    /// Gives how many labels are known, of how many that could be.
    fn label(&self, scenes: &[Scene], stage: &mut Running) -> anyhow::Result<(usize, usize)> {
        let labels = partial_labels(scenes, KNOWN, SEEDS[0], |s| self.uri(0, s));
        self.story.send_labels(&labels)?;
        let filed = self.story.wait_for_labels(labels.len(), stage)?;
        let known = filed.known().count();
        let pairs = self.half * tagstream::demo::scenes::categories().len();
        eprintln!(
            "  {known} labels of {} pictures: {:.0} % of what could be said about them",
            labels.len(),
            100.0 * known as f64 / pairs as f64
        );
        Ok((known, pairs))
    }

    /// Trains a candidate and has it judged; gives how long that took. A candidate that is not
    /// promoted ends the demonstration.
    fn retrain(&self, max_minutes: f64) -> anyhow::Result<Duration> {
        let text = self.retrain_config(max_minutes, &self.pictures(0), NEW_LABELS);
        let config = self.write("retrain.toml", &text)?;
        let training = Instant::now();
        let code = self
            .story
            .run_in_sight(&["retrain", "--config", &show(&config)], &JUDGED)?;
        let training = training.elapsed();
        if code != Exit::Success as i32 {
            let report = show(&self.report());
            return Err(NotPromoted { code, report }.into());
        }
        Ok(training)
    }

    /// Sends a half (the first with broken messages among it) and waits until all of it has come to
    /// an end. Gives the time that tagging took, and how many were broken.
    fn stream(
        &self,
        half: usize,
        scenes: &[Scene],
        progress: &mut Followed,
        stage: &mut Running,
    ) -> anyhow::Result<(Duration, usize)> {
        let references: Vec<(String, PathBuf)> = scenes
            .iter()
            .map(|s| (s.image_id.clone(), self.picture(half, s)))
            .collect();
        let broken = if half == 0 {
            let folder = self.story.out().join("broken");
            std::fs::create_dir_all(&folder)?;
            write_broken_pictures(&folder, &std::fs::read(&references[0].1)?)?
        } else {
            Vec::new()
        };
        self.story.send_references(&references, &broken)?;
        let (sent, bad) = (references.len() + broken.len(), broken.len());
        eprintln!("  {sent} image references sent, {bad} of them broken on purpose");
        Ok((follow(progress, stage, sent)?, bad))
    }

    /// Sends the second half in small portions until the first picture comes back with the new
    /// model's tags, or half of it is sent: a fast machine would else have tagged all of it before
    /// the stage has loaded the model. Gives how many it sent.
    fn stream_until(
        &self,
        model: &str,
        scenes: &[Scene],
        progress: &mut Followed,
        stage: &mut Running,
    ) -> anyhow::Result<usize> {
        let mut sent = 0;
        for portion in scenes[..scenes.len() / 2].chunks((scenes.len() / 40).max(1)) {
            let references: Vec<(String, PathBuf)> = portion
                .iter()
                .map(|s| (s.image_id.clone(), self.picture(1, s)))
                .collect();
            self.story.send_references(&references, &[])?;
            progress.wait_for(progress.done() + portion.len(), stage, |_| ())?;
            sent += portion.len();
            if progress.versions().contains_key(model) {
                break;
            }
            // A stream has its own pace; nothing here depends on how long this is.
            std::thread::sleep(Duration::from_millis(300));
        }
        eprintln!("  {sent} image references sent in portions, until the new model answered");
        Ok(sent)
    }

    /// mAP of a version on the second half, from its pictures and the whole truth, percent.
    fn measure(&self, version: u64) -> anyhow::Result<VersionScore> {
        let model = format!("{}@{version}", self.registry());
        let labels = show(&self.truth(1).join("labels.csv"));
        let images = show(&self.pictures(1).join("images"));
        let eval = ["eval", "--model", &model, "--labels", &labels, "--images"];
        let more = [images.as_str(), "--no-cache", "--json"];
        let eval: Vec<&str> = eval.into_iter().chain(more).collect();
        let answer = self.story.ask("eval.log", &eval)?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let number = |of: &serde_json::Value| of.as_f64().unwrap_or_default();
        let (tags, images) = (&answer["tags"], answer["images"].as_u64());
        let images = images.context("eval measured nothing")? as usize;
        Ok(VersionScore {
            images,
            tags: (number(&tags["per_image"]) * images as f64).round() as usize,
            right: number(&tags["right"]),
            found: number(&tags["found"]),
            map: number(&answer["map_plain"]),
        })
    }

    /// The id of the model that the registry says should serve.
    fn serving(&self) -> anyhow::Result<String> {
        let registry = self.registry();
        let list = ["registry", "list", "--json", "--registry", &registry];
        let answer = self.story.ask("setup.log", &list)?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let id = answer["pointer"]["id"].as_str();
        Ok(id.context("the registry has no pointer")?.to_owned())
    }
}

/// What is in the scenes; their pixels are not kept.
fn draw(seed: u64, count: usize) -> Vec<Scene> {
    (0..count as u64)
        .into_par_iter()
        .map(|i| Scene {
            rgb: Vec::new(),
            ..Scene::draw(seed, i, STYLE, DEFAULT_SIZE)
        })
        .collect()
}

fn follow(progress: &mut Followed, stage: &mut Running, more: usize) -> anyhow::Result<Duration> {
    let begun = progress.done();
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(more as u64)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template(
        "  tagging {bar:40} {pos}/{len} ({per_sec}, {eta} left)",
    )?);
    // Model loading and joining the group are not tagging: the clock starts with the first answer.
    let mut first: Option<Instant> = None;
    progress.wait_for(begun + more, stage, |done| {
        if done > begun {
            first.get_or_insert_with(Instant::now);
        }
        bar.set_position((done - begun) as u64);
    })?;
    bar.finish_and_clear();
    Ok(first.map_or(Duration::ZERO, |f| f.elapsed()))
}

/// Shows the report where there is a screen to show it on.
fn open(report: &Path) {
    let screen = ["DISPLAY", "WAYLAND_DISPLAY"];
    if screen.iter().any(|name| std::env::var_os(name).is_some()) {
        // Where there is no such command its path, printed above, must do.
        let _ = Command::new("xdg-open")
            .arg(report)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
}

fn chapter(title: &str) {
    eprintln!("\n{title}");
}

/// A path as seen from here, if it lies below.
fn show(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok())
        .unwrap_or(path)
        .display()
        .to_string()
}

//! `tagstream demo`: everything, with an embedded broker and the demo model.

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tagstream::{
    demo::{
        scenes::{Scene, Style},
        scoreboard::{Scoreboard, truth},
        story::{Progress, RunningStage, Story, topic, write_broken_pictures},
    },
    error::Exit,
};

/// Seed of the scenes that the demonstration streams; the demo model was not trained on them.
const SEED: u64 = 20_261_121;

/// Arguments of `tagstream demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many scenes to draw.
    #[arg(long, default_value_t = 2000)]
    pub images: usize,
    /// Where to leave the results.
    #[arg(long, default_value = "demo-out")]
    pub out: PathBuf,
    /// The demo model's weights.
    #[arg(long, default_value = "models/demo-clip")]
    pub clip: PathBuf,
}

/// Runs the command.
pub fn run(args: DemoArgs) -> anyhow::Result<Exit> {
    ensure!(args.images >= 100, "--images: at least 100");
    ensure!(
        args.clip.is_dir(),
        "no demo model at {}: run this in the repository, or name it with --clip",
        args.clip.display()
    );
    let started = Instant::now();
    let program = std::env::current_exe().context("where is this binary?")?;
    let story = Story::begin(program, &args.out)?;
    let clip = args.clip.canonicalize()?;
    let out = story.out().to_path_buf();
    let scenes_dir = out.join("scenes");

    chapter("A stream of pictures and a zero-shot model");
    story.run(
        "setup.log",
        &[
            "scenes".as_ref(),
            "--out".as_ref(),
            scenes_dir.as_os_str(),
            "--count".as_ref(),
            args.images.to_string().as_ref(),
            "--seed".as_ref(),
            SEED.to_string().as_ref(),
            "--style".as_ref(),
            "plain".as_ref(),
        ],
        &[0],
    )?;
    let model = out.join("model");
    story.run(
        "setup.log",
        &[
            "init".as_ref(),
            "--clip".as_ref(),
            clip.as_os_str(),
            "--categories".as_ref(),
            scenes_dir.join("categories.txt").as_os_str(),
            "--out".as_ref(),
            model.as_os_str(),
        ],
        &[0],
    )?;

    let scenes = draw(args.images, Style::Plain);
    let pictures = scenes_dir.join("images");
    let references: Vec<(String, PathBuf)> = scenes
        .iter()
        .map(|s| {
            (
                s.image_id.clone(),
                pictures.join(format!("{}.jpg", s.image_id)),
            )
        })
        .collect();
    let broken_dir = out.join("broken");
    std::fs::create_dir_all(&broken_dir)?;
    let broken = write_broken_pictures(&broken_dir, &scenes[0].jpeg()?)?;

    let config = out.join("stage.toml");
    std::fs::write(&config, stage_config(&story, &model))?;
    let mut stage = story.start_stage(&config)?;
    let mut progress = story.follow()?;
    let total = references.len() + broken.len();
    story.send_references(&references, &broken)?;
    eprintln!(
        "  {total} image references sent, {} of them broken on purpose",
        broken.len()
    );
    let took = follow(&mut progress, &mut stage, total)?;
    stage.finish()?;

    let table = out.join("predictions");
    let board = Scoreboard::read(&table)?;
    let scores = board.by_version(&truth(&scenes), |_| true)?;
    ensure!(
        board.rows.len() == references.len(),
        "{} rows in the files, but {} good pictures were sent",
        board.rows.len(),
        references.len()
    );
    eprintln!();
    let tags: usize = board.rows.iter().map(|r| r.tags).sum();
    row("images tagged", &board.rows.len().to_string());
    row("tags", &tags.to_string());
    row(
        "images a second",
        &format!("{:.0}", references.len() as f64 / took.as_secs_f64()),
    );
    for (kind, count) in progress.dead_letters() {
        row(&format!("dead letters, {kind}"), &count.to_string());
    }
    for (version, score) in &scores {
        row(
            &format!("mAP of {version}"),
            &format!("{:.1} on {} images", score.map, score.images),
        );
    }
    row(
        "Parquet files",
        &format!("{} in {}", board.files, show(&table)),
    );
    row("time", &format!("{:.0} s", started.elapsed().as_secs_f64()));
    eprintln!("\n  Ask the files yourself, for example:");
    eprintln!(
        "    duckdb -c \"select tag.category, count(*) n, round(avg(tag.score), 2) score \
         from '{}/**/*.parquet', unnest(tags) t(tag) group by 1 order by 2 desc limit 10\"",
        show(&table)
    );
    Ok(Exit::Success)
}

fn draw(count: usize, style: Style) -> Vec<Scene> {
    (0..count as u64)
        .into_par_iter()
        .map(|i| Scene::draw(SEED, i, style, tagstream::demo::scenes::DEFAULT_SIZE))
        .collect()
}

fn stage_config(story: &Story, model: &Path) -> String {
    format!(
        r#"# Written by `tagstream demo`. Every key stands with its default in configs/stage.toml.
[kafka]
brokers = "{brokers}"
group_id = "demo"

[fetch]
allow_schemes = ["file", "http"]
allow_path_prefixes = ["{out}"]

[model]
path = "{model}"

[output]
url = "{out}"
table = "predictions"
max_file_age_ms = 5000
predictions_topic = "{predictions}"
dead_letter_topic = "{dead}"

[http]
bind = ""

[log]
format = "text"
"#,
        brokers = story.brokers(),
        out = story.out().display(),
        model = model.display(),
        predictions = topic::PREDICTIONS,
        dead = topic::DEAD_LETTERS,
    )
}

fn follow(
    progress: &mut Progress,
    stage: &mut RunningStage,
    total: usize,
) -> anyhow::Result<Duration> {
    let begun = progress.done();
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new((total - begun) as u64)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template(
        "  tagging {bar:40} {pos}/{len} ({per_sec}, {eta} left)",
    )?);
    // Model loading and joining the group are not tagging: the clock starts with the first answer.
    let mut first: Option<Instant> = None;
    progress.wait_for(total, stage, |done| {
        if done > begun {
            first.get_or_insert_with(Instant::now);
        }
        bar.set_position((done - begun) as u64);
    })?;
    bar.finish_and_clear();
    Ok(first.map_or(Duration::ZERO, |f| f.elapsed()))
}

fn chapter(title: &str) {
    eprintln!("\n{title}");
}

fn row(name: &str, value: &str) {
    eprintln!("  {name:<34} {value}");
}

/// A path as seen from here, if it lies below.
fn show(path: &Path) -> String {
    std::env::current_dir()
        .ok()
        .and_then(|here| {
            path.strip_prefix(here)
                .ok()
                .map(|p| p.display().to_string())
        })
        .unwrap_or_else(|| path.display().to_string())
}

//! The end of the demonstration that goes on: the stage, its pages, and what to do there.

use super::{Demo, STYLE, show};
use anyhow::Context;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tagstream::demo::scenes::{DEFAULT_SIZE, Scene};
use tagstream::demo::story::{Running, Story};
use tokio::signal::unix::{SignalKind, signal};

/// Labels after which another retraining has something to do: as many as somebody gives who tries.
const FEW_LABELS: usize = 10;
/// Bound of that retraining, minutes.
const MINUTES: f64 = 2.5;
/// Pictures that come while somebody looks: their seed, how many at a time, how often, how many in
/// all. A page on which nothing moves shows little.
const LATER_SEED: u64 = 20_261_123;
const AT_A_TIME: u64 = 6;
const EVERY: Duration = Duration::from_secs(3);
const MOST_LATER: u64 = 1_800;
/// How often the processes are looked after.
const LOOK: Duration = Duration::from_millis(300);

/// A port of loopback that nobody listens on, `wanted` if it is one.
fn free_port(wanted: u16) -> anyhow::Result<u16> {
    let bound = match TcpListener::bind(("127.0.0.1", wanted)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => TcpListener::bind(("127.0.0.1", 0)),
        bound => bound,
    };
    let bound = bound.with_context(|| format!("--port {wanted}"))?;
    Ok(bound.local_addr()?.port())
}

/// Pictures that nobody has seen yet, for a quarter of an hour.
struct Later {
    folder: PathBuf,
    next: u64,
    due: Instant,
}

impl Later {
    fn begin(story: &Story) -> anyhow::Result<Self> {
        let folder = story.out().join("pictures/later");
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Later {
            folder,
            next: 0,
            due: Instant::now(),
        })
    }

    /// Sends the next ones, if it is time.
    fn send(&mut self, story: &Story) -> anyhow::Result<()> {
        if self.next >= MOST_LATER || Instant::now() < self.due {
            return Ok(());
        }
        let mut references = Vec::new();
        for index in self.next..self.next + AT_A_TIME {
            let scene = Scene::draw(LATER_SEED, index, STYLE, DEFAULT_SIZE);
            let path = self.folder.join(format!("{}.jpg", scene.image_id));
            std::fs::write(&path, scene.jpeg()?).with_context(|| path.display().to_string())?;
            references.push((scene.image_id, path));
        }
        story.send_references(&references, &[])?;
        self.next += AT_A_TIME;
        self.due = Instant::now() + EVERY;
        Ok(())
    }
}

impl Demo {
    /// Keeps a stage running on the stream, with pages, until this process is interrupted.
    pub(super) fn keep(&self, port: u16) -> anyhow::Result<()> {
        super::chapter("6. Look, label, retrain");
        let (http, port) = (format!("127.0.0.1:{}", free_port(0)?), free_port(port)?);
        let stage = self.write("stage-kept.toml", &self.stage_config(&http))?;
        let pages = self.write("serve.toml", &self.serve_config(port, &http))?;
        let all = self.story.out().join("pictures");
        let retrain = self.retrain_config(MINUTES, &all, FEW_LABELS);
        let retrain = self.write("retrain-more.toml", &retrain)?;
        let mut running = [
            self.story.start("run", &stage, "stage-kept.log")?,
            self.story.start("serve", &pages, "pages.log")?,
        ];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.wait(port, &retrain, &mut running))?;
        for process in running {
            process.finish()?;
        }
        Ok(())
    }

    async fn wait(&self, port: u16, retrain: &Path, running: &mut [Running]) -> anyhow::Result<()> {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut said = false;
        let mut later = Later::begin(&self.story)?;
        loop {
            running.iter_mut().try_for_each(Running::check)?;
            if !said && TcpStream::connect_timeout(&address, LOOK).is_ok() {
                said = true;
                self.say(port, retrain);
            }
            if said {
                later.send(&self.story)?;
            }
            tokio::select! {
                _ = interrupted.recv() => return Ok(()),
                _ = terminated.recv() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn say(&self, port: u16, retrain: &Path) {
        eprintln!("\n  open http://127.0.0.1:{port}/\n");
        eprintln!("  Live shows the stage, to which new pictures come for a quarter of an hour.");
        eprintln!("  Review asks: y, n, d, u. After {FEW_LABELS} answers, in another terminal:");
        let program = self.story.program();
        let program: PathBuf = show(program).into();
        eprintln!(
            "    {} retrain --config {}",
            program.display(),
            show(retrain)
        );
        eprintln!(
            "  Models shows what the judge said, and goes back to the version before. So few"
        );
        eprintln!("  answers prove little: HOLD, with how many more it would take, is likely.");
        eprintln!("  Ctrl-C ends it.");
    }
}

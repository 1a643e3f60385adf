//! The end of the demonstration that goes on: the stage, its pages, and what to do there.

use super::{Demo, show};
use anyhow::Context;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tagstream::demo::story::Running;
use tokio::signal::unix::{SignalKind, signal};

/// Labels after which another retraining has something to do: as many as somebody gives who tries.
const FEW_LABELS: usize = 10;
/// Bound of that retraining, minutes.
const MINUTES: f64 = 2.5;
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
        loop {
            running.iter_mut().try_for_each(Running::check)?;
            if !said && TcpStream::connect_timeout(&address, LOOK).is_ok() {
                said = true;
                self.say(port, retrain);
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
        eprintln!(
            "  Live shows the stage, Review asks: y, n, d, u. After {FEW_LABELS} answers, in"
        );
        eprintln!("  another terminal:");
        let program = self.story.program();
        let program: PathBuf = show(program).into();
        eprintln!(
            "    {} retrain --config {}",
            program.display(),
            show(retrain)
        );
        eprintln!("  Models shows what the judge said, and goes back to the version before.");
        eprintln!("  Ctrl-C ends it.");
    }
}

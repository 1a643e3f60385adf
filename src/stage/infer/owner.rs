//! The thread that owns the queue.

use super::{Shared, Slot, Waiting, layout, worker};
use crate::{
    config::ModelConfig,
    model::{session::PixelBuffer, tagger::Tagger},
    ops::{heartbeat::Heartbeat, priority},
    stage::batch::{PieceId, Queue, Ready},
};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// What the owner is asked to do.
pub(super) enum Command {
    /// Lend a piece as soon as there is one.
    Claim {
        engine: Weak<Shared>,
        reply: oneshot::Sender<Slot>,
    },
    /// An image is in its place.
    Fill {
        id: PieceId,
        pixels: PixelBuffer,
        waiting: Waiting,
    },
    /// A place is given back.
    Release { id: PieceId, pixels: PixelBuffer },
    /// A batch has run; its buffer is free.
    Recycle(PixelBuffer),
    /// Make batches for another model.
    Exchange {
        tagger: Arc<Tagger>,
        done: mpsc::Sender<()>,
    },
    /// The engine is gone.
    Stop,
}

/// How often the thread shows that it lives while nothing happens.
const IDLE: Duration = Duration::from_secs(1);

/// A batch with the model that it runs on.
pub(super) type Job = Ready<Arc<Tagger>, Waiting>;

/// Starts the owner and one thread a worker; they end on [`Command::Stop`].
pub(super) fn start(
    tagger: Arc<Tagger>,
    config: ModelConfig,
    regions: bool,
    heartbeat: Heartbeat,
    commands: mpsc::Receiver<Command>,
    sender: &mpsc::Sender<Command>,
) -> io::Result<()> {
    // A processor is shared with decoding; a device must not wait for it.
    let feeds_device = tagger.model().device.is_gpu();
    let (jobs, taken) = mpsc::channel::<Job>();
    let taken = Arc::new(Mutex::new(taken));
    for index in 0..tagger.workers() {
        let (taken, sender) = (Arc::clone(&taken), sender.clone());
        thread::Builder::new()
            .name(format!("infer-{index}"))
            .spawn(move || {
                if feeds_device {
                    priority::prompt();
                }
                worker::run(index, regions, &taken, &sender);
            })?;
    }
    thread::Builder::new()
        .name("infer-queue".into())
        .spawn(move || {
            if feeds_device {
                priority::prompt();
            }
            own(tagger, &config, &heartbeat, &commands, &jobs);
        })
        .map(drop)
}

fn own(
    tagger: Arc<Tagger>,
    config: &ModelConfig,
    heartbeat: &Heartbeat,
    commands: &mpsc::Receiver<Command>,
    jobs: &mpsc::Sender<Job>,
) {
    let first = layout(config, &tagger);
    let buffer = |tagger: &Arc<Tagger>, bytes| tagger.buffer(bytes);
    let mut queue = Queue::new(tagger, first, buffer);
    let mut claims: VecDeque<(Weak<Shared>, oneshot::Sender<Slot>)> = VecDeque::new();
    let images = metrics::gauge!("tagstream_batch_queue_images");
    let waiting = metrics::gauge!("tagstream_batch_claims_waiting");
    loop {
        let now = Instant::now();
        queue.expire(now);
        lend(&mut queue, &mut claims, now);
        while let Some(ready) = queue.pop() {
            // Workers are gone only after `Stop`, or if all of them panicked: their images then see `Stopped`.
            if jobs.send(ready).is_err() {
                return;
            }
        }
        images.set(queue.images() as f64);
        waiting.set(claims.len() as f64);
        heartbeat.beat();
        let patience = queue
            .deadline()
            .map_or(IDLE, |at| at.saturating_duration_since(now).min(IDLE));
        let command = match commands.recv_timeout(patience) {
            Ok(command) => command,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let now = Instant::now();
        match command {
            Command::Claim { engine, reply } => claims.push_back((engine, reply)),
            Command::Fill {
                id,
                pixels,
                waiting,
            } => queue.fill(id, pixels, waiting, now),
            Command::Release { id, pixels } => queue.release(id, pixels, now),
            Command::Recycle(pixels) => queue.recycle(pixels),
            Command::Exchange { tagger, done } => {
                let layout = layout(config, &tagger);
                queue.exchange(tagger, layout, now);
                // A swap that nobody waits for any more is a swap all the same.
                let _ = done.send(());
            }
            Command::Stop => return,
        }
    }
}

/// Lends pieces to those who wait, in their order; who has gone in the meantime is skipped.
fn lend(
    queue: &mut Queue<Arc<Tagger>, Waiting>,
    claims: &mut VecDeque<(Weak<Shared>, oneshot::Sender<Slot>)>,
    now: Instant,
) {
    while let Some((engine, reply)) = claims.front() {
        let Some(engine) = engine.upgrade().filter(|_| !reply.is_closed()) else {
            claims.pop_front();
            continue;
        };
        let Some(piece) = queue.claim(now) else {
            return;
        };
        let slot = Slot {
            id: piece.id,
            pixels: Some(piece.pixels),
            model: Arc::clone(piece.model.model()),
            size: None,
            engine,
        };
        let (_, reply) = claims.pop_front().expect("just looked at");
        // A slot that arrives nowhere gives itself back when it is dropped here.
        let _ = reply.send(slot);
    }
}

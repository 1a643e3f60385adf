//! Where pieces of batches are lent and taken back.

use super::jobs::{Offers, Worker, jobs};
use super::{EngineInner, Slot, Waiting, layout};
use crate::stage::batch::{Piece, PieceId, Queue, Ready};
use metrics::Gauge;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};
use tagstream_core::config::ModelConfig;
use tagstream_core::process::heartbeat::Heartbeat;
use tagstream_core::process::priority;
use tagstream_model::session::PixelBuffer;
use tagstream_model::tagger::Tagger;
use tokio::sync::oneshot;

/// Processors that this process may use.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// How often the clock's thread shows that it lives while nothing happens.
const IDLE: Duration = Duration::from_secs(1);

/// A batch with the model that it runs on.
pub(super) type ReadyBatch = Ready<Arc<Tagger>, Waiting>;

/// The queue behind a lock. Whoever brings something does at once what follows from it, so that
/// nobody has to be woken for it; a thread is needed only for batches whose time is up.
pub(super) struct Batcher {
    state: Mutex<State>,
    /// A batch's time is up before the clock's thread looks again, or everything ends.
    sooner: Condvar,
    config: ModelConfig,
    images: Gauge,
    waiting: Gauge,
}

struct State {
    queue: Queue<Arc<Tagger>, Waiting>,
    /// Who waits for a piece, in their order.
    claims: VecDeque<Claim>,
    /// `None` when everything has ended.
    jobs: Option<Offers<ReadyBatch>>,
    /// When the clock's thread looks again.
    next_look: Instant,
    /// Workers, and the processors that they share with decoding; none where a device runs the
    /// model.
    workers: usize,
    processors: Option<usize>,
}

struct Claim {
    engine: Weak<EngineInner>,
    reply: oneshot::Sender<Slot>,
}

impl Batcher {
    /// Starts the clock's thread and one thread a worker, which does `work`; they end after
    /// [`Batcher::stop`].
    pub(super) fn start(
        tagger: Arc<Tagger>,
        config: &ModelConfig,
        heartbeat: Heartbeat,
        work: impl Fn(&Worker<ReadyBatch>, &Batcher) + Clone + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        // A processor is shared with decoding; a device must not wait for it.
        let feeds_device = tagger.model().device.is_gpu();
        let worker_count = tagger.workers();
        let (offers, workers) = jobs::<ReadyBatch>(worker_count);
        let first = layout(config, &tagger);
        let buffer = |tagger: &Arc<Tagger>, bytes| tagger.buffer(bytes);
        let batcher = Arc::new(Batcher {
            state: Mutex::new(State {
                queue: Queue::new(tagger, first, buffer),
                claims: VecDeque::new(),
                jobs: Some(offers),
                next_look: Instant::now(),
                workers: worker_count,
                processors: (!feeds_device).then(processors),
            }),
            sooner: Condvar::new(),
            config: config.clone(),
            images: metrics::gauge!("tagstream_batch_queue_images"),
            waiting: metrics::gauge!("tagstream_batch_claims_waiting"),
        });
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            let prepared = move || {
                if feeds_device {
                    priority::prompt();
                }
                work();
            };
            let spawned = thread::Builder::new().name(name).spawn(prepared);
            // Threads that did start must not stay behind.
            spawned.map(drop).inspect_err(|_| batcher.stop())
        };
        for worker in workers {
            let (name, batcher) = (format!("infer-{}", worker.index()), Arc::clone(&batcher));
            let work = work.clone();
            spawn(name, Box::new(move || work(&worker, &batcher)))?;
        }
        let clock = Arc::clone(&batcher);
        spawn(
            "infer-queue".into(),
            Box::new(move || clock.watch(&heartbeat)),
        )?;
        Ok(batcher)
    }

    /// A piece, or where one will be as soon as there is one.
    pub(super) fn claim(&self, engine: &Arc<EngineInner>) -> Result<Slot, oneshot::Receiver<Slot>> {
        let now = Instant::now();
        let mut state = self.lock();
        state.queue.expire(now);
        if state.claims.is_empty()
            && let Some(piece) = state.queue.claim(now)
        {
            self.settle(state, now);
            return Ok(Slot::new(piece, Arc::clone(engine)));
        }
        let (reply, claimed) = oneshot::channel();
        // Where everything has ended the sender is dropped here, which says so.
        if state.jobs.is_some() {
            let engine = Arc::downgrade(engine);
            state.claims.push_back(Claim { engine, reply });
        }
        self.settle(state, now);
        Err(claimed)
    }

    /// An image is in its place.
    pub(super) fn fill(&self, id: PieceId, pixels: PixelBuffer, waiting: Waiting) {
        let now = Instant::now();
        let mut state = self.lock();
        state.queue.fill(id, pixels, waiting, now);
        self.settle(state, now);
    }

    /// A place is given back.
    pub(super) fn release(&self, id: PieceId, pixels: PixelBuffer) {
        let now = Instant::now();
        let mut state = self.lock();
        state.queue.release(id, pixels, now);
        self.settle(state, now);
    }

    /// A worker waits: it is given what is filled.
    pub(super) fn feed(&self) {
        self.settle(self.lock(), Instant::now());
    }

    /// A batch has run; its buffer is free.
    pub(super) fn recycle(&self, pixels: PixelBuffer) {
        let mut state = self.lock();
        state.queue.recycle(pixels);
        self.settle(state, Instant::now());
    }

    /// From now on batches are made for another model.
    pub(super) fn exchange(&self, tagger: Arc<Tagger>) {
        let now = Instant::now();
        let layout = layout(&self.config, &tagger);
        let mut state = self.lock();
        state.queue.exchange(tagger, layout, now);
        self.settle(state, now);
    }

    /// The engine is gone: batches that are complete still run, then the threads end.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.jobs = None;
        state.claims.clear();
        self.sooner.notify_one();
    }

    /// Nothing that runs under this lock panics but for a fault in the queue itself; then nobody
    /// may go on with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the queue is whole")
    }

    /// Does what follows from a change, then opens the lock.
    fn settle(&self, mut state: MutexGuard<'_, State>, now: Instant) {
        let held = state.advance(now);
        self.images.set(state.queue.images() as f64);
        self.waiting.set(state.claims.len() as f64);
        if let Some(at) = state.queue.deadline()
            && at < state.next_look
        {
            state.next_look = at;
            self.sooner.notify_one();
        }
        drop(state);
        drop(held);
    }

    /// Ends batches whose time is up.
    fn watch(&self, heartbeat: &Heartbeat) {
        let mut state = self.lock();
        while state.jobs.is_some() {
            let now = Instant::now();
            let idle = now + IDLE;
            state.next_look = state.queue.deadline().map_or(idle, |at| at.min(idle));
            heartbeat.beat();
            let patience = state.next_look.saturating_duration_since(now);
            let (woken, _) = self
                .sooner
                .wait_timeout(state, patience)
                .expect("the queue is whole");
            self.settle(woken, Instant::now());
            state = self.lock();
        }
    }
}

impl State {
    /// Ends what is due, lends what is free, hands on what is complete. Gives the engine, if it was
    /// held for a moment: to be dropped after the lock is open again, because the last one stops
    /// everything, under the lock.
    fn advance(&mut self, now: Instant) -> Option<Arc<EngineInner>> {
        self.queue.expire(now);
        let held = self.lend(now);
        while let Some(ready) = self.queue.pop() {
            self.send(ready);
        }
        self.feed_idle(now);
        held
    }

    /// Hands a batch to the workers.
    fn send(&mut self, ready: ReadyBatch) {
        // Without workers the images see that nobody answers, and so does whoever claims: all of
        // them have panicked.
        if self
            .jobs
            .as_ref()
            .is_none_or(|jobs| jobs.send(ready).is_err())
        {
            self.jobs = None;
            self.claims.clear();
        }
    }

    /// Gives workers that wait what is filled, instead of letting it wait for others. A worker on a
    /// processor waits only where a processor does, too: while images are decoded on all of them, a
    /// run of its own for each image would take their time.
    fn feed_idle(&mut self, now: Instant) {
        while let Some(idle) = self.jobs.as_ref().map(Offers::idle).filter(|n| *n > 0) {
            let running = self.workers.saturating_sub(idle);
            let decoding = match self.processors {
                Some(all) => all.saturating_sub(running + 1),
                None => usize::MAX,
            };
            match self.queue.take_filled(decoding, now) {
                Some(ready) => self.send(ready),
                None => return,
            }
        }
    }

    /// Lends pieces to those who wait, in their order; who has gone in the meantime is skipped.
    fn lend(&mut self, now: Instant) -> Option<Arc<EngineInner>> {
        let mut held = None;
        while let Some(claim) = self.claims.front() {
            if claim.reply.is_closed() {
                self.claims.pop_front();
                continue;
            }
            held = held.or_else(|| claim.engine.upgrade());
            let Some(engine) = &held else {
                self.claims.clear();
                break;
            };
            let Some(piece) = self.queue.claim(now) else {
                break;
            };
            let claim = self.claims.pop_front().expect("just looked at");
            if let Err(mut slot) = claim.reply.send(Slot::new(piece, Arc::clone(engine))) {
                // Dropped as it is it would want the lock.
                let pixels = slot.pixels.take().expect("nobody has used it");
                self.queue.release(slot.id, pixels, now);
            }
        }
        held
    }
}

impl Slot {
    fn new(piece: Piece<Arc<Tagger>>, engine: Arc<EngineInner>) -> Self {
        Slot {
            id: piece.id,
            pixels: Some(piece.pixels),
            model: Arc::clone(piece.model.model()),
            size: None,
            engine,
        }
    }
}

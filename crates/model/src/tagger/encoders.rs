//! The sessions of one encoder, and what is known of it once it has been tried: kept when only the
//! head changes.

use super::lock;
use crate::bundle::Bundle;
use crate::runtime::{Device, Runtime};
use crate::session::{
    Encoded, EncoderModel, EncoderSession, EncoderShape, HostMemory, PixelBuffer, SessionError,
    SessionOptions,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tagstream_core::process::thread_cost::ThreadCost;

/// One session a worker.
pub(super) struct Encoders {
    hash: String,
    shape: EncoderShape,
    device: Device,
    sessions: Vec<Mutex<EncoderSession>>,
    /// The first session's, for all of them: what one device can reach is the same for each.
    memory: Arc<HostMemory>,
    probe: OnceLock<Probe>,
    /// Batch sizes that every session has run since it was opened.
    warmed: Mutex<BTreeSet<usize>>,
}

/// What the first session said of two images, together and alone. Heads are tried on it, so that a
/// new head does not take the encoder away from the worker that has images for it.
pub(super) struct Probe {
    /// Both in one batch.
    pub together: Encoded,
    /// Each by itself.
    pub alone: [Encoded; 2],
    /// What one image takes.
    pub image_time: Duration,
}

impl Encoders {
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        workers: usize,
        options: &SessionOptions,
    ) -> Result<Self, SessionError> {
        let model = EncoderModel::read(runtime, &bundle.encoder())?;
        let options = SessionOptions {
            many: workers > 1,
            ..options.clone()
        };
        let sessions = (0..workers.max(1))
            .map(|_| Ok(Mutex::new(model.open(runtime, &options)?)))
            .collect::<Result<Vec<_>, SessionError>>()?;
        let (shape, memory) = {
            let first = lock(&sessions[0]);
            (first.shape(), Arc::clone(first.memory()))
        };
        Ok(Encoders {
            hash: bundle.encoder_hash().to_owned(),
            shape,
            device: options.device,
            sessions,
            memory,
            probe: OnceLock::new(),
            warmed: Mutex::default(),
        })
    }

    /// SHA-256 of the file.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    pub(super) fn shape(&self) -> EncoderShape {
        self.shape
    }

    /// Memory for images, without waiting for a session.
    pub(super) fn buffer(&self, bytes: usize) -> PixelBuffer {
        self.memory.zeroed(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// One worker's session, for as long as nobody else needs it.
    pub(super) fn worker(&self, worker: usize) -> MutexGuard<'_, EncoderSession> {
        lock(&self.sessions[worker])
    }

    /// Grey and noise through the first session; at the first call only.
    pub(super) fn probe(&self) -> Result<&Probe, SessionError> {
        if let Some(probe) = self.probe.get() {
            return Ok(probe);
        }
        let image = self.shape.image_bytes();
        let mut pixels = vec![128u8; image];
        let mut state = 1u32;
        pixels.extend((0..image).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 25) as u8
        }));
        let (grey, noise) = pixels.split_at(image);
        let mut session = self.worker(0);
        let together = session.encode(&pixels, 2)?;
        let ([grey, noise, _], image_time) =
            three_times([grey, noise, grey], |image| session.encode(image, 1))?;
        Ok(self.probe.get_or_init(|| Probe {
            together,
            alone: [grey, noise],
            image_time,
        }))
    }

    /// Those of `sizes` that it is not prepared for. A processor's memory for a batch is enough for
    /// every smaller one.
    pub(super) fn cold(&self, sizes: &[usize]) -> Vec<usize> {
        let warmed = lock(&self.warmed);
        let largest = warmed.last().copied().filter(|_| !self.device.is_gpu());
        let cold = sizes
            .iter()
            .filter(|size| !warmed.contains(size) && Some(**size) > largest);
        cold.copied().collect()
    }

    pub(super) fn set_warm(&self, sizes: &[usize]) {
        lock(&self.warmed).extend(sizes);
    }
}

/// What three runs on this thread return, and the least time that one took. Processor time where
/// the system tells it: the clock on the wall counts what other threads do on a busy processor, and
/// batches would be smaller after every swap under load.
pub(super) fn three_times<A, B>(
    each: [A; 3],
    mut run: impl FnMut(A) -> Result<B, SessionError>,
) -> Result<([B; 3], Duration), SessionError> {
    let mut least = Duration::MAX;
    let mut timed = |argument| -> Result<B, SessionError> {
        let (started, before) = (Instant::now(), ThreadCost::now());
        let result = run(argument)?;
        let elapsed = started.elapsed();
        let spent = before
            .zip(ThreadCost::now())
            .map(|(before, now)| now.since(before).processor);
        least = least.min(spent.map_or(elapsed, |spent| spent.min(elapsed)));
        Ok(result)
    };
    let [a, b, c] = each;
    Ok(([timed(a)?, timed(b)?, timed(c)?], least))
}

//! Encoding many images with all cores, for training, evaluation and `tagstream encode`.

use super::runtime::Runtime;
use super::session::{EncoderModel, EncoderSession, EncoderShape, SessionError, SessionOptions};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// One encoder session a worker.
pub struct EncoderPool {
    sessions: Vec<EncoderSession>,
    shape: EncoderShape,
}

impl EncoderPool {
    /// Opens `workers` single-threaded sessions of one `encoder.onnx` (0: one a core on a CPU, two
    /// on a GPU).
    ///
    /// # Errors
    /// [`SessionError`] names the file and what is wrong.
    pub fn open(
        runtime: &Runtime,
        path: &Path,
        options: &SessionOptions,
        workers: usize,
    ) -> Result<Self, SessionError> {
        let workers = match workers {
            0 => options.device.usual_workers(),
            n => n,
        };
        let model = EncoderModel::read(runtime, path)?;
        let options = &SessionOptions {
            many: workers > 1,
            ..options.clone()
        };
        let sessions = (0..workers)
            .map(|_| model.open(runtime, options))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(EncoderPool {
            shape: sessions[0].shape(),
            sessions,
        })
    }

    /// Sizes of the encoder's tensors.
    pub fn shape(&self) -> EncoderShape {
        self.shape
    }

    /// Encodes `count` images in batches of up to `batch`. `fill` writes an image's pixels; `take`
    /// gets its dense features `[N, D]` and global feature `[D]` (or what `fill` failed with), in
    /// no particular order.
    ///
    /// # Errors
    /// A failing session ends the call.
    pub fn encode_each<E: Send>(
        &mut self,
        count: usize,
        batch: usize,
        fill: impl Fn(usize, &mut [u8]) -> Result<(), E> + Sync,
        take: impl FnMut(usize, Result<(&[f32], &[f32]), E>) + Send,
    ) -> Result<(), SessionError> {
        let (batch, image) = (batch.max(1), self.shape.image_bytes());
        let (next, take) = (AtomicUsize::new(0), Mutex::new(take));
        let work = |session: &mut EncoderSession| -> Result<(), SessionError> {
            let mut pixels = session.memory().zeroed(batch * image);
            loop {
                let start = next.fetch_add(batch, Ordering::Relaxed);
                let mut filled = Vec::with_capacity(batch);
                for index in start..(start + batch).min(count) {
                    match fill(index, &mut pixels[filled.len() * image..][..image]) {
                        Ok(()) => filled.push(index),
                        Err(e) => take.lock().unwrap_or_else(|e| e.into_inner())(index, Err(e)),
                    }
                }
                if !filled.is_empty() {
                    let encoded =
                        session.encode(pixels.part(0..filled.len() * image), filled.len())?;
                    let mut take = take.lock().unwrap_or_else(|e| e.into_inner());
                    for (i, index) in filled.iter().enumerate() {
                        take(*index, Ok((encoded.dense_of(i), encoded.global_of(i))));
                    }
                }
                if start >= count {
                    return Ok(());
                }
            }
        };
        thread::scope(|scope| {
            let work = &work;
            let runs: Vec<_> = self
                .sessions
                .iter_mut()
                .map(|session| scope.spawn(move || work(session)))
                .collect();
            runs.into_iter()
                .try_for_each(|run| run.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
        })
    }
}

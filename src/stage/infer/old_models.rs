//! Models that were exchanged, until nobody uses them any more.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

/// Where models go that were exchanged. The last batches on the old model and the first on the new
/// run at the same time, on the same workers; unmapping the old sessions' memory and trimming the
/// arenas would make both wait. So it is done by a thread of its own, a while later.
pub(super) struct OldModels<T> {
    notes: mpsc::Sender<Note<T>>,
}

enum Note<T> {
    Keep(Arc<T>),
    Clear(mpsc::Sender<()>),
    ReleaseMemory,
}

/// How often it is looked whether a model is still used, when it should have gone.
const AGAIN: Duration = Duration::from_millis(100);

impl<T: Send + Sync + 'static> OldModels<T> {
    /// Starts the thread. An old model is kept for `rest` at least and as long as anybody else has
    /// it; `release` is called after it was dropped. The thread ends when this is dropped, and what
    /// it keeps goes then.
    pub(super) fn start(rest: Duration, release: fn()) -> io::Result<Self> {
        let (notes, received) = mpsc::channel();
        thread::Builder::new()
            .name("infer-old".into())
            .spawn(move || keep(rest, release, &received))?;
        Ok(OldModels { notes })
    }

    /// Takes a model that was exchanged.
    pub(super) fn keep(&self, model: Arc<T>) {
        // Without the thread it is dropped here: later is better, but now is right.
        let _ = self.notes.send(Note::Keep(model));
    }

    /// Drops what nobody uses any more without further rest, and returns when that is done: for
    /// before another model is opened.
    pub(super) fn clear(&self) {
        let (done, cleared) = mpsc::channel();
        if self.notes.send(Note::Clear(done)).is_ok() {
            // An error is the thread's end, and with it all that it kept is gone.
            let _ = cleared.recv();
        }
    }

    /// Has `release` called, for a model that was dropped elsewhere.
    pub(super) fn release_memory(&self) {
        let _ = self.notes.send(Note::ReleaseMemory);
    }
}

fn keep<T>(rest: Duration, release: fn(), notes: &mpsc::Receiver<Note<T>>) {
    let mut kept: Vec<(Arc<T>, Instant)> = Vec::new();
    loop {
        let now = Instant::now();
        let next = kept.iter().map(|(_, since)| {
            let until = *since + rest;
            until.saturating_duration_since(now).max(AGAIN)
        });
        let note = match next.min() {
            None => notes
                .recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(patience) => notes.recv_timeout(patience),
        };
        match note {
            Ok(Note::Keep(model)) => kept.push((model, Instant::now())),
            Ok(Note::Clear(done)) => {
                drop_due(&mut kept, release, |_| true);
                let _ = done.send(());
            }
            Ok(Note::ReleaseMemory) => release(),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                drop_due(&mut kept, release, |since| since.elapsed() >= rest);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Drops those that are `due` and that nobody else has.
fn drop_due<T>(kept: &mut Vec<(Arc<T>, Instant)>, release: fn(), due: impl Fn(Instant) -> bool) {
    let before = kept.len();
    // Nobody can take another reference of the only one there is.
    kept.retain(|(model, since)| !due(*since) || Arc::strong_count(model) > 1);
    if kept.len() < before {
        release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NEVER: Duration = Duration::from_secs(3600);
    /// Only a test that fails waits so long.
    const STUCK: Duration = Duration::from_secs(60);

    /// Says on which thread it was dropped.
    struct Model(mpsc::Sender<Option<String>>);

    impl Drop for Model {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().name().map(str::to_owned));
        }
    }

    fn model() -> (Arc<Model>, mpsc::Receiver<Option<String>>) {
        let (dropped, where_from) = mpsc::channel();
        (Arc::new(Model(dropped)), where_from)
    }

    fn there() -> Option<String> {
        Some("infer-old".to_owned())
    }

    #[test]
    fn a_model_in_use_stays_and_goes_when_it_is_free_and_room_is_wanted() {
        static GONE: AtomicUsize = AtomicUsize::new(0);
        let old_models = OldModels::start(NEVER, || {
            GONE.fetch_add(1, Ordering::SeqCst);
        });
        let old_models = old_models.unwrap();
        let (used, dropped) = model();
        old_models.keep(Arc::clone(&used));
        old_models.clear();
        assert!(dropped.try_recv().is_err());
        assert_eq!(GONE.load(Ordering::SeqCst), 0);
        // The worker's last batch is over: its reference is not the last one.
        drop(used);
        assert!(dropped.try_recv().is_err());
        old_models.clear();
        assert_eq!(dropped.try_recv(), Ok(there()));
        assert_eq!(GONE.load(Ordering::SeqCst), 1);
        old_models.clear();
        assert_eq!(GONE.load(Ordering::SeqCst), 1, "nothing more was dropped");
        old_models.release_memory();
        old_models.clear();
        assert_eq!(GONE.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_model_goes_by_itself_after_its_rest() {
        let old_models = OldModels::start(Duration::ZERO, || {}).unwrap();
        let (used, dropped) = model();
        old_models.keep(used);
        assert_eq!(dropped.recv_timeout(STUCK), Ok(there()));
    }

    #[test]
    fn what_is_kept_goes_with_the_engine() {
        let old_models = OldModels::start(NEVER, || {}).unwrap();
        let (used, dropped) = model();
        old_models.keep(used);
        drop(old_models);
        assert_eq!(dropped.recv_timeout(STUCK), Ok(there()));
    }
}

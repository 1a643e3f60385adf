//! The thread that starts helpers: they are killed by the system when the thread that started them
//! ends, and a caller's may end at any time.

use super::process::Helper;
use super::settings::DecoderSettings;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A helper, or why there is none.
type Started = Result<Helper, String>;

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Starter {
    /// Taken before the thread is waited for.
    orders: Option<Sender<Sender<Started>>>,
    thread: Option<JoinHandle<()>>,
}

impl Starter {
    /// # Errors
    /// The system's refusal of a thread.
    pub(super) fn new(settings: &DecoderSettings) -> Result<Self, String> {
        let settings = settings.clone();
        let (orders, ordered) = channel::<Sender<Started>>();
        let thread = std::thread::Builder::new()
            .name("decode-start".into())
            .spawn(move || {
                for order in ordered {
                    // Whoever ordered it waits.
                    let _ = order.send(Helper::start(&settings));
                }
            })
            .map_err(|e| format!("no thread can be started: {e}"))?;
        Ok(Starter {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Starts a helper and waits for its greeting.
    ///
    /// # Errors
    /// Why that cannot be done, and what to do.
    pub(super) fn start(&self) -> Result<Helper, String> {
        let ended = || "the thread that starts helpers has ended".to_owned();
        let (order, started) = channel();
        let orders = self.orders.as_ref().ok_or_else(ended)?;
        orders.send(order).map_err(|_| ended())?;
        started.recv().map_err(|_| ended())?
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by whoever waited.
            let _ = thread.join();
        }
    }
}

//! Who may still put.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends the right to put: killed when the partition is taken away. Clones share it.
///
/// The chain alone keeps files disjoint, whatever a late writer does; the fence only saves it the
/// attempt.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<AtomicBool>);

impl Fence {
    /// Takes the right away.
    pub fn kill(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the right was taken away.
    pub fn is_dead(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

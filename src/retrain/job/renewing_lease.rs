//! The lease of a run, renewed by a task beside it.

use super::{Job, JobError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::storage::lease::{Lease, LeaseError};
use tagstream_model::registry::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The lease while a task renews it.
pub(super) struct RenewingLease {
    /// The fencing token.
    pub(super) token: u64,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Lease>,
}

impl RenewingLease {
    /// Gives it back. If that fails it ends by itself.
    pub(super) async fn release(self) {
        // Fails only if the task has ended, for which it is awaited next.
        let _ = self.stop.send(());
        let released = match self.task.await {
            Ok(lease) => lease.release().await,
            Err(_) => Ok(()),
        };
        if let Err(error) = released {
            tracing::warn!("the lease was not given back: {error}");
        }
    }
}

impl Job<'_> {
    /// Takes the lease, and fences everybody off who held it before.
    pub(super) fn take_lease(&self, registry: &Registry) -> Result<RenewingLease, JobError> {
        let config = &self.config.lease;
        let ttl = Duration::from_secs(config.time_to_live_s);
        let deadline = Instant::now() + Duration::from_secs(config.wait_s);
        let (objects, prefix) = registry.object_store();
        let acquire = async {
            loop {
                let objects = Arc::clone(&objects);
                let who = &self.options.who;
                match Lease::acquire(objects, &prefix, "retrain", who, ttl).await {
                    Err(LeaseError::Held { .. }) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                    other => return other,
                }
            }
        };
        let mut lease = self.runtime.block_on(acquire)?;
        let token = lease.token();
        // From here on nobody with an older token can change the pointer.
        match self.runtime.block_on(registry.raise_fence(token)) {
            Ok(()) => {}
            Err(error) => {
                let _ = self.runtime.block_on(lease.release());
                return Err(error.into());
            }
        }
        let (stop, stopped) = oneshot::channel();
        let task = self.runtime.spawn(async move {
            let lost = tokio::select! {
                lost = lease.keep() => Some(lost),
                _ = stopped => None,
            };
            if let Some(lost) = lost {
                tracing::error!("{lost}");
            }
            lease
        });
        Ok(RenewingLease { token, stop, task })
    }
}

//! Signals, and an orderly end: everything started here is told to stop and waited for.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handed to everything that runs in the background.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled once, when the process is to end.
    pub token: CancellationToken,
    /// Every background task is spawned here.
    pub tracker: TaskTracker,
}

impl Shutdown {
    /// A new one, nothing running.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` in the background; it is waited for at the end and must watch the token.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Waits for SIGINT or SIGTERM (or for somebody else to cancel), then cancels the token.
    pub async fn on_signal(&self) {
        let interrupt = tokio::signal::ctrl_c();
        tokio::select! {
            _ = interrupt => tracing::info!("interrupted, ending"),
            () = terminate() => tracing::info!("asked to end"),
            () = self.token.cancelled() => {}
        }
        self.token.cancel();
    }

    /// Cancels, then waits at most `grace` for the background tasks. True if all ended.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
    }
}

#[cfg(unix)]
async fn terminate() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut stream) => {
            stream.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "could not watch for SIGTERM");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
async fn terminate() {
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Shutdown;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_background_work_but_not_for_ever() {
        let shutdown = Shutdown::new();
        let token = shutdown.token.clone();
        shutdown.spawn(async move { token.cancelled().await });
        assert!(shutdown.finish(Duration::from_secs(1)).await);

        let stuck = Shutdown::new();
        stuck.spawn(std::future::pending());
        assert!(!stuck.finish(Duration::from_secs(1)).await);
    }
}

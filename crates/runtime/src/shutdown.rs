//! Signals, and an orderly end: everything started here is told to stop and waited for.

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
    /// Cancelled once it should be sent nothing more, which is before or at the end.
    drain: CancellationToken,
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

    /// Waits for SIGINT or SIGTERM (or for somebody else to cancel), then cancels the token. From this call on,
    /// not from the first poll, a signal is heard; needs a runtime.
    pub fn on_signal(&self) -> impl Future<Output = ()> + Send + use<> {
        let (shutdown, asked) = (self.clone(), terminate());
        async move {
            let interrupt = tokio::signal::ctrl_c();
            tokio::select! {
                _ = interrupt => tracing::info!("interrupted, ending"),
                () = asked => tracing::info!("asked to end"),
                () = shutdown.token.cancelled() => {}
            }
            shutdown.token.cancel();
        }
    }

    /// As [`on_signal`](Self::on_signal), but from the signal on for `delay` it only says that it is
    /// [`draining`](Self::draining): whoever sends here learns it and sends elsewhere before anything
    /// is closed.
    pub fn on_signal_drain(&self, delay: Duration) -> impl Future<Output = ()> + Send + use<> {
        let (shutdown, asked) = (self.clone(), terminate());
        async move {
            let interrupt = tokio::signal::ctrl_c();
            tokio::select! {
                _ = interrupt => tracing::info!("interrupted, draining"),
                () = asked => tracing::info!("asked to end, draining"),
                () = shutdown.token.cancelled() => {}
            }
            shutdown.drain(delay).await;
        }
    }

    /// What a signal does: says for `delay` that it is [`draining`](Self::draining), then cancels the token.
    pub async fn drain(&self, delay: Duration) {
        self.drain.cancel();
        self.token
            .run_until_cancelled(tokio::time::sleep(delay))
            .await;
        self.token.cancel();
    }

    /// True once this process should be sent nothing more.
    pub fn draining(&self) -> bool {
        self.drain.is_cancelled() || self.token.is_cancelled()
    }

    /// Waits until it is [`draining`](Self::draining).
    pub async fn until_draining(&self) {
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = self.token.cancelled() => {}
        }
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
fn terminate() -> impl Future<Output = ()> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let listening = signal(SignalKind::terminate());
    async move {
        match listening {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "could not watch for SIGTERM");
                std::future::pending::<()>().await;
            }
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

        // What waits for the drain goes first, what serves goes on until the end.
        let draining = Shutdown::new();
        let (first, last) = (draining.clone(), draining.clone());
        let waited = async {
            first.until_draining().await;
            assert!(first.draining() && !first.token.is_cancelled());
        };
        let delay = Duration::from_secs(5);
        let begun = tokio::time::Instant::now();
        tokio::join!(waited, last.drain(delay));
        assert_eq!(begun.elapsed(), delay);
        assert!(draining.token.is_cancelled());

        let stuck = Shutdown::new();
        stuck.spawn(std::future::pending());
        assert!(!stuck.finish(Duration::from_secs(1)).await);
    }
}

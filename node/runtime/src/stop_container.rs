//! StopContainer: asked to end, then killed.
use crate::container::Entry;
use crate::error::from_shim;
use crate::open::Runtime;
use crate::record::ExitRecord;
use cri::{ContainerState, Error};
use std::time::Duration;

const SIGKILL: i32 = 9;

/// From SIGKILL to the end: freeing gigabytes takes seconds, a process in uninterruptible sleep longer.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

impl Runtime {
    pub(crate) async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        match self.entry(id) {
            Some(entry) => self.end(&entry, grace).await,
            None => Ok(()),
        }
    }

    /// Ends a container; returns when it has ended.
    pub(crate) async fn end(&self, entry: &Entry, grace: Duration) -> Result<(), Error> {
        match (entry.state(), entry.handle()) {
            (ContainerState::Exited, _) => return Ok(()),
            (ContainerState::Running, Some(handle)) => {
                if !grace.is_zero() {
                    handle.kill(entry.record().stop_signal).await.map_err(from_shim)?;
                    tokio::select! {
                        ended = entry.wait(grace) => if ended { return Ok(()) },
                        _ = self.inner.shutdown.cancelled() => {
                            return Err(Error::Unavailable("the runtime is shutting down".into()));
                        }
                    }
                }
                handle.kill(SIGKILL).await.map_err(from_shim)?;
                if !entry.wait(KILL_PATIENCE).await {
                    let seconds = KILL_PATIENCE.as_secs();
                    return Err(Error::DeadlineExceeded(format!(
                        "container {} has not ended {seconds} s after SIGKILL",
                        entry.id
                    )));
                }
            }
            // It was never started (a start under way holds it busy until it is done), or cannot be any more.
            _ => {
                let _busy = entry.busy.lock().await;
                if entry.state() == ContainerState::Running {
                    drop(_busy);
                    return Box::pin(self.end(entry, grace)).await;
                }
                let (reason, message) =
                    ("Error".to_string(), "it was stopped before it was started".to_string());
                self.finish(entry, ExitRecord { code: 137, reason, message, finished_at: self.now() }).await;
            }
        }
        Ok(())
    }
}

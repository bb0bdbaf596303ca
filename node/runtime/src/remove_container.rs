//! RemoveContainer: ended, released, forgotten.
use crate::error::{from_disk, from_shim};
use crate::open::Runtime;
use cri::{ContainerEventType, Error};
use std::time::Duration;

impl Runtime {
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Error> {
        let Some(entry) = self.entry(id) else { return Ok(()) };
        self.end(&entry, Duration::ZERO).await?;
        let _busy = entry.busy.lock().await;
        if self.entry(id).is_none() {
            return Ok(());
        }
        let handle = match entry.handle() {
            Some(handle) => Some(handle),
            // Ended before this process began: its shim may still hold something of it.
            None => self.adopt(&entry.record(), entry.log.clone()).await,
        };
        if let Some(handle) = handle {
            handle.delete().await.map_err(from_shim)?;
        }
        *entry.handle.lock() = None;
        self.inner.containers.remove(id).map_err(from_disk("removing the container's record"))?;
        if self.inner.state.lock().remove_container(id) {
            self.emit(ContainerEventType::Deleted, id, &entry.sandbox);
        }
        Ok(())
    }
}

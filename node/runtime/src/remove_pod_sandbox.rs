//! RemovePodSandbox: stopped, emptied, forgotten.
use crate::error::from_disk;
use crate::open::Runtime;
use cri::{ContainerEventType, Error};
use futures::future::try_join_all;

impl Runtime {
    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_sandbox(id).await?;
        let inside = self.inner.state.lock().of_sandbox(id).to_vec();
        try_join_all(inside.iter().map(|entry| self.remove(&entry.id))).await?;
        if !self.inner.state.lock().sandboxes.contains_key(id) {
            return Ok(());
        }
        self.inner.sandboxes.remove(id).map_err(from_disk("removing the sandbox's record"))?;
        let removed = self.inner.state.lock().sandboxes.remove(id).is_some();
        self.inner.networks.forget(id);
        if removed {
            self.emit(ContainerEventType::Deleted, id, id);
        }
        Ok(())
    }
}

//! StopPodSandbox: its containers end, its address goes back.
use crate::error::{from_disk, from_network};
use crate::open::Runtime;
use crate::record::Survive;
use cri::{ContainerEventType, Error};
use futures::future::try_join_all;
use std::time::Duration;

impl Runtime {
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let stopped = {
            let mut state = self.inner.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
            // From here on nobody can put a container into it.
            std::mem::replace(&mut sandbox.ready, false)
        };
        let inside = self.inner.state.lock().of_sandbox(id).to_vec();
        try_join_all(inside.iter().map(|entry| self.end(entry, Duration::ZERO))).await?;
        let record = self.inner.state.lock().sandboxes.get(id).cloned();
        let Some(mut record) = record else { return Ok(()) };
        if record.attachment.is_some() {
            if !record.host_network {
                self.inner.config.network.release(id).await.map_err(from_network)?;
            }
            record.attachment = None;
            self.inner
                .sandboxes
                .save(id, &record, Survive::Process)
                .map_err(from_disk("saving the sandbox"))?;
            if let Some(sandbox) = self.inner.state.lock().sandboxes.get_mut(id) {
                sandbox.attachment = None;
            }
        }
        if stopped {
            self.emit(ContainerEventType::Stopped, id, id);
        }
        Ok(())
    }
}

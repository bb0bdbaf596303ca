//! StartContainer.
use crate::error::{from_disk, from_shim, no_container};
use crate::open::Runtime;
use crate::record::{ExitRecord, Survive};
use cri::{ContainerEventType, ContainerState, Error};

impl Runtime {
    pub(crate) async fn start(&self, id: &str) -> Result<(), Error> {
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        let _busy = entry.busy.lock().await;
        if entry.state() != ContainerState::Created {
            return Err(Error::FailedPrecondition(format!("container {id} was started before")));
        }
        let Some(handle) = entry.handle() else {
            return Err(Error::FailedPrecondition(format!("container {id} is gone")));
        };
        if let Err(error) = handle.start().await {
            let (reason, message) = ("StartError".to_string(), error.to_string());
            self.finish(&entry, ExitRecord { code: 128, reason, message, finished_at: self.now() }).await;
            return Err(from_shim(error));
        }
        let record = entry.set_started(self.now());
        let saved = self.inner.containers.save(id, &record, Survive::Process);
        self.emit(ContainerEventType::Started, id, &entry.sandbox);
        self.watch(entry.clone(), handle);
        saved.map_err(from_disk("saving the container"))
    }
}

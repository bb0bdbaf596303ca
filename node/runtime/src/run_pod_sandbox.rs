//! RunPodSandbox: an address and a record. Nothing runs yet.
use crate::error::{from_disk, from_network};
use crate::open::Runtime;
use crate::plan;
use crate::record::{SandboxRecord, Survive};
use cri::{ContainerEventType, Error, RunPodSandboxRequest, RunPodSandboxResponse};
use pod_network::Attachment;

impl Runtime {
    pub(crate) async fn run_sandbox(
        &self,
        request: RunPodSandboxRequest,
    ) -> Result<RunPodSandboxResponse, Error> {
        let config = request.config.unwrap_or_default();
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::InvalidArgument("the sandbox has no metadata".into()))?;
        plan::check_handler(&request.runtime_handler, &self.candidates())?;
        let id = self.new_id();
        let host_network = plan::is_host_network(&config);
        let attachment = if host_network {
            Attachment { ip: self.inner.config.node_ip, namespace: None }
        } else {
            self.inner.config.network.allocate(&id).await.map_err(from_network)?
        };
        let record = SandboxRecord {
            id: id.clone(),
            cgroup_parent: plan::compute_cgroup_parent(&config, &metadata.uid),
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            handler: request.runtime_handler,
            hostname: config.hostname.clone(),
            log_directory: config.log_directory.clone(),
            created_at: self.now(),
            ready: true,
            host_network,
            attachment: Some(attachment),
        };
        let sandboxes = &self.inner.sandboxes;
        let saved = sandboxes.save(&id, &record, Survive::Process).and_then(|()| {
            match plan::compute_resolv_conf(&config) {
                Some(text) => std::fs::write(sandboxes.directory(&id).join("resolv.conf"), text),
                None => Ok(()),
            }
        });
        if let Err(error) = saved {
            self.give_up(&record).await;
            return Err(from_disk("saving the sandbox")(error));
        }
        self.inner.state.lock().sandboxes.insert(id.clone(), record);
        self.emit(ContainerEventType::Created, &id, &id);
        self.emit(ContainerEventType::Started, &id, &id);
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    /// Takes back what a sandbox that did not come about had got.
    async fn give_up(&self, record: &SandboxRecord) {
        if !record.host_network
            && let Err(error) = self.inner.config.network.release(&record.id).await
        {
            tracing::warn!(sandbox = record.id, %error, "an address could not be given back");
        }
        if let Err(error) = self.inner.sandboxes.remove(&record.id) {
            tracing::warn!(sandbox = record.id, %error, "a record could not be removed");
        }
    }
}

//! Records in CRI's words.
use crate::record::{ContainerRecord, MountRecord, SandboxRecord};
use cri::{
    Container, ContainerMetadata, ContainerStatus, ImageSpec, Mount, PodSandbox, PodSandboxMetadata,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

impl SandboxRecord {
    pub(crate) fn state(&self) -> PodSandboxState {
        if self.ready { PodSandboxState::Ready } else { PodSandboxState::NotReady }
    }

    pub(crate) fn metadata(&self) -> PodSandboxMetadata {
        PodSandboxMetadata {
            name: self.name.clone(),
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            attempt: self.attempt,
        }
    }
}

impl From<&SandboxRecord> for PodSandboxStatus {
    fn from(record: &SandboxRecord) -> Self {
        let ip = record.attachment.as_ref().map(|attachment| attachment.ip.to_string()).unwrap_or_default();
        Self {
            id: record.id.clone(),
            metadata: Some(record.metadata()),
            state: record.state() as i32,
            created_at: record.created_at,
            network: Some(PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: None,
            labels: record.labels.clone(),
            annotations: record.annotations.clone(),
            runtime_handler: record.handler.clone(),
        }
    }
}

impl From<&SandboxRecord> for PodSandbox {
    fn from(record: &SandboxRecord) -> Self {
        Self {
            id: record.id.clone(),
            metadata: Some(record.metadata()),
            state: record.state() as i32,
            created_at: record.created_at,
            labels: record.labels.clone(),
            annotations: record.annotations.clone(),
            runtime_handler: record.handler.clone(),
        }
    }
}

impl From<ContainerRecord> for ContainerStatus {
    fn from(record: ContainerRecord) -> Self {
        let state = record.state() as i32;
        let exit = record.exit.unwrap_or(crate::record::ExitRecord {
            code: 0,
            reason: String::new(),
            message: String::new(),
            finished_at: 0,
        });
        let mount = |mount: MountRecord| Mount {
            container_path: mount.container_path,
            host_path: mount.host_path,
            readonly: mount.readonly,
            ..Default::default()
        };
        Self {
            id: record.id,
            metadata: Some(ContainerMetadata { name: record.name, attempt: record.attempt }),
            state,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: exit.finished_at,
            exit_code: exit.code,
            image: Some(ImageSpec { image: record.image, ..Default::default() }),
            image_ref: record.image_ref,
            reason: exit.reason,
            message: exit.message,
            labels: record.labels,
            annotations: record.annotations,
            mounts: record.mounts.into_iter().map(mount).collect(),
            log_path: record.log_path,
            image_id: record.image_id,
            ..Default::default()
        }
    }
}

impl From<ContainerRecord> for Container {
    fn from(record: ContainerRecord) -> Self {
        Self {
            state: record.state() as i32,
            id: record.id,
            pod_sandbox_id: record.sandbox,
            metadata: Some(ContainerMetadata { name: record.name, attempt: record.attempt }),
            image: Some(ImageSpec { image: record.image, ..Default::default() }),
            image_ref: record.image_ref,
            created_at: record.created_at,
            labels: record.labels,
            annotations: record.annotations,
            image_id: record.image_id,
        }
    }
}

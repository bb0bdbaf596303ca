//! What containers and sandboxes use, in CRI's words.
use crate::container::Entry;
use crate::error::no_sandbox;
use crate::open::Runtime;
use cri::{
    ContainerAttributes, ContainerMetadata, ContainerState, ContainerStats, CpuUsage, Error,
    LinuxPodSandboxStats, MemoryUsage, PodSandboxAttributes, PodSandboxStats, UInt64Value,
};
use std::sync::Arc;

impl Runtime {
    pub(crate) fn figures(&self, entry: &Entry) -> ContainerStats {
        let record = entry.record();
        let used = entry.stats();
        let value = |value| Some(UInt64Value { value });
        let timestamp = self.now();
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: record.id,
                metadata: Some(ContainerMetadata { name: record.name, attempt: record.attempt }),
                labels: record.labels,
                annotations: record.annotations,
            }),
            cpu: Some(CpuUsage {
                timestamp,
                usage_core_nano_seconds: value(used.cpu_nanoseconds),
                usage_nano_cores: None,
            }),
            memory: Some(MemoryUsage {
                timestamp,
                working_set_bytes: value(used.memory_bytes),
                usage_bytes: value(used.memory_bytes),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The containers of a sandbox that run now.
    pub(crate) fn running_in(&self, sandbox: &str) -> Vec<Arc<Entry>> {
        let entries = self.inner.state.lock().of_sandbox(sandbox).to_vec();
        entries.into_iter().filter(|entry| entry.state() == ContainerState::Running).collect()
    }

    pub(crate) fn sandbox_figures(&self, id: &str) -> Result<PodSandboxStats, Error> {
        let attributes = {
            let state = self.inner.state.lock();
            let sandbox = state.sandboxes.get(id).ok_or_else(|| no_sandbox(id))?;
            PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: Some(sandbox.metadata()),
                labels: sandbox.labels.clone(),
                annotations: sandbox.annotations.clone(),
            }
        };
        let containers = self.running_in(id).iter().map(|entry| self.figures(entry)).collect();
        let linux = LinuxPodSandboxStats::of(containers, self.now());
        Ok(PodSandboxStats { attributes: Some(attributes), linux: Some(linux) })
    }
}

impl Entry {
    /// What it uses, while it runs.
    pub(crate) fn stats(&self) -> shim::Stats {
        let runs = self.state() == ContainerState::Running;
        self.handle().filter(|_| runs).map(|handle| handle.stats()).unwrap_or_default()
    }
}

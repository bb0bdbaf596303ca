//! What containers use, in CRI's words.
use crate::container::Entry;
use crate::open::Runtime;
use cri::{ContainerAttributes, ContainerMetadata, ContainerStats, CpuUsage, MemoryUsage, UInt64Value};

impl Runtime {
    pub(crate) fn figures(&self, entry: &Entry) -> ContainerStats {
        let record = entry.record();
        let used =
            entry.handle().filter(|_| record.exit.is_none()).map(|handle| handle.stats()).unwrap_or_default();
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
}

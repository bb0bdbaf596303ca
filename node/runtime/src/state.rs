//! What exists now: sandboxes and containers in memory, as their records say.
use crate::container::Entry;
use crate::record::SandboxRecord;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sandboxes and containers by id.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<String, SandboxRecord>,
    pub(crate) containers: BTreeMap<String, Arc<Entry>>,
}

impl State {
    pub(crate) fn of_sandbox(&self, sandbox: &str) -> Vec<Arc<Entry>> {
        self.containers.values().filter(|entry| entry.sandbox == sandbox).cloned().collect()
    }
}

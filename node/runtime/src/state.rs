//! What exists now: sandboxes and containers in memory, as their records say.
use crate::container::Entry;
use crate::record::SandboxRecord;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sandboxes and containers by id.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, Arc<Entry>>,
    /// The same by sandbox: every event and every status asks for them, on a node of ten thousand pods.
    by_sandbox: BTreeMap<String, Vec<Arc<Entry>>>,
}

impl State {
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.containers.values()
    }

    pub(crate) fn container(&self, id: &str) -> Option<&Arc<Entry>> {
        self.containers.get(id)
    }

    pub(crate) fn insert_container(&mut self, entry: Arc<Entry>) {
        self.by_sandbox.entry(entry.sandbox.clone()).or_default().push(entry.clone());
        self.containers.insert(entry.id.clone(), entry);
    }

    /// Says whether it was there.
    pub(crate) fn remove_container(&mut self, id: &str) -> bool {
        let Some(entry) = self.containers.remove(id) else { return false };
        if let Some(inside) = self.by_sandbox.get_mut(&entry.sandbox) {
            inside.retain(|other| other.id != id);
            if inside.is_empty() {
                self.by_sandbox.remove(&entry.sandbox);
            }
        }
        true
    }

    /// A sandbox's containers, in the order in which they were made or found.
    pub(crate) fn of_sandbox(&self, sandbox: &str) -> &[Arc<Entry>] {
        self.by_sandbox.get(sandbox).map_or(&[], Vec::as_slice)
    }
}

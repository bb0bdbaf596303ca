//! What exists now: sandboxes and containers in memory, as their records say.
use crate::container::Entry;
use crate::record::SandboxRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Sandboxes and containers by id.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, Arc<Entry>>,
    /// The same by sandbox: every event and every status asks for them, on a node of ten thousand pods.
    by_sandbox: BTreeMap<String, Vec<Arc<Entry>>>,
    /// Images by id, with how many containers are being made of each now: those are in none of the maps above yet.
    held_images: BTreeMap<String, usize>,
    /// Images that are being removed: nothing is made of them any more.
    doomed_images: BTreeSet<String>,
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

    /// Keeps an image here while a container is made of it; `false` if it is being removed.
    pub(crate) fn hold_image(&mut self, id: &str) -> bool {
        if self.doomed_images.contains(id) {
            return false;
        }
        *self.held_images.entry(id.to_string()).or_default() += 1;
        true
    }

    pub(crate) fn release_image(&mut self, id: &str) {
        if let Some(count) = self.held_images.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                self.held_images.remove(id);
            }
        }
    }

    /// Marks an image as being removed, so that no container is made of it meanwhile; or says who needs it.
    pub(crate) fn doom_image(&mut self, id: &str) -> Result<(), String> {
        if self.held_images.contains_key(id) {
            return Err("a container that is being made".to_string());
        }
        // An ended container's image may go: it is never started again.
        let holder = self.containers().map(|entry| entry.record());
        if let Some(holder) = holder.into_iter().find(|record| record.image_id == id && record.exit.is_none())
        {
            return Err(format!("container {} ({})", holder.name, holder.id));
        }
        self.doomed_images.insert(id.to_string());
        Ok(())
    }

    /// It was removed, or could not be.
    pub(crate) fn undoom_image(&mut self, id: &str) {
        self.doomed_images.remove(id);
    }

    /// A sandbox's containers, in the order in which they were made or found.
    pub(crate) fn of_sandbox(&self, sandbox: &str) -> &[Arc<Entry>] {
        self.by_sandbox.get(sandbox).map_or(&[], Vec::as_slice)
    }
}

//! The objects an informer holds.
use super::{Change, Object};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// Changes a subscriber may lag behind. A burst is as large as a list or a deletion of a collection; beyond
/// this a subscriber looks at everything again, which costs it about the same. A slot holds one Arc.
const CHANGES: usize = 1024;

#[derive(Debug)]
struct State<K> {
    /// Namespace, then name: lookups need no owned key, and lists come out in order.
    objects: BTreeMap<String, BTreeMap<String, Arc<K>>>,
    len: usize,
    /// None after the shutdown.
    changes: Option<broadcast::Sender<Change<K>>>,
}

/// The store. Changing it and publishing the change happen under one lock, so that a new subscription misses
/// nothing and sees nothing twice.
#[derive(Debug)]
pub(super) struct Store<K> {
    state: RwLock<State<K>>,
    /// Some(true) once synced, Some(false) once closed before that.
    synced: watch::Sender<Option<bool>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                len: 0,
                changes: Some(broadcast::Sender::new(CHANGES)),
            }),
            synced: watch::Sender::new(None),
        }
    }
}

impl<K> State<K> {
    fn publish(&self, change: Change<K>) {
        if let Some(changes) = &self.changes {
            // An error says that nobody subscribes.
            let _ = changes.send(change);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values().flat_map(BTreeMap::values)
    }
}

fn key<K: Object>(object: &K) -> (&str, &str) {
    let meta = object.meta();
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

impl<K: Object> State<K> {
    fn insert(&mut self, object: Arc<K>) {
        let (namespace, name) = key(&*object);
        let names = match self.objects.get_mut(namespace) {
            Some(names) => names,
            None => self.objects.entry(namespace.to_owned()).or_default(),
        };
        if let Some(held) = names.get_mut(name) {
            *held = object;
        } else {
            names.insert(name.to_owned(), object);
            self.len += 1;
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let names = self.objects.get_mut(namespace)?;
        let removed = names.remove(name)?;
        if names.is_empty() {
            self.objects.remove(namespace);
        }
        self.len -= 1;
        Some(removed)
    }
}

impl<K: Object> Store<K> {
    /// An object was added or changed.
    pub(super) fn apply(&self, object: K) {
        let object = Arc::new(object);
        let mut state = self.state.write();
        let (namespace, name) = key(&*object);
        // The name of a deleted object was given to another one, and the deletion was not seen by itself.
        let replaced = state
            .objects
            .get(namespace)
            .and_then(|names| names.get(name))
            .filter(|held| held.meta().uid != object.meta().uid)
            .cloned();
        if let Some(old) = replaced {
            state.publish(Change::Deleted(old));
        }
        state.insert(object.clone());
        state.publish(Change::Applied(object));
    }

    /// An object was deleted; `object` is its last state.
    pub(super) fn delete(&self, object: K) {
        let mut state = self.state.write();
        let (namespace, name) = key(&object);
        if state.remove(namespace, name).is_some() {
            state.publish(Change::Deleted(Arc::new(object)));
        }
    }

    /// These are all objects there are. Publishes only what differs.
    pub(super) fn replace(&self, objects: Vec<K>) {
        let mut state = self.state.write();
        let mut old = std::mem::take(&mut state.objects);
        state.len = 0;
        for object in objects {
            let (namespace, name) = key(&object);
            let held = old.get_mut(namespace).and_then(|names| names.remove(name));
            match held {
                Some(held) if held.meta().resource_version == object.meta().resource_version => {
                    state.insert(held);
                }
                held => {
                    if let Some(held) = held.filter(|h| h.meta().uid != object.meta().uid) {
                        state.publish(Change::Deleted(held));
                    }
                    let object = Arc::new(object);
                    state.insert(object.clone());
                    state.publish(Change::Applied(object));
                }
            }
        }
        for gone in old.into_values().flat_map(BTreeMap::into_values) {
            state.publish(Change::Deleted(gone));
        }
        drop(state);
        self.synced.send_if_modified(|synced| synced.is_none() && synced.replace(true).is_none());
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state.read().objects.get(namespace)?.get(name).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.state.read().all().cloned().collect()
    }

    pub(super) fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.state.read().objects.get(namespace).map(|n| n.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn list_with_prefix(&self, namespace: &str, prefix: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let Some(names) = state.objects.get(namespace) else { return Vec::new() };
        let from = names.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(|(name, _)| name.starts_with(prefix)).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn list_where(&self, mut keep: impl FnMut(&K) -> bool) -> Vec<Arc<K>> {
        self.state.read().all().filter(|o| keep(o)).cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.state.read().len
    }

    /// The objects that are there and the changes after that; no receiver after the shutdown.
    pub(super) fn snapshot(&self) -> (Vec<Arc<K>>, Option<broadcast::Receiver<Change<K>>>) {
        let state = self.state.read();
        (state.all().cloned().collect(), state.changes.as_ref().map(broadcast::Sender::subscribe))
    }
}

impl<K> Store<K> {
    pub(super) fn has_synced(&self) -> bool {
        *self.synced.borrow() == Some(true)
    }

    pub(super) async fn synced(&self) -> bool {
        // The sender lives as long as `self`, so waiting cannot fail.
        self.synced.subscribe().wait_for(Option::is_some).await.is_ok_and(|s| *s == Some(true))
    }

    /// No more changes come.
    pub(super) fn close(&self) {
        self.state.write().changes = None;
        self.synced.send_if_modified(|synced| synced.is_none() && synced.replace(false).is_none());
    }
}

//! Shared informers: one watch a kind for the whole process, a store kept fresh by it, and bounded
//! subscriptions to what changes.
//!
//! Invariant: a reader of an [`Informer`] sees a state the API server once had, object by object; after a
//! break in the watch it catches up by itself. A subscriber that falls behind is told so ([`Change::Resync`])
//! instead of making a queue grow.
//!
//! ```text
//!   Informers ── one per (kind, selection) ──► reflect: list (pages) ─► watch ─► watch …   410 ─► list again
//!                                                │ under one lock: change the store, publish the change
//!                                  Informer::get/list/by…   Subscription::next
//! ```
mod reflect;
mod source;
mod store;
mod subscription;
#[cfg(test)]
mod tests;

use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use source::Source;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use store::Store;
pub use subscription::{Change, Subscription};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an informer can hold.
pub trait Object: Resource + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static {}
impl<K: Resource + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static> Object for K {}

/// Which objects of a kind an informer holds; all of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    pub namespace: Option<String>,
    /// A label selector: `app=web`.
    pub labels: Option<String>,
    /// A field selector: `spec.nodeName=n1`.
    pub fields: Option<String>,
}

impl Selection {
    /// The objects that a field selector takes.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }
    /// The objects of one namespace.
    pub fn namespace(name: impl Into<String>) -> Self {
        Self { namespace: Some(name.into()), ..Self::default() }
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Slot {
    held_as: TypeId,
    path: String,
    selection: Selection,
}

/// The informers of a process. Cheap to clone; clones share the watches.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    informers: Arc<Mutex<HashMap<Slot, Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// Informers that watch through `client` until `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Self { client, shutdown, tasks: TaskTracker::new(), informers: Arc::default() }
    }

    /// The informer of all objects of kind `K`. The first call starts its watch.
    pub fn get<K: Object + Resource<DynamicType = ()>>(&self) -> Informer<K> {
        self.select(Selection::default())
    }

    /// The informer of the objects of kind `K` that `selection` takes.
    pub fn select<K: Object + Resource<DynamicType = ()>>(&self, selection: Selection) -> Informer<K> {
        self.start(Source::typed(selection))
    }

    /// The informer of a kind known only at run time, whole objects.
    pub fn dynamic(&self, resource: &ApiResource) -> Informer<DynamicObject> {
        self.start(Source::dynamic(resource))
    }

    /// The informer of a kind known only at run time, metadata alone: what garbage collection needs. Every
    /// object's `types` says its real kind.
    pub fn metadata(&self, resource: &ApiResource) -> Informer<PartialObjectMeta<DynamicObject>> {
        self.start(Source::metadata(resource))
    }

    /// Waits, after the shutdown, until every watch has ended.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start<K: Object>(&self, source: Source<K>) -> Informer<K> {
        let slot = Slot {
            held_as: TypeId::of::<K>(),
            path: source.path().to_owned(),
            selection: source.selection().clone(),
        };
        let mut informers = self.informers.lock();
        if let Some(known) = informers.get(&slot).and_then(|i| i.downcast_ref::<Informer<K>>()) {
            return known.clone();
        }
        let informer = Informer { store: Arc::new(Store::default()) };
        informers.insert(slot, Box::new(informer.clone()));
        let (client, shutdown, store) = (self.client.clone(), self.shutdown.clone(), informer.store.clone());
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(reflect::run(&client, &source, &store)).await;
            store.close();
        });
        informer
    }
}

/// `ApiResource` of an `apiVersion` (`apps/v1`), a kind and its plural.
pub fn api_resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The objects of one kind, as last seen. Cheap to clone.
#[derive(Debug)]
pub struct Informer<K> {
    store: Arc<Store<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}

impl<K: Object> Informer<K> {
    /// An object; `namespace` is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(namespace, name)
    }

    /// Every object, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.store.list()
    }

    /// The objects of one namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.store.list_in(namespace)
    }

    /// The objects of one namespace whose names begin with `prefix`, by name. Looks at no others.
    pub fn list_with_prefix(&self, namespace: &str, prefix: &str) -> Vec<Arc<K>> {
        self.store.list_with_prefix(namespace, prefix)
    }

    /// The objects that `keep` takes, by namespace and name. Copies nothing that it does not take; `keep` runs
    /// under the store's lock and must not call back into this informer.
    pub fn list_where(&self, keep: impl FnMut(&K) -> bool) -> Vec<Arc<K>> {
        self.store.list_where(keep)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list is complete.
    pub fn has_synced(&self) -> bool {
        self.store.has_synced()
    }

    /// Waits until the first list is complete; false when the informers were shut down before.
    pub async fn synced(&self) -> bool {
        self.store.synced().await
    }

    /// What changes from now on, beginning with an [`Change::Applied`] for each object that is there.
    pub fn subscribe(&self) -> Subscription<K> {
        Subscription::new(self.store.clone())
    }
}

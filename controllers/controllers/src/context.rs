//! What every controller is given.
use crate::Config;
use client::kube::Client;
use client::{Informer, Informers, ObjectKey, Recorder, WorkQueue};
use machinery::ambient::Ambient;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The first delay of a key that failed. Upstream's 5 ms make dozens of attempts in a second.
const RETRY_BASE: Duration = Duration::from_millis(10);
/// The longest delay of a key that fails: upstream's 1000 s is longer than anybody waits for a repaired cluster.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// The hands and eyes of one controller. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) ambient: Ambient,
    pub(crate) recorder: Recorder,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn queue<K: Clone + Eq + std::hash::Hash>(&self) -> WorkQueue<K> {
        WorkQueue::with_backoff(self.shutdown.clone(), RETRY_BASE, RETRY_CAP)
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.ambient.now()
    }

    pub(crate) fn informer<K>(&self) -> Informer<K>
    where
        K: client::Object + client::kube::Resource<DynamicType = ()>,
    {
        self.informers.get::<K>()
    }
}

/// The key of the controller of `meta`, if that is a `kind` of `group` (`apps`).
pub(crate) fn controller_key(
    meta: &client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    group: &str,
    kind: &str,
) -> Option<ObjectKey> {
    let r = crate::owner::controller_of(meta)?;
    let own_group = r.api_version.split_once('/').map_or("", |(g, _)| g);
    (r.kind == kind && own_group == group)
        .then(|| ObjectKey::new(meta.namespace.clone().unwrap_or_default(), r.name.clone()))
}

//! EndpointSlices (and the older Endpoints) of Services with a selector: which pods answer for it, on which
//! addresses and ports, and whether they are ready.
mod endpoints;
mod plan;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::error::{Doing, Error};
use crate::expectations::{Expectations, Seen};
use crate::reconcile::{Outcome, every_key, feed, full_passes, object, own_key, work};
use crate::selector;
use client::k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::kube::api::{Api, DeleteParams, PostParams, Preconditions};
use client::{Change, Informer, ObjectKey, SERVICE_NAME, WorkQueue};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Services worked on at a time (`--concurrent-service-endpoint-syncs`).
const WORKERS: usize = 5;

/// The Endpoints of a Service are written once in so long at most (`--endpoint-updates-batch-period`): an object of a
/// thousand addresses is 200 kB, and pods become ready by the thousand. Those in a hurry read slices.
const MIRROR_PERIOD: Duration = Duration::from_secs(1);

struct Controller {
    ctx: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    /// Services whose Endpoints may have to be written, and when those that have some were written last.
    mirrors: WorkQueue<ObjectKey>,
    mirrored: Mutex<HashMap<ObjectKey, Timestamp>>,
    /// Slices made or deleted that the informer does not show yet: without it a slow watch gets a Service two
    /// slices of the same pods.
    expectations: Expectations,
    /// Labels each pod had when last seen: a pod that changes them leaves Services it is no longer chosen by.
    labels: Mutex<HashMap<String, selector::Labels>>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller {
        services: ctx.informer(),
        pods: ctx.informer(),
        slices: ctx.informer(),
        endpoints: ctx.informer(),
        mirrors: ctx.queue(),
        mirrored: Mutex::default(),
        expectations: Expectations::default(),
        labels: Mutex::default(),
        ctx,
    };
    let queue = c.ctx.queue::<ObjectKey>();
    let services = feed(c.services.clone(), queue.clone(), |change| c.keys_of_service(change));
    let passes = full_passes(c.services.clone(), queue.clone());
    let pods = feed(c.pods.clone(), queue.clone(), |change| c.keys_of_pod(change));
    let slices = feed(c.slices.clone(), queue.clone(), |change| c.keys_of_slice(change));
    let endpoints = feed(c.endpoints.clone(), c.mirrors.clone(), |change| {
        let keys = match object(change) {
            Some(e) => Vec::from_iter(endpoints::is_ours(e).then(|| ObjectKey::of(&**e))),
            None => every_key(&c.services),
        };
        keys.into_iter().for_each(|key| c.mirrors.add(key));
        None
    });
    let workers = async {
        let first = c.services.synced().await && c.pods.synced().await;
        if first && c.slices.synced().await && c.endpoints.synced().await {
            let on_slices = work("endpointslice", &queue, WORKERS, |key| c.sync_service(key));
            let on_mirrors = work("endpoints", &c.mirrors, WORKERS, |key| c.sync_mirror(key));
            tokio::join!(on_slices, on_mirrors);
        }
    };
    tokio::join!(services, passes, pods, slices, endpoints, workers);
}

impl Controller {
    /// The Service; when some may have gone unseen, whatever has slices or Endpoints.
    fn keys_of_service(&self, change: &Change<Service>) -> Vec<ObjectKey> {
        if let Some(key) = own_key(change) {
            return vec![key];
        }
        let slices = self.slices.list();
        let mirrors = self.endpoints.list_where(endpoints::is_ours);
        let mirrored = mirrors.iter().map(|e| ObjectKey::of(&**e));
        slices.iter().filter_map(|s| service_of(s)).chain(mirrored).collect()
    }

    /// Services that choose the pod by its labels now, or did by those it had; all of them when pods may have gone unseen.
    fn keys_of_pod(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        let Some(p) = object(change) else {
            let there: HashSet<String> =
                self.pods.list().iter().filter_map(|p| p.metadata.uid.clone()).collect();
            self.labels.lock().retain(|uid, _| there.contains(uid));
            return every_key(&self.services);
        };
        let uid = p.metadata.uid.clone().unwrap_or_default();
        let now = p.metadata.labels.clone().unwrap_or_default();
        let before = match change {
            Change::Deleted(_) => self.labels.lock().remove(&uid),
            _ => self.labels.lock().insert(uid, now.clone()),
        };
        let before = before.filter(|b| *b != now);
        let chosen = |s: &Service| {
            s.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()).is_some_and(|own| {
                selector::equality_matches(own, Some(&now))
                    || before.as_ref().is_some_and(|b| selector::equality_matches(own, Some(b)))
            })
        };
        let services = self.services.list_in(p.metadata.namespace.as_deref().unwrap_or(""));
        services.iter().filter(|s| chosen(s)).map(|s| ObjectKey::of(&**s)).collect()
    }

    fn keys_of_slice(&self, change: &Change<EndpointSlice>) -> Vec<ObjectKey> {
        match object(change) {
            Some(slice) => self.key_of_slice(change, slice).into_iter().collect(),
            None => every_key(&self.services),
        }
    }

    fn key_of_slice(&self, change: &Change<EndpointSlice>, slice: &EndpointSlice) -> Option<ObjectKey> {
        let key = service_of(slice)?;
        if matches!(change, Change::Deleted(_)) {
            self.expectations.observed_gone(&key, slice.metadata.uid.as_deref().unwrap_or(""));
        }
        Some(key)
    }

    async fn sync_service(&self, key: ObjectKey) -> Outcome {
        let all = self.slices.list_in(&key.namespace);
        let own: Vec<&EndpointSlice> =
            all.iter().map(|s| &**s).filter(|s| service_of(s).as_ref() == Some(&key)).collect();
        self.mirrors.add(key.clone());
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            // Slices go with their owner; one that somebody made without an owner reference goes here.
            for slice in own {
                self.delete_slice(&key, slice).await?;
            }
            return Ok(None);
        };
        let seen = |uid: &str| match own.iter().any(|s| s.metadata.uid.as_deref() == Some(uid)) {
            true => Seen::Active,
            false => Seen::Not,
        };
        if !self.expectations.fulfilled(&key, self.ctx.now(), seen) {
            return Ok(Some(Duration::from_secs(61)));
        }
        let pods = self.pods.list_in(&key.namespace);
        let pods: Vec<&Pod> = pods.iter().map(|p: &Arc<Pod>| &**p).collect();
        let plan = plan::plan_slices(&service, &pods, &own);
        tracing::debug!(service = %key, why = ?plan.why, "planned");
        self.apply_plan(&key, plan).await?;
        Ok(None)
    }

    async fn sync_mirror(&self, key: ObjectKey) -> Outcome {
        let service = self.services.get(&key.namespace, &key.name);
        let wanted = service.and_then(|service| {
            let pods = self.pods.list_in(&key.namespace);
            let pods: Vec<&Pod> = pods.iter().map(|p| &**p).collect();
            endpoints::compute_endpoints(&service, &pods)
        });
        let Some(wanted) = wanted else {
            self.mirrored.lock().remove(&key);
            self.delete_mirror(&key).await?;
            return Ok(None);
        };
        let old = self.endpoints.get(&key.namespace, &key.name);
        if old.as_ref().is_some_and(|old| endpoints::same(old, &wanted)) {
            return Ok(None);
        }
        let now = self.ctx.now();
        let rested = self.mirrored.lock().get(&key).map(|last| now.duration_since(*last));
        let rests = rested.and_then(|rested| MIRROR_PERIOD.checked_sub(Duration::try_from(rested).ok()?));
        if let Some(rests) = rests.filter(|rests| !rests.is_zero()) {
            return Ok(Some(rests));
        }
        self.write_mirror(&key, old.as_deref(), wanted).await?;
        self.mirrored.lock().insert(key, now);
        Ok(None)
    }

    async fn apply_plan(&self, key: &ObjectKey, plan: plan::Plan) -> Result<(), Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        for slice in &plan.create {
            match api
                .create(&PostParams::default(), slice)
                .await
                .doing(|| format!("create a slice of service {key}"))
            {
                Ok(made) => {
                    let uid = made.metadata.uid.unwrap_or_default();
                    self.expectations.created(key, &uid, self.ctx.now());
                }
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for slice in &plan.update {
            let name = slice.metadata.name.as_deref().unwrap_or("");
            api.replace(name, &PostParams::default(), slice)
                .await
                .doing(|| format!("update endpointslice {}/{name}", key.namespace))?;
        }
        for slice in &plan.delete {
            self.delete_slice(key, slice).await?;
        }
        Ok(())
    }

    async fn delete_slice(&self, key: &ObjectKey, slice: &EndpointSlice) -> Result<(), Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let name = slice.metadata.name.as_deref().unwrap_or("");
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: slice.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => {
                let uid = slice.metadata.uid.as_deref().unwrap_or("");
                self.expectations.deleted(key, uid, self.ctx.now());
                Ok(())
            }
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("delete endpointslice {}/{name}", key.namespace)),
        }
    }

    async fn write_mirror(
        &self,
        key: &ObjectKey,
        old: Option<&Endpoints>,
        wanted: Endpoints,
    ) -> Result<(), Error> {
        let api: Api<Endpoints> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let written = match old {
            None => {
                api.create(&PostParams::default(), &wanted).await.doing(|| format!("create endpoints {key}"))
            }
            Some(old) => {
                let mut changed = old.clone();
                changed.metadata.labels = wanted.metadata.labels;
                changed.metadata.annotations = wanted.metadata.annotations;
                changed.subsets = wanted.subsets;
                api.replace(&key.name, &PostParams::default(), &changed)
                    .await
                    .doing(|| format!("update endpoints {key}"))
            }
        };
        match written {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Deletes the Endpoints of a Service that is gone or has no selector any more, if they are ours.
    async fn delete_mirror(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(old) = self.endpoints.get(&key.namespace, &key.name).filter(|e| endpoints::is_ours(e))
        else {
            return Ok(());
        };
        let api: Api<Endpoints> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: old.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("delete endpoints {key}")),
        }
    }
}

/// The Service of a slice that this controller manages.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(plan::MANAGED_BY).is_some_and(|m| m == plan::MANAGER);
    let service = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), service.clone()))
}

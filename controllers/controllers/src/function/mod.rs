//! Functions: every change of what runs makes a Revision; each Revision has a Deployment and a Service of its name;
//! traffic moves between Revisions when they are ready.
//!
//! ```text
//!   Function ─ Revision r1 ─ Deployment, Service r1 ─┐
//!            └ Revision r2 ─ Deployment, Service r2 ─┴─► status.traffic: r1 90 %, r2 10 %  ─► gateway
//! ```
//! Invariant: no traffic is given to a revision whose pods are not ready, and none loses its pods before the
//! requests that were sent to it have had their time.
mod names;
mod objects;
mod plan;
mod status;
#[cfg(test)]
mod tests;
mod traffic;
mod trouble;

use crate::context::Context;
use crate::error::{Doing, Error};
use crate::owner;
use crate::reconcile::{Outcome, feed, feed_own, object, work};
use client::dhow::v1alpha1::{Function, Revision};
use client::k8s_openapi::NamespaceResourceScope;
use client::k8s_openapi::api::apps::v1::Deployment;
use client::k8s_openapi::api::core::v1::{Pod, Service};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::kube::Resource;
use client::kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions, PropagationPolicy};
use client::{Change, EventType, Informer, Object, ObjectKey, SERVICE_NAME};
use names::{FUNCTION, REVISION, revision_number, revision_prefix};
pub(crate) use objects::PORT_NAME;
use objects::Step;
use plan::{Observed, Plan, RevisionPlan, World};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

/// Functions worked on at a time.
const WORKERS: usize = 5;

struct Controller {
    ctx: Context,
    functions: Informer<Function>,
    revisions: Informer<Revision>,
    deployments: Informer<Deployment>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    pods: Informer<Pod>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller {
        functions: ctx.informer(),
        revisions: ctx.informer(),
        deployments: ctx.informer(),
        services: ctx.informer(),
        slices: ctx.informer(),
        pods: ctx.informer(),
        ctx,
    };
    let queue = c.ctx.queue::<ObjectKey>();
    let functions = feed_own(c.functions.clone(), queue.clone());
    let revisions = feed(c.revisions.clone(), queue.clone(), |change| c.function_of(change));
    let deployments = feed(c.deployments.clone(), queue.clone(), |change| c.function_of(change));
    let services = feed(c.services.clone(), queue.clone(), |change| c.function_of(change));
    let slices = feed(c.slices.clone(), queue.clone(), |change| c.function_of(change));
    let pods = feed(c.pods.clone(), queue.clone(), |change| c.function_of(change));
    let workers = async {
        let own = c.functions.synced().await && c.revisions.synced().await && c.deployments.synced().await;
        if own && c.services.synced().await && c.slices.synced().await && c.pods.synced().await {
            work("function", &queue, WORKERS, |key| c.sync_function(key)).await;
        }
    };
    tokio::join!(functions, revisions, deployments, services, slices, pods, workers);
}

/// A revision and what there is of it, as the informers hold it.
struct Held {
    revision: Arc<Revision>,
    deployment: Option<Arc<Deployment>>,
    service: Option<Arc<Service>>,
    /// Whether its Service leads to a ready pod.
    has_endpoints: bool,
    pods: Vec<Arc<Pod>>,
}

impl Held {
    fn observed(&self) -> Observed<'_> {
        let name = self.revision.metadata.name.as_deref();
        let own = |p: &&Arc<Pod>| label(&p.metadata, REVISION) == name;
        Observed {
            revision: &self.revision,
            deployment: self.deployment.as_deref(),
            service: self.service.as_deref(),
            has_endpoints: self.has_endpoints,
            trouble: trouble::compute_trouble(self.pods.iter().filter(own).map(|p| &**p)),
        }
    }
}

/// Whether one of the slices is of the Service and has a ready endpoint. Slices are named after their Service.
fn leads_somewhere(slices: &[Arc<EndpointSlice>], service: &str) -> bool {
    let ready = |s: &EndpointSlice| {
        let mut endpoints = s.endpoints.iter().flatten();
        endpoints.any(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
    };
    slices.iter().any(|s| label(&s.metadata, SERVICE_NAME) == Some(service) && ready(s))
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

impl Controller {
    /// The Function that an object says it was made for; or the one of its name, that may have waited for the name.
    fn function_of<K: Object>(&self, change: &Change<K>) -> Option<ObjectKey> {
        let meta = object(change)?.meta();
        let name = label(meta, FUNCTION).or(meta.name.as_deref())?;
        let key = ObjectKey::new(meta.namespace.clone()?, name.to_owned());
        self.functions.get(&key.namespace, &key.name).map(|_| key)
    }

    /// The function's own revisions that are to stay, in the order of their numbers.
    fn revisions_of(&self, key: &ObjectKey, function: &Function) -> Vec<Arc<Revision>> {
        let uid = function.metadata.uid.as_deref().unwrap_or("");
        let mut all = self.revisions.list_with_prefix(&key.namespace, &revision_prefix(&key.name));
        all.retain(|r| {
            owner::is_controlled_by(&r.metadata, uid)
                && r.metadata.deletion_timestamp.is_none()
                && plan::number(function, r).is_some()
        });
        all.sort_by_key(|r| plan::number(function, r));
        all
    }

    fn held(&self, namespace: &str, revision: Arc<Revision>) -> Held {
        let name = revision.metadata.name.clone().unwrap_or_default();
        let deployment = self.deployments.get(namespace, &name);
        // Pods are asked why only where some are missing.
        let status = deployment.as_ref().and_then(|d| d.status.as_ref());
        let wanted = deployment.as_ref().and_then(|d| d.spec.as_ref()).and_then(|s| s.replicas).unwrap_or(0);
        let missing = wanted > 0 && status.and_then(|s| s.available_replicas).unwrap_or(0) < wanted;
        let pods = match missing {
            true => self.pods.list_with_prefix(namespace, &format!("{name}-")),
            false => Vec::new(),
        };
        Held {
            deployment,
            service: self.services.get(namespace, &name),
            has_endpoints: leads_somewhere(
                &self.slices.list_with_prefix(namespace, &format!("{name}-")),
                &name,
            ),
            pods,
            revision,
        }
    }

    async fn sync_function(&self, key: ObjectKey) -> Outcome {
        let Some(function) = self.functions.get(&key.namespace, &key.name) else { return Ok(None) };
        let revisions = self.revisions_of(&key, &function);
        let known: Vec<&Revision> = revisions.iter().map(|r| &**r).collect();
        if plan::needs_revision(&function, &known) {
            // The new revision's own event brings the rest.
            self.make_revision(&key, &function, &known).await?;
            return Ok(None);
        }
        let held: Vec<Held> = revisions.into_iter().map(|r| self.held(&key.namespace, r)).collect();
        let deployment = self.deployments.get(&key.namespace, &key.name);
        let service = self.services.get(&key.namespace, &key.name);
        let plan = plan::plan_function(&World {
            function: &function,
            revisions: held.iter().map(Held::observed).collect(),
            deployment: deployment.as_deref(),
            service: service.as_deref(),
            gateway_port: self.ctx.config.gateway_port,
            now: self.ctx.now(),
        });
        self.apply_plan(&key, &function, &held, deployment.as_deref(), plan).await
    }

    /// Makes a revision of the function as it is. The informers may lag behind each other, and a revision too many
    /// is one that somebody sees: the server is asked whether it is really missing.
    async fn make_revision(
        &self,
        key: &ObjectKey,
        function: &Function,
        known: &[&Revision],
    ) -> Result<(), Error> {
        let functions: Api<Function> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let live = match functions.get(&key.name).await {
            Ok(live) => live,
            Err(error) if client::is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("read function {key}")),
        };
        if live.metadata.uid != function.metadata.uid
            || live.metadata.generation != function.metadata.generation
        {
            return Err(Error::NotYet(format!("function {key} has changed meanwhile")));
        }
        let api: Api<Revision> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let all = api
            .list(&ListParams::default().labels(&format!("{FUNCTION}={}", key.name)))
            .await
            .doing(|| format!("list the revisions of function {key}"))?;
        let uid = function.metadata.uid.as_deref().unwrap_or("");
        let unseen = all.items.iter().any(|r| {
            owner::is_controlled_by(&r.metadata, uid)
                && r.metadata.deletion_timestamp.is_none()
                && !known.iter().any(|k| k.metadata.uid == r.metadata.uid)
        });
        if unseen {
            return Err(Error::NotYet(format!("not all revisions of function {key} are seen yet")));
        }
        let number = 1 + self.highest(key, function, &all.items);
        let revision = objects::wanted_revision(function, number);
        let name = revision.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &revision).await.doing(|| format!("create revision {name}"))
        {
            Ok(_) => {
                let text = format!("made revision {name} of {}", function.spec.image);
                self.ctx.recorder.event(function, EventType::Normal, "RevisionCreated", text);
                Ok(())
            }
            Err(error) => self.refused(function, "Revision", error),
        }
    }

    /// The highest number used so far: a revision's name is never given twice, and must be free for its Deployment
    /// and its Service.
    fn highest(&self, key: &ObjectKey, function: &Function, revisions: &[Revision]) -> u64 {
        let prefix = revision_prefix(&key.name);
        let mut names: Vec<String> =
            function.status.iter().filter_map(|s| s.latest_created_revision.clone()).collect();
        names.extend(revisions.iter().filter_map(|r| r.metadata.name.clone()));
        let mut add = |meta: &ObjectMeta| names.extend(meta.name.clone());
        self.revisions.list_with_prefix(&key.namespace, &prefix).iter().for_each(|o| add(&o.metadata));
        self.deployments.list_with_prefix(&key.namespace, &prefix).iter().for_each(|o| add(&o.metadata));
        self.services.list_with_prefix(&key.namespace, &prefix).iter().for_each(|o| add(&o.metadata));
        names.iter().filter_map(|name| revision_number(&key.name, name)).max().unwrap_or(0)
    }

    async fn apply_plan(
        &self,
        key: &ObjectKey,
        function: &Function,
        held: &[Held],
        deployment: Option<&Deployment>,
        plan: Plan,
    ) -> Outcome {
        for RevisionPlan { name, deployment, service, .. } in &plan.revisions {
            let key = ObjectKey::new(key.namespace.clone(), name.clone());
            self.apply(function, &key, service).await?;
            self.apply(function, &key, deployment).await?;
        }
        self.apply(function, key, &plan.service).await?;
        if let Some(status) = plan.status {
            self.say_what_moved(function, &status);
            let mut wanted = function.clone();
            wanted.status = Some(status);
            self.replace_status(key, &wanted).await?;
        }
        // After the traffic has moved: the drain time begins here.
        for RevisionPlan { name, status, .. } in plan.revisions.iter().filter(|p| p.status.is_some()) {
            let Some(held) = held.iter().find(|h| h.revision.metadata.name.as_ref() == Some(name)) else {
                continue;
            };
            let mut wanted = (*held.revision).clone();
            wanted.status.clone_from(status);
            self.replace_status(&ObjectKey::new(key.namespace.clone(), name.clone()), &wanted).await?;
        }
        for RevisionPlan { name, .. } in plan.revisions.iter().filter(|p| p.forget) {
            let Some(held) = held.iter().find(|h| h.revision.metadata.name.as_ref() == Some(name)) else {
                continue;
            };
            self.delete::<Revision>(&key.namespace, &held.revision.metadata).await?;
        }
        if let Some(old) = deployment.filter(|_| plan.delete_deployment) {
            self.delete::<Deployment>(&key.namespace, &old.metadata).await?;
        }
        Ok(plan.again)
    }

    fn say_what_moved(&self, function: &Function, status: &client::dhow::v1alpha1::FunctionStatus) {
        let before = function.status.as_ref().map(|s| s.traffic.as_slice()).unwrap_or_default();
        if status.traffic.is_empty() || status.traffic == before {
            return;
        }
        let share = |t: &client::dhow::v1alpha1::TrafficStatus| match t.headers.is_empty() {
            true => format!("{} {} %", t.revision, t.percent),
            false => format!("{} by header", t.revision),
        };
        let shares: Vec<String> = status.traffic.iter().map(share).collect();
        let text = format!("requests go to {}", shares.join(", "));
        self.ctx.recorder.event(function, EventType::Normal, "TrafficMoved", text);
    }

    async fn replace_status<K>(&self, key: &ObjectKey, wanted: &K) -> Result<(), Error>
    where
        K: Object + Serialize + DeserializeOwned + Clone + Debug,
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), wanted).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("write the status of {} {key}", K::kind(&()))),
        }
    }

    async fn delete<K>(&self, namespace: &str, meta: &ObjectMeta) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), namespace);
        let name = meta.name.as_deref().unwrap_or("");
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("delete {} {namespace}/{name}", K::kind(&()))),
        }
    }

    async fn apply<K>(&self, function: &Function, key: &ObjectKey, step: &Step<K>) -> Result<(), Error>
    where
        K: Object + Serialize + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let kind = K::kind(&());
        let written = match step {
            Step::Nothing | Step::Taken => return Ok(()),
            Step::Create(object) => {
                api.create(&PostParams::default(), object).await.doing(|| format!("create {kind} {key}"))
            }
            Step::Update(object) => api
                .replace(&key.name, &PostParams::default(), object)
                .await
                .doing(|| format!("update {kind} {key}")),
        };
        match written {
            Ok(_) => Ok(()),
            Err(error) => self.refused(function, &kind, error),
        }
    }

    /// What is done about a write that failed: nothing in a namespace that goes, else it is said and tried again.
    fn refused(&self, function: &Function, kind: &str, error: Error) -> Result<(), Error> {
        if error.is_namespace_terminating() {
            return Ok(());
        }
        if !error.is_race() {
            let text = format!("cannot write the {kind}: {}", error.server_message());
            self.ctx.recorder.event(function, EventType::Warning, "FailedWrite", text);
        }
        Err(error)
    }
}

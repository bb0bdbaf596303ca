//! Deployments: from one pod template to the next through ReplicaSets.
//!
//! Invariant: while pods stay healthy, no rollout has more pods than `replicas + maxSurge` or fewer available
//! ones than `replicas - maxUnavailable`.
mod bounds;
mod plan;
mod revision;
mod status;
#[cfg(test)]
mod tests;

use crate::claim::{Claimant, claim};
use crate::context::{Context, controller_key};
use crate::error::{Doing, Error};
use crate::reconcile::{Outcome, every_key, feed, feed_own, object, work};
use crate::{owner, pod, selector};
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use client::k8s_openapi::api::core::v1::Pod;
use client::kube::api::{
    Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use client::{Change, EventType, Informer, ObjectKey};
use serde_json::json;
use std::collections::BTreeSet;

/// Deployments worked on at a time (`--concurrent-deployment-syncs`).
const WORKERS: usize = 5;

struct Controller {
    ctx: Context,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c =
        Controller { deployments: ctx.informer(), replica_sets: ctx.informer(), pods: ctx.informer(), ctx };
    let queue = c.ctx.queue::<ObjectKey>();
    let deployments = feed_own(c.deployments.clone(), queue.clone());
    let sets = feed(c.replica_sets.clone(), queue.clone(), |change| c.keys_of_replica_set(change));
    let pods = feed(c.pods.clone(), queue.clone(), |change| c.keys_of_pod(change));
    let workers = async {
        if c.deployments.synced().await && c.replica_sets.synced().await && c.pods.synced().await {
            work("deployment", &queue, WORKERS, |key| c.sync_deployment(key)).await;
        }
    };
    tokio::join!(deployments, sets, pods, workers);
}

impl Controller {
    fn keys_of_replica_set(&self, change: &Change<ReplicaSet>) -> Vec<ObjectKey> {
        let Some(rs) = object(change) else { return every_key(&self.deployments) };
        if let Some(key) = controller_key(&rs.metadata, "apps", "Deployment") {
            return vec![key];
        }
        if owner::controller_of(&rs.metadata).is_some() || matches!(change, Change::Deleted(_)) {
            return Vec::new();
        }
        let namespace = rs.metadata.namespace.as_deref().unwrap_or("");
        self.deployments
            .list_in(namespace)
            .iter()
            .filter(|d| {
                let own = d.spec.as_ref().map(|s| &s.selector);
                own.is_some_and(|s| selector::matches(s, rs.metadata.labels.as_ref()))
            })
            .map(|d| ObjectKey::of(&**d))
            .collect()
    }

    /// Only Recreate waits for pods themselves: for one that is gone or has ended.
    fn keys_of_pod(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        match object(change) {
            Some(p) => self.key_of_pod(change, p).into_iter().collect(),
            None => every_key(&self.deployments),
        }
    }

    fn key_of_pod(&self, change: &Change<Pod>, p: &Pod) -> Option<ObjectKey> {
        if matches!(change, Change::Applied(_)) && !pod::is_terminal(p) {
            return None;
        }
        let namespace = p.metadata.namespace.as_deref().unwrap_or("");
        let rs =
            self.replica_sets.get(namespace, &controller_key(&p.metadata, "apps", "ReplicaSet")?.name)?;
        let key = controller_key(&rs.metadata, "apps", "Deployment")?;
        let deployment = self.deployments.get(namespace, &key.name)?;
        (!bounds::Bounds::of(&deployment).rolling).then_some(key)
    }

    /// Uids of ReplicaSets with pods that have not ended.
    fn running(&self, namespace: &str) -> BTreeSet<String> {
        let pods = self.pods.list_in(namespace);
        let live = pods.iter().filter(|p| !pod::is_terminal(p));
        live.filter_map(|p| owner::controller_of(&p.metadata).map(|r| r.uid.clone())).collect()
    }

    async fn sync_deployment(&self, key: ObjectKey) -> Outcome {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else { return Ok(None) };
        let Some(spec) = deployment.spec.as_ref() else { return Ok(None) };
        let who = Claimant {
            meta: &deployment.metadata,
            selector: &spec.selector,
            reference: owner::controller_ref("apps/v1", "Deployment", &deployment.metadata),
        };
        let candidates = self.replica_sets.list_in(&key.namespace);
        let owned = claim::<Deployment, ReplicaSet>(&self.ctx.client, &who, candidates).await?;
        let running = if bounds::Bounds::of(&deployment).rolling {
            BTreeSet::new()
        } else {
            self.running(&key.namespace)
        };
        let plan = plan::plan_deployment(plan::World {
            deployment: &deployment,
            replica_sets: owned.iter().map(|rs| (**rs).clone()).collect(),
            running,
            now: self.ctx.now(),
        });
        tracing::debug!(deployment = %key, why = ?plan.why, "planned");
        self.apply_plan(&deployment, &key, plan).await
    }

    async fn apply_plan(&self, deployment: &Deployment, key: &ObjectKey, mut plan: plan::Plan) -> Outcome {
        let sets: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        if let Some(rs) = plan.create.take() {
            self.create_replica_set(deployment, key, &sets, rs, &mut plan.status).await?;
        }
        for resize in &plan.update {
            let name = resize.wanted.metadata.name.as_deref().unwrap_or("");
            sets.replace(name, &PostParams::default(), &resize.wanted)
                .await
                .doing(|| format!("update replicaset {}/{name}", key.namespace))?;
            if resize.from != resize.to {
                self.tell_of_scaling(deployment, name, resize.from, resize.to);
            }
        }
        for rs in &plan.delete {
            let name = rs.metadata.name.as_deref().unwrap_or("");
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                preconditions: Some(Preconditions {
                    uid: rs.metadata.uid.clone(),
                    resource_version: rs.metadata.resource_version.clone(),
                }),
                ..DeleteParams::default()
            };
            match sets.delete(name, &params).await {
                Ok(_) => {}
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => {
                    return Err(error).doing(|| format!("delete replicaset {}/{name}", key.namespace));
                }
            }
        }
        let version = match &plan.revision {
            Some(revision) => Some(self.annotate_revision(deployment, key, revision).await?),
            None => None,
        };
        self.write_status(deployment, version, plan.status).await?;
        Ok(plan.look_again)
    }

    async fn create_replica_set(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        sets: &Api<ReplicaSet>,
        rs: ReplicaSet,
        status: &mut DeploymentStatus,
    ) -> Result<(), Error> {
        let name = rs.metadata.name.clone().unwrap_or_default();
        let size = plan::replicas(&rs);
        let made = sets
            .create(&PostParams::default(), &rs)
            .await
            .doing(|| format!("create replicaset {}/{name}", key.namespace));
        let error = match made {
            Ok(_) => {
                if size > 0 {
                    self.tell_of_scaling(deployment, &name, 0, size);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if error.is_already_exists() {
            let live = sets.get(&name).await.doing(|| format!("read replicaset {}/{name}", key.namespace))?;
            let uid = deployment.metadata.uid.as_deref().unwrap_or("");
            let ours = owner::is_controlled_by(&live.metadata, uid)
                && revision::find_current(deployment, std::slice::from_ref(&live)).is_some();
            if !ours {
                // Another template has the same hash: count it, so that the next pass takes another name.
                let mut counted = deployment.status.clone().unwrap_or_default();
                counted.collision_count = Some(counted.collision_count.unwrap_or(0) + 1);
                self.write_status(deployment, None, counted).await?;
            }
            // Ours and not in the informer yet: the informer wakes us.
            return Err(error);
        }
        if error.is_namespace_terminating() {
            return Ok(());
        }
        let text = error.server_message();
        self.ctx.recorder.event(
            deployment,
            EventType::Warning,
            "ReplicaSetCreateError",
            format!("Failed to create new replica set {name:?}: {text}"),
        );
        let mut failed = deployment.status.clone().unwrap_or_default();
        status::creation_failed(&mut failed, &name, &text, self.ctx.now());
        failed.observed_generation = status.observed_generation;
        self.write_status(deployment, None, failed).await?;
        Err(error)
    }

    fn tell_of_scaling(&self, deployment: &Deployment, name: &str, from: i32, to: i32) {
        let way = if to > from { "up" } else { "down" };
        let text = format!("Scaled {way} replica set {name} from {from} to {to}");
        self.ctx.recorder.event(deployment, EventType::Normal, "ScalingReplicaSet", text);
    }

    /// Returns the resourceVersion after it.
    async fn annotate_revision(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        revision: &str,
    ) -> Result<String, Error> {
        let api: Api<Deployment> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let patch = json!({ "metadata": {
            "uid": deployment.metadata.uid,
            "resourceVersion": deployment.metadata.resource_version,
            "annotations": { revision::REVISION: revision },
        }});
        let patched = api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .doing(|| format!("note the revision of deployment {key}"))?;
        Ok(patched.metadata.resource_version.unwrap_or_default())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        version: Option<String>,
        status: DeploymentStatus,
    ) -> Result<(), Error> {
        if deployment.status.as_ref().is_some_and(|old| status::same_status(old, &status)) {
            return Ok(());
        }
        let key = ObjectKey::of(deployment);
        let api: Api<Deployment> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let mut wanted = deployment.clone();
        wanted.status = Some(status);
        if version.is_some() {
            wanted.metadata.resource_version = version;
        }
        match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("write the status of deployment {key}")),
        }
    }
}

//! ReplicaSets: as many pods of one template as wanted.
//!
//! Invariant: never more creations or deletions than the difference that was really there, however stale the
//! informer is.
mod plan;
#[cfg(test)]
mod tests;

use crate::claim::{Claimant, claim};
use crate::context::{Context, controller_key};
use crate::error::{Doing, Error};
use crate::expectations::Expectations;
use crate::reconcile::{Outcome, every_key, feed, feed_own, work};
use crate::{owner, pod_control, selector};
use client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use client::k8s_openapi::api::core::v1::Pod;
use client::kube::api::{Api, PostParams};
use client::{Change, Informer, ObjectKey};
use futures::future::join_all;

/// ReplicaSets worked on at a time (kube-controller-manager's `--concurrent-replicaset-syncs`).
const WORKERS: usize = 5;

struct Controller {
    ctx: Context,
    replica_sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    expectations: Expectations,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller {
        replica_sets: ctx.informer(),
        pods: ctx.informer(),
        expectations: Expectations::default(),
        ctx,
    };
    let queue = c.ctx.queue::<ObjectKey>();
    let sets = feed_own(c.replica_sets.clone(), queue.clone());
    let pods = feed(c.pods.clone(), queue.clone(), |change| c.keys_of_pod(change));
    let workers = async {
        if c.replica_sets.synced().await && c.pods.synced().await {
            work("replicaset", &queue, WORKERS, |key| c.sync_replica_set(key)).await;
        }
    };
    tokio::join!(sets, pods, workers);
}

impl Controller {
    /// The ReplicaSet that controls the pod; for an orphan every ReplicaSet that might adopt it; all of them when pods
    /// may have gone unseen.
    fn keys_of_pod(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        let Some(pod) = crate::reconcile::object(change) else { return every_key(&self.replica_sets) };
        if let Some(key) = controller_key(&pod.metadata, "apps", "ReplicaSet") {
            if matches!(change, Change::Deleted(_)) {
                self.expectations.observed_gone(&key, pod.metadata.uid.as_deref().unwrap_or(""));
            }
            return vec![key];
        }
        let orphan = owner::controller_of(&pod.metadata).is_none() && matches!(change, Change::Applied(_));
        if !orphan || pod.metadata.deletion_timestamp.is_some() || pod.metadata.labels.is_none() {
            return Vec::new();
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        self.replica_sets
            .list_in(namespace)
            .iter()
            .filter(|rs| {
                let own = rs.spec.as_ref().map(|s| &s.selector);
                own.is_some_and(|s| selector::matches(s, pod.metadata.labels.as_ref()))
            })
            .map(|rs| ObjectKey::of(&**rs))
            .collect()
    }

    async fn sync_replica_set(&self, key: ObjectKey) -> Outcome {
        let Some(rs) = self.replica_sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let Some(spec) = rs.spec.as_ref() else { return Ok(None) };
        // Asked before the pods are listed: the list may only be newer than the answer.
        let namespace_pods = self.pods.list_in(&key.namespace);
        let caught_up = self.expectations.fulfilled(&key, self.ctx.now(), pod_control::seen(&namespace_pods));
        let who = Claimant {
            meta: &rs.metadata,
            selector: &spec.selector,
            reference: owner::controller_ref("apps/v1", "ReplicaSet", &rs.metadata),
        };
        let pods = claim::<ReplicaSet, Pod>(&self.ctx.client, &who, namespace_pods).await?;
        let pods: Vec<&Pod> = pods.iter().map(|p| &**p).collect();
        let world = plan::World { replica_set: &rs, pods: &pods, now: self.ctx.now() };
        let plan = plan::plan_replicas(&world);
        tracing::debug!(replicaset = %key, why = ?plan.why, caught_up, "planned");
        let mut failure = None;
        if caught_up {
            failure = self.create_pods(&rs, &key, plan.create).await.err().map(|e| ("FailedCreate", e));
            if let Err(error) = self.delete_pods(&rs, &key, &plan.delete, &pods).await {
                failure.get_or_insert(("FailedDelete", error));
            }
        }
        let message = failure.as_ref().map(|(reason, error)| (*reason, error.server_message()));
        let status = plan::compute_status(&world, message.as_ref().map(|(r, m)| (*r, m.as_str())));
        self.write_status(&rs, status).await?;
        match failure {
            Some((_, error)) if error.is_namespace_terminating() => Ok(None),
            Some((_, error)) => Err(error),
            // What was not done for lack of a fresh view wakes us when the view is there; should that event
            // have been missed, look again once patience has run out.
            None if !caught_up => Ok(Some(std::time::Duration::from_secs(61))),
            None => Ok(plan.look_again),
        }
    }

    /// Creates pods in batches that double, and stops after the first batch with a failure.
    async fn create_pods(&self, rs: &ReplicaSet, key: &ObjectKey, count: usize) -> Result<(), Error> {
        let Some(template) = rs.spec.as_ref().and_then(|s| s.template.as_ref()) else { return Ok(()) };
        let reference = owner::controller_ref("apps/v1", "ReplicaSet", &rs.metadata);
        let pod = pod_control::from_template(key, template, reference);
        for batch in plan::slow_start(count) {
            let made = join_all((0..batch).map(|_| pod_control::create(&self.ctx, rs, &pod))).await;
            let mut failed = None;
            for result in made {
                match result {
                    Ok(pod) => {
                        let uid = pod.metadata.uid.unwrap_or_default();
                        self.expectations.created(key, &uid, self.ctx.now());
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn delete_pods(
        &self,
        rs: &ReplicaSet,
        key: &ObjectKey,
        names: &[String],
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let doomed = names.iter().filter_map(|n| pods.iter().find(|p| p.metadata.name.as_ref() == Some(n)));
        let results = join_all(doomed.map(|pod| async move {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            pod_control::delete(&self.ctx, rs, pod).await?;
            self.expectations.deleted(key, &uid, self.ctx.now());
            Ok::<(), Error>(())
        }))
        .await;
        results.into_iter().collect()
    }

    async fn write_status(&self, rs: &ReplicaSet, status: ReplicaSetStatus) -> Result<(), Error> {
        if rs.status.as_ref().is_some_and(|old| plan::same_status(old, &status)) {
            return Ok(());
        }
        let key = ObjectKey::of(rs);
        let api: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let mut wanted = rs.clone();
        wanted.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("write the status of replicaset {key}")),
        }
    }
}

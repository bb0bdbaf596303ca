//! Jobs: pods that run to their end, so often as wanted, counted exactly once.
//!
//! Invariant: see [`account`]: no ended pod is counted twice or forgotten, whenever this process dies.
mod account;
mod failure_policy;
mod index_failures;
mod indexes;
mod plan;
mod success_policy;
#[cfg(test)]
mod tests;

use crate::claim::{Claimant, claim};
use crate::context::{Context, controller_key};
use crate::error::{Doing, Error};
use crate::expectations::{Expectations, Written};
use crate::reconcile::{Outcome, every_key, feed, feed_own, object, work};
use crate::{owner, pod_control};
use client::k8s_openapi::api::batch::v1::{Job, JobStatus};
use client::k8s_openapi::api::core::v1::{EnvVar, Pod};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use client::kube::api::{
    Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use client::{Change, EventType, Informer, ObjectKey};
use futures::future::join_all;
use serde_json::json;
use std::time::Duration;

/// Jobs worked on at a time (`--concurrent-job-syncs`).
const WORKERS: usize = 5;

struct Controller {
    ctx: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    expectations: Expectations,
    /// Pods leave their finalizers behind only after the status that lists them: an older status knows neither.
    written: Written,
}

/// How soon a status that was written is looked for again; its watch event comes sooner.
const ECHO: Duration = Duration::from_secs(5);

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller {
        jobs: ctx.informer(),
        pods: ctx.informer(),
        expectations: Expectations::default(),
        written: Written::default(),
        ctx,
    };
    let queue = c.ctx.queue::<ObjectKey>();
    let jobs = feed_own(c.jobs.clone(), queue.clone());
    let pods = feed(c.pods.clone(), queue.clone(), |change| c.keys_of_pod(change));
    let workers = async {
        if c.jobs.synced().await && c.pods.synced().await {
            work("job", &queue, WORKERS, |key| c.sync_job(key)).await;
        }
    };
    tokio::join!(jobs, pods, workers);
}

impl Controller {
    fn keys_of_pod(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        match object(change) {
            Some(p) => self.key_of_pod(change, p).into_iter().collect(),
            None => every_key(&self.jobs),
        }
    }

    fn key_of_pod(&self, change: &Change<Pod>, p: &Pod) -> Option<ObjectKey> {
        let key = controller_key(&p.metadata, "batch", "Job").or_else(|| key_of_orphan(p))?;
        if matches!(change, Change::Deleted(_)) {
            self.expectations.observed_gone(&key, p.metadata.uid.as_deref().unwrap_or(""));
        }
        Some(key)
    }

    async fn sync_job(&self, key: ObjectKey) -> Outcome {
        let namespace_pods = self.pods.list_in(&key.namespace);
        let job = self.jobs.get(&key.namespace, &key.name);
        let uid = job.as_ref().and_then(|j| j.metadata.uid.clone()).unwrap_or_default();
        self.release_orphans(&key, &uid, &namespace_pods).await?;
        let Some(job) = job else {
            self.expectations.forget(&key);
            self.written.forget(&key);
            return Ok(None);
        };
        let Some(spec) = job.spec.as_ref() else { return Ok(None) };
        if !self.written.is_shown(&key, job.metadata.resource_version.as_deref()) {
            return Ok(Some(ECHO));
        }
        let caught_up = self.expectations.fulfilled(&key, self.ctx.now(), pod_control::seen(&namespace_pods));
        let selector = spec.selector.clone().unwrap_or_else(|| LabelSelector {
            match_labels: Some([(CONTROLLER_UID.to_owned(), uid.clone())].into()),
            match_expressions: None,
        });
        let who = Claimant {
            meta: &job.metadata,
            selector: &selector,
            reference: owner::controller_ref("batch/v1", "Job", &job.metadata),
        };
        let owned = claim::<Job, Pod>(&self.ctx.client, &who, namespace_pods).await?;
        let pods: Vec<&Pod> = owned.iter().map(|p| &**p).collect();
        if !caught_up {
            return Ok(Some(Duration::from_secs(61)));
        }
        let plan = plan::plan_job(&plan::World { job: &job, pods: &pods, now: self.ctx.now() });
        tracing::debug!(job = %key, why = ?plan.why, "planned");
        self.apply_plan(&job, &key, &pods, plan).await
    }

    async fn apply_plan(&self, job: &Job, key: &ObjectKey, pods: &[&Pod], plan: plan::Plan) -> Outcome {
        if plan.delete_job {
            return self.delete_job(job, key).await.map(|()| None);
        }
        let find = |name: &String| pods.iter().copied().find(|p| p.metadata.name.as_ref() == Some(name));
        let doomed: Vec<&Pod> = plan.delete.iter().filter_map(find).collect();
        let deleted =
            join_all(doomed.iter().map(|p| self.delete_pod(job, key, p, plan.deleted_count_as_failed))).await;
        deleted.into_iter().collect::<Result<(), Error>>()?;
        let failures = |index: &Option<i32>| index.and_then(|i| plan.failures.get(&i).copied());
        let creations = plan.create.iter().map(|index| self.create_pod(job, key, *index, failures(index)));
        let created = join_all(creations).await;
        let failed = created.into_iter().find_map(Result::err);
        self.write_status(job, key, plan.status).await?;
        let released: Vec<&Pod> = plan.release.iter().filter_map(find).collect();
        let released = join_all(released.iter().map(|p| self.release(p))).await;
        released.into_iter().collect::<Result<(), Error>>()?;
        match failed {
            Some(error) if error.is_namespace_terminating() => Ok(None),
            Some(error) => Err(error),
            None => Ok(plan.look_again),
        }
    }

    async fn create_pod(
        &self,
        job: &Job,
        key: &ObjectKey,
        index: Option<i32>,
        failures: Option<i32>,
    ) -> Result<(), Error> {
        let Some(spec) = job.spec.as_ref() else { return Ok(()) };
        let reference = owner::controller_ref("batch/v1", "Job", &job.metadata);
        let mut pod = pod_control::from_template(key, &spec.template, reference);
        pod.metadata.finalizers.get_or_insert_default().push(account::FINALIZER.to_owned());
        let labels = pod.metadata.labels.get_or_insert_default();
        if spec.manual_selector != Some(true) {
            let uid = job.metadata.uid.clone().unwrap_or_default();
            // The server puts these into the template; a Job from elsewhere may lack them.
            for (label, value) in [("controller-uid", &uid), ("job-name", &key.name)] {
                labels.entry(label.to_owned()).or_insert_with(|| value.clone());
                labels.entry(format!("batch.kubernetes.io/{label}")).or_insert_with(|| value.clone());
            }
        }
        if let Some(i) = index {
            give_index(&mut pod, &key.name, i);
        }
        if let Some(n) = failures {
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(index_failures::FAILURE_COUNT.to_owned(), n.to_string());
        }
        let made = pod_control::create(&self.ctx, job, &pod).await?;
        self.expectations.created(key, made.metadata.uid.as_deref().unwrap_or(""), self.ctx.now());
        Ok(())
    }

    async fn delete_pod(&self, job: &Job, key: &ObjectKey, p: &Pod, counts: bool) -> Result<(), Error> {
        if !counts {
            self.release(p).await?;
        }
        pod_control::delete(&self.ctx, job, p).await?;
        self.expectations.deleted(key, p.metadata.uid.as_deref().unwrap_or(""), self.ctx.now());
        Ok(())
    }

    /// Takes the tracking finalizer off a pod.
    async fn release(&self, p: &Pod) -> Result<(), Error> {
        if !account::is_tracked(p) {
            return Ok(());
        }
        let key = ObjectKey::of(p);
        let left: Vec<&String> =
            p.metadata.finalizers.iter().flatten().filter(|f| *f != account::FINALIZER).collect();
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let patch = json!({ "metadata": {
            "uid": p.metadata.uid,
            "resourceVersion": p.metadata.resource_version,
            "finalizers": Some(left).filter(|l| !l.is_empty()),
        }});
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("take the tracking finalizer off pod {key}")),
        }
    }

    /// Pods of a Job of this name that is gone, or that were orphaned when it went: nobody counts them any more, so
    /// nothing may hold them.
    async fn release_orphans(
        &self,
        key: &ObjectKey,
        uid: &str,
        pods: &[std::sync::Arc<Pod>],
    ) -> Result<(), Error> {
        let orphans = pods.iter().filter(|p| {
            let owned = controller_key(&p.metadata, "batch", "Job");
            let of_this_name = owned.or_else(|| key_of_orphan(p)).as_ref() == Some(key);
            // A pod that only lost its reference bears its Job's uid, and is claimed again.
            let of_this_job =
                owner::is_controlled_by(&p.metadata, uid) || label(p, CONTROLLER_UID) == Some(uid);
            account::is_tracked(p) && of_this_name && !of_this_job
        });
        let released = join_all(orphans.map(|p| self.release(p))).await;
        released.into_iter().collect()
    }

    async fn delete_job(&self, job: &Job, key: &ObjectKey) -> Result<(), Error> {
        let api: Api<Job> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            // The version too: a ttl that was changed in the meantime is looked at first.
            preconditions: Some(Preconditions {
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("delete job {key} after its ttl")),
        }
    }

    async fn write_status(&self, job: &Job, key: &ObjectKey, status: JobStatus) -> Result<(), Error> {
        if job.status.as_ref().is_some_and(|old| plan::same_status(old, &status)) {
            return Ok(());
        }
        let end = plan::finished(&status).cloned();
        let api: Api<Job> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let mut wanted = job.clone();
        wanted.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
            Ok(written) => self.written.wrote(key, written.metadata.resource_version.as_deref()),
            Err(error) if client::is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("write the status of job {key}")),
        }
        if let Some(end) = end {
            let (kind, reason, text) = if end.type_ == "Complete" {
                (EventType::Normal, "Completed".to_owned(), "Job completed".to_owned())
            } else {
                (EventType::Warning, end.reason.unwrap_or_default(), end.message.unwrap_or_default())
            };
            self.ctx.recorder.event(job, kind, &reason, text);
        }
        Ok(())
    }
}

const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

fn label<'a>(p: &'a Pod, name: &str) -> Option<&'a str> {
    p.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// The Job that a tracked pod without a controller came from: deleting a Job may leave its pods alone, and then only
/// their labels tell of it.
fn key_of_orphan(p: &Pod) -> Option<ObjectKey> {
    let name = label(p, JOB_NAME).filter(|_| account::is_tracked(p))?;
    Some(ObjectKey::new(p.metadata.namespace.clone().unwrap_or_default(), name))
}

/// Makes a pod the one of a completion index: annotation, label, host name, environment, name.
fn give_index(pod: &mut Pod, job: &str, index: i32) {
    let text = index.to_string();
    pod.metadata.annotations.get_or_insert_default().insert(account::INDEX.to_owned(), text.clone());
    pod.metadata.labels.get_or_insert_default().insert(account::INDEX.to_owned(), text.clone());
    pod.metadata.generate_name = Some(format!("{job}-{index}-"));
    let Some(spec) = pod.spec.as_mut() else { return };
    spec.hostname.get_or_insert_with(|| format!("{job}-{index}"));
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(spec.containers.iter_mut()) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
            env.push(EnvVar {
                name: "JOB_COMPLETION_INDEX".into(),
                value: Some(text.clone()),
                value_from: None,
            });
        }
    }
}

//! Jobs.
use crate::cluster::{Cluster, template};
use client::Informer;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PropagationPolicy;
use serde_json::{Value, json};

fn job(name: &str, exit: i32, spec: Value) -> Value {
    let mut t = template(name, "img");
    t["metadata"]["annotations"] = json!({ "test/exit": exit.to_string() });
    t["spec"]["restartPolicy"] = json!("Never");
    let mut job = json!({ "metadata": { "name": name }, "spec": { "template": t } });
    for (k, v) in spec.as_object().unwrap() {
        job["spec"][k] = v.clone();
    }
    job
}

fn condition(jobs: &Informer<Job>, name: &str, kind: &str) -> Option<String> {
    let job = jobs.get("default", name)?;
    let all = job.status.as_ref()?.conditions.clone()?;
    all.iter().find(|c| c.type_ == kind && c.status == "True").map(|c| c.reason.clone().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_to_its_completions_and_lets_its_pods_go() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Job>(job("work", 0, json!({ "completions": 5, "parallelism": 2 }))).await;
    cluster.until::<Job>("it is complete", |j| condition(j, "work", "Complete").is_some()).await;
    let jobs = cluster.informers.get::<Job>();
    let status = jobs.get("default", "work").unwrap().status.clone().unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    assert!(status.completion_time.is_some());
    cluster
        .until::<Pod>("five pods that nothing holds", |p| {
            p.len() == 5 && p.list().iter().all(|p| p.metadata.finalizers.is_none())
        })
        .await;
    cluster.delete::<Job>("work", PropagationPolicy::Background).await;
    cluster.until::<Pod>("its pods go with it", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_exits_with_three_fails_and_its_pods_tell_the_code() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Job>(job("work", 3, json!({ "backoffLimit": 2 }))).await;
    cluster
        .until::<Job>("it has failed", |j| {
            condition(j, "work", "Failed").as_deref() == Some("BackoffLimitExceeded")
        })
        .await;
    let jobs = cluster.informers.get::<Job>();
    assert_eq!(jobs.get("default", "work").unwrap().status.as_ref().unwrap().failed, Some(3));
    let pods = cluster.informers.get::<Pod>();
    pods.synced().await;
    for pod in pods.list() {
        let status = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap();
        assert_eq!(status[0].state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_is_deleted_after_its_ttl() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Job>(job("work", 0, json!({ "ttlSecondsAfterFinished": 30 }))).await;
    cluster.until::<Job>("it is complete", |j| condition(j, "work", "Complete").is_some()).await;
    let done = cluster.ambient.now();
    cluster.until::<Job>("it is gone", |j| j.is_empty()).await;
    let waited = cluster.ambient.now().duration_since(done).as_secs();
    assert!((29..=32).contains(&waited), "{waited}");
    cluster.until::<Pod>("and its pods", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_over_its_deadline_is_ended() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let mut j = job("work", 0, json!({ "activeDeadlineSeconds": 20 }));
    j["spec"]["template"]["metadata"]["annotations"] = json!({});
    cluster.create::<Job>(j).await;
    cluster
        .until::<Job>("it has failed", |j| {
            condition(j, "work", "Failed").as_deref() == Some("DeadlineExceeded")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_completion_is_counted_twice_or_lost_when_controllers_die() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Job>(job("work", 0, json!({ "completions": 20, "parallelism": 4 }))).await;
    for i in 0..12 {
        cluster.pass(std::time::Duration::from_millis(13 + 7 * i)).await;
        cluster.restart_controllers();
    }
    cluster.until::<Job>("it is complete", |j| condition(j, "work", "Complete").is_some()).await;
    let jobs = cluster.informers.get::<Job>();
    assert_eq!(jobs.get("default", "work").unwrap().status.as_ref().unwrap().succeeded, Some(20));
    cluster.until::<Pod>("no pod more than wanted", |p| p.len() == 20).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_gives_every_index_once() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let spec = json!({ "completions": 4, "parallelism": 3, "completionMode": "Indexed" });
    cluster.create::<Job>(job("work", 0, spec)).await;
    cluster.until::<Job>("it is complete", |j| condition(j, "work", "Complete").is_some()).await;
    let jobs = cluster.informers.get::<Job>();
    let status = jobs.get("default", "work").unwrap().status.clone().unwrap();
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0-3"), Some(4)));
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_a_deleted_job_left_behind_are_held_by_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let mut forever = job("gone", 0, json!({ "completions": 2, "parallelism": 2 }));
    forever["spec"]["template"]["metadata"]["annotations"] = json!({});
    cluster.create::<Job>(forever).await;
    cluster
        .until::<Pod>("two tracked pods", |p| {
            p.len() == 2 && p.list().iter().all(|p| p.metadata.finalizers.is_some())
        })
        .await;
    cluster.delete::<Job>("gone", PropagationPolicy::Orphan).await;
    cluster
        .until::<Pod>("two pods without owner and without finalizer", |p| {
            let free = |p: &Pod| p.metadata.finalizers.is_none() && p.metadata.owner_references.is_none();
            p.len() == 2 && p.list().iter().all(|p| free(p))
        })
        .await;
    cluster.stop().await;
}

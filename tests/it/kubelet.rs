//! The real kubelet, over a runtime that runs nothing, in a real control plane.
use crate::cluster::{Cluster, template};
use cri::fake::{FakeRuntime, Script};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, PropagationPolicy};
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A node as the product has it, but for the runtime. Keep the directory as long as the cluster.
fn start_kubelet(cluster: &mut Cluster, name: &str, runtime: &FakeRuntime) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (client, shutdown) = cluster.enter(&format!("system:node:{name}"), "system:nodes");
    let shared = Arc::new(runtime.clone());
    let address = Ipv4Addr::LOCALHOST.into();
    let config = kubelet::Config::new(name, client, shared.clone(), shared, dir.path().to_owned(), address);
    let ambient = cluster.ambient.clone();
    cluster.keep(async move { kubelet::run(config, ambient, shutdown).await.unwrap() });
    dir
}

fn runtime(cluster: &Cluster) -> FakeRuntime {
    let ambient = cluster.ambient.clone();
    FakeRuntime::with_clock(move || i64::try_from(ambient.now().as_nanosecond()).unwrap())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn node_is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(start_paused = true)]
async fn a_deployment_runs_on_a_kubelet_and_leaves_nothing_when_it_is_deleted() {
    let mut cluster = Cluster::start().await;
    let runtime = runtime(&cluster);
    let _dir = start_kubelet(&mut cluster, "n1", &runtime);
    cluster.until::<Node>("the node is Ready", |n| n.get("", "n1").is_some_and(|n| node_is_ready(&n))).await;
    cluster
        .create::<Deployment>(json!({
            "metadata": { "name": "web" },
            "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "app:1") },
        }))
        .await;
    cluster
        .until::<Deployment>("three are ready", |d| {
            d.get("default", "web").and_then(|d| d.status.as_ref()?.ready_replicas) == Some(3)
        })
        .await;
    assert_eq!(runtime.running().len(), 3);
    cluster
        .until::<Pod>("three have addresses of their own", |p| {
            let mut addresses: Vec<_> =
                p.list().iter().filter_map(|p| p.status.as_ref()?.pod_ip.clone()).collect();
            addresses.sort();
            addresses.dedup();
            addresses.len() == 3
        })
        .await;
    cluster.delete::<Deployment>("web", PropagationPolicy::Background).await;
    cluster.until::<Pod>("no pod is left", |p| p.list().is_empty()).await;
    assert!(runtime.running().is_empty());
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn from_creating_a_pod_to_its_being_ready_nobody_waits_for_a_clock() {
    let mut cluster = Cluster::start().await;
    let runtime = runtime(&cluster);
    runtime.add_image("app:1");
    let _dir = start_kubelet(&mut cluster, "n1", &runtime);
    cluster.until::<Node>("the node is Ready", |n| n.get("", "n1").is_some_and(|n| node_is_ready(&n))).await;
    cluster.pass(Duration::from_secs(30)).await;
    let began = Instant::now();
    cluster
        .create::<Pod>(json!({
            "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "app:1" }] },
        }))
        .await;
    cluster.until::<Pod>("it is Ready", |p| p.get("default", "p").is_some_and(|p| is_ready(&p))).await;
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    let pod = cluster.informers.get::<Pod>().get("default", "p").unwrap();
    let status = pod.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ips.as_ref().unwrap().len(), 1);
    cluster
        .until::<Event>("it was told of", |e| {
            let reasons: Vec<_> = e.list().iter().filter_map(|e| e.reason.clone()).collect();
            ["Scheduled", "Pulled", "Created", "Started"].iter().all(|r| reasons.iter().any(|x| x == r))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_jobs_exit_code_arrives_in_its_pods_status() {
    let mut cluster = Cluster::start().await;
    let runtime = runtime(&cluster);
    runtime.script("program", Script::exits(3, Duration::from_secs(1)));
    let _dir = start_kubelet(&mut cluster, "n1", &runtime);
    let spec = json!({ "restartPolicy": "Never", "containers": [{ "name": "c", "image": "program" }] });
    cluster
        .create::<Job>(json!({
            "metadata": { "name": "job" }, "spec": { "backoffLimit": 0, "template": { "spec": spec } },
        }))
        .await;
    cluster
        .until::<Job>("it failed", |j| {
            j.get("default", "job").and_then(|j| j.status.as_ref()?.failed).is_some_and(|n| n == 1)
        })
        .await;
    cluster.until::<Pod>("there is its pod", |p| p.len() == 1).await;
    let pods = cluster.informers.get::<Pod>().list();
    let statuses = pods[0].status.as_ref().unwrap().container_statuses.as_ref().unwrap();
    let end = statuses[0].state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (3, Some("Error")));
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_with_grace_and_its_name_is_free_again() {
    let mut cluster = Cluster::start().await;
    let runtime = runtime(&cluster);
    runtime.script("slow", Script { stop_takes: Some(Duration::from_secs(4)), ..Script::forever() });
    let _dir = start_kubelet(&mut cluster, "n1", &runtime);
    let pod =
        json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "slow" }] } });
    cluster.create::<Pod>(pod.clone()).await;
    cluster.until::<Pod>("it is Ready", |p| p.get("default", "p").is_some_and(|p| is_ready(&p))).await;
    let began = Instant::now();
    let pods: Api<Pod> = cluster.api("default");
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    cluster.until::<Pod>("it is gone", |p| p.list().is_empty()).await;
    assert_eq!(began.elapsed().as_secs(), 4);
    cluster.create::<Pod>(pod).await;
    cluster.until::<Pod>("it is Ready again", |p| p.get("default", "p").is_some_and(|p| is_ready(&p))).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_stays_ready_by_its_lease_alone() {
    let mut cluster = Cluster::start().await;
    let runtime = runtime(&cluster);
    let _dir = start_kubelet(&mut cluster, "n1", &runtime);
    cluster.until::<Node>("the node is Ready", |n| n.get("", "n1").is_some_and(|n| node_is_ready(&n))).await;
    cluster.until::<Lease>("it has a lease", |l| l.get("kube-node-lease", "n1").is_some()).await;
    let version = |c: &Cluster| {
        c.informers.get::<Node>().get("", "n1").and_then(|n| n.metadata.resource_version.clone())
    };
    cluster.pass(Duration::from_secs(60)).await;
    let before = version(&cluster);
    cluster.pass(Duration::from_secs(180)).await;
    assert_eq!(version(&cluster), before, "an unchanged node is not written");
    assert!(node_is_ready(&cluster.informers.get::<Node>().get("", "n1").unwrap()));
    cluster.stop().await;
}

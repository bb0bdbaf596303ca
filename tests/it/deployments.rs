//! Deployments and ReplicaSets.
use crate::cluster::{Cluster, template};
use client::Informer;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::PropagationPolicy;
use serde_json::{Value, json};

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "template": template(name, image),
        },
    })
}

/// As `kubectl rollout status` judges.
fn rolled_out(d: &Informer<Deployment>, name: &str, replicas: i32) -> bool {
    let Some(d) = d.get("default", name) else { return false };
    let Some(s) = d.status.as_ref() else { return false };
    s.observed_generation == d.metadata.generation
        && d.spec.as_ref().and_then(|s| s.replicas) == Some(replicas)
        && s.updated_replicas.unwrap_or(0) == replicas
        && s.replicas.unwrap_or(0) == replicas
        && s.available_replicas.unwrap_or(0) == replicas
}

fn images(pods: &Informer<Pod>) -> Vec<String> {
    let live = pods.list_where(|p| p.metadata.deletion_timestamp.is_none());
    live.iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_rolls_on_and_is_undone() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Deployment>(deployment("web", 3, "img:1")).await;
    cluster.until::<Deployment>("revision 1 is out", |d| rolled_out(d, "web", 3)).await;
    cluster.until::<Pod>("three pods of it", |p| images(p) == ["img:1"; 3]).await;

    cluster.patch::<Deployment>("web", json!({ "spec": { "template": template("web", "img:2") } })).await;
    cluster.until::<Deployment>("revision 2 is out", |d| rolled_out(d, "web", 3)).await;
    cluster.until::<Pod>("only pods of it", |p| images(p) == ["img:2"; 3]).await;
    let revision = |d: &Informer<Deployment>| {
        let d = d.get("default", "web").unwrap();
        d.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone()
    };
    let deployments = cluster.informers.get::<Deployment>();
    assert_eq!(revision(&deployments), "2");

    // As `kubectl rollout undo` does: the template of an old ReplicaSet.
    let sets = cluster.informers.get::<ReplicaSet>();
    sets.synced().await;
    assert_eq!(sets.len(), 2);
    let old = sets.list().into_iter().find(|rs| rs.spec.as_ref().unwrap().replicas == Some(0)).unwrap();
    let mut back = serde_json::to_value(old.spec.as_ref().unwrap().template.as_ref().unwrap()).unwrap();
    back["metadata"]["labels"].as_object_mut().unwrap().remove("pod-template-hash");
    cluster.patch::<Deployment>("web", json!({ "spec": { "template": back } })).await;
    cluster.until::<Deployment>("it is undone", |d| rolled_out(d, "web", 3) && revision(d) == "3").await;
    cluster.until::<Pod>("old pods again", |p| images(p) == ["img:1"; 3]).await;
    assert_eq!(sets.len(), 2, "the old ReplicaSet was used again");
    cluster
        .until::<Event>("scaling was told of", |e| {
            let told = |e: &Event| e.reason.as_deref() == Some("ScalingReplicaSet");
            e.list().iter().any(|e| told(e) && e.message.as_ref().unwrap().contains("from 0 to 3"))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn scaling_up_and_down_ends_with_exactly_so_many_pods() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Deployment>(deployment("web", 1, "img")).await;
    for n in [40, 3, 0, 2] {
        cluster.patch::<Deployment>("web", json!({ "spec": { "replicas": n } })).await;
        cluster.until::<Deployment>("it is scaled", |d| rolled_out(d, "web", n)).await;
        cluster.until::<Pod>("so many pods", |p| p.len() == usize::try_from(n).unwrap()).await;
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_version_stops_at_the_surge_and_times_out() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let mut d = deployment("web", 4, "img:1");
    d["spec"]["progressDeadlineSeconds"] = json!(60);
    d["spec"]["strategy"] = json!({ "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    cluster.create::<Deployment>(d).await;
    cluster.until::<Deployment>("it is out", |d| rolled_out(d, "web", 4)).await;
    let mut broken = template("web", "img:broken");
    broken["metadata"]["annotations"] = json!({ "test/never-ready": "" });
    cluster.patch::<Deployment>("web", json!({ "spec": { "template": broken } })).await;
    cluster
        .until::<Deployment>("the deadline is passed", |d| {
            let d = d.get("default", "web").unwrap();
            let all = d.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            all.iter().any(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        })
        .await;
    let pods = cluster.informers.get::<Pod>();
    pods.synced().await;
    let mut all = images(&pods);
    all.sort();
    assert_eq!(all, ["img:1", "img:1", "img:1", "img:1", "img:broken"]);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn recreate_never_runs_two_versions_at_once() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let mut d = deployment("web", 2, "img:1");
    d["spec"]["strategy"] = json!({ "type": "Recreate" });
    cluster.create::<Deployment>(d).await;
    cluster.until::<Deployment>("it is out", |d| rolled_out(d, "web", 2)).await;
    cluster.patch::<Deployment>("web", json!({ "spec": { "template": template("web", "img:2") } })).await;
    cluster
        .until::<Pod>("the new version", |p| {
            let mut all = images(p);
            all.dedup();
            assert!(all.len() <= 1, "{all:?}");
            p.len() == 2 && all == ["img:2"]
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_adopted_and_one_that_no_longer_matches_is_let_go_and_replaced() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let mut orphan = template("web", "img");
    orphan["metadata"]["name"] = json!("orphan");
    cluster.create::<Pod>(orphan).await;
    cluster
        .create::<ReplicaSet>(json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img"),
            },
        }))
        .await;
    let owned = |p: &Pod| p.metadata.owner_references.as_ref().is_some_and(|r| r[0].kind == "ReplicaSet");
    cluster
        .until::<Pod>("two pods, the orphan one of them", |p| {
            p.len() == 2 && p.list().iter().all(|p| owned(p)) && p.get("default", "orphan").is_some()
        })
        .await;
    cluster.patch::<Pod>("orphan", json!({ "metadata": { "labels": { "app": "other" } } })).await;
    cluster
        .until::<Pod>("it is on its own and replaced", |p| {
            p.len() == 3 && p.get("default", "orphan").is_some_and(|p| !owned(&p))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn controllers_that_die_in_the_middle_of_a_rollout_finish_it_when_they_are_back() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Deployment>(deployment("web", 10, "img:1")).await;
    cluster.until::<Deployment>("it is out", |d| rolled_out(d, "web", 10)).await;
    cluster.patch::<Deployment>("web", json!({ "spec": { "template": template("web", "img:2") } })).await;
    for _ in 0..5 {
        cluster.pass(std::time::Duration::from_millis(37)).await;
        cluster.restart_controllers();
    }
    cluster.until::<Deployment>("the new version is out", |d| rolled_out(d, "web", 10)).await;
    cluster.until::<Pod>("ten new pods", |p| images(p) == ["img:2"; 10]).await;
    cluster.delete::<Deployment>("web", PropagationPolicy::Background).await;
    cluster.until::<Pod>("no pods", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_come_and_go() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.create::<Deployment>(deployment("web", 1000, "img")).await;
    cluster.until::<Deployment>("it is out", |d| rolled_out(d, "web", 1000)).await;
    assert_eq!(cluster.api::<Pod>("default").list(&Default::default()).await.unwrap().items.len(), 1000);
    cluster.delete::<Deployment>("web", PropagationPolicy::Foreground).await;
    cluster.until::<Deployment>("it is gone", |d| d.is_empty()).await;
    cluster.until::<Pod>("no pods", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_controller_managers_one_works_and_the_other_takes_over() {
    let config = |identity: &str| controllers::Config {
        leader_identity: Some(identity.to_owned()),
        ..controllers::Config::default()
    };
    let mut cluster = Cluster::with(config("first")).await;
    cluster.node("n1").await;
    cluster.create::<Deployment>(deployment("web", 2, "img:1")).await;
    cluster.until::<Deployment>("it is out", |d| rolled_out(d, "web", 2)).await;
    cluster.second_controllers(config("second"));
    cluster.pass(std::time::Duration::from_secs(60)).await;
    let holder = |l: &Informer<Lease>| {
        l.get("kube-system", "kube-controller-manager").and_then(|l| l.spec.as_ref()?.holder_identity.clone())
    };
    cluster.until::<Lease>("the first one leads", |l| holder(l).as_deref() == Some("first")).await;
    cluster.stop_controllers();
    cluster.patch::<Deployment>("web", json!({ "spec": { "replicas": 5 } })).await;
    cluster.until::<Deployment>("the other one scales it", |d| rolled_out(d, "web", 5)).await;
    cluster.until::<Lease>("and leads", |l| holder(l).as_deref() == Some("second")).await;
    cluster.stop().await;
}

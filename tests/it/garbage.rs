//! Garbage collection and pod garbage collection.
use crate::cluster::{Cluster, template};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, DeleteParams, PropagationPolicy};
use serde_json::json;

async fn with_deployment(cluster: &mut Cluster) {
    cluster.node("n1").await;
    cluster
        .create::<Deployment>(json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img"),
            },
        }))
        .await;
    cluster
        .until::<Deployment>("it is out", |d| {
            d.get("default", "web")
                .is_some_and(|d| d.status.as_ref().and_then(|s| s.available_replicas) == Some(3))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn background_deletion_takes_what_was_owned() {
    let mut cluster = Cluster::start().await;
    with_deployment(&mut cluster).await;
    cluster.delete::<Deployment>("web", PropagationPolicy::Background).await;
    cluster.until::<ReplicaSet>("no ReplicaSets", |rs| rs.is_empty()).await;
    cluster.until::<Pod>("no pods", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deleting_the_owner_in_the_foreground_waits_for_dependents() {
    let mut cluster = Cluster::start().await;
    with_deployment(&mut cluster).await;
    let (sets, pods) = (cluster.informers.get::<ReplicaSet>(), cluster.informers.get::<Pod>());
    assert!(sets.synced().await && pods.synced().await);
    cluster.delete::<Deployment>("web", PropagationPolicy::Foreground).await;
    cluster.until::<Deployment>("it is gone", |d| d.is_empty()).await;
    let left: Vec<_> = cluster.api::<Pod>("default").list(&Default::default()).await.unwrap().items;
    assert!(left.is_empty(), "{left:#?}");
    assert!(cluster.api::<ReplicaSet>("default").list(&Default::default()).await.unwrap().items.is_empty());
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn orphaned_dependents_stay_and_are_adopted_again() {
    let mut cluster = Cluster::start().await;
    with_deployment(&mut cluster).await;
    cluster.delete::<Deployment>("web", PropagationPolicy::Orphan).await;
    cluster.until::<Deployment>("it is gone", |d| d.is_empty()).await;
    cluster
        .until::<ReplicaSet>("its ReplicaSet is on its own", |rs| {
            let all = rs.list();
            all.len() == 1 && all[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
        })
        .await;
    let before: Vec<_> = cluster.informers.get::<ReplicaSet>().list();
    cluster
        .create::<Deployment>(json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img"),
            },
        }))
        .await;
    cluster
        .until::<ReplicaSet>("it has an owner again", |rs| {
            let all = rs.list();
            all.len() == 1
                && all[0].metadata.uid == before[0].metadata.uid
                && all[0].metadata.owner_references.as_ref().is_some_and(|r| r.len() == 1)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_another_uid_is_no_owner() {
    let cluster = Cluster::start().await;
    let owner = cluster.create::<ConfigMap>(json!({ "metadata": { "name": "owner" } })).await;
    let owned = |name: &str, uid: &str| {
        json!({ "metadata": { "name": name, "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid,
        }]}})
    };
    cluster.create::<ConfigMap>(owned("mine", owner.metadata.uid.as_deref().unwrap())).await;
    cluster.create::<ConfigMap>(owned("stale", "00000000-0000-4000-8000-000000000000")).await;
    cluster.until::<ConfigMap>("the stale one goes", |c| c.get("default", "stale").is_none()).await;
    assert!(cluster.api::<ConfigMap>("default").get("mine").await.is_ok());
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_deleted_node_and_pods_deleted_unscheduled_are_removed() {
    let mut cluster = Cluster::start().await;
    let node = cluster.node("n1").await;
    let mut pod = template("a", "img");
    pod["metadata"]["name"] = json!("a");
    cluster.create::<Pod>(pod.clone()).await;
    cluster
        .until::<Pod>("it runs", |p| {
            p.get("default", "a")
                .is_some_and(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"))
        })
        .await;
    node.unplug();
    Api::<Node>::all(cluster.client.clone()).delete("n1", &DeleteParams::default()).await.unwrap();
    cluster.until::<Pod>("it is gone", |p| p.is_empty()).await;
    pod["metadata"]["name"] = json!("b");
    pod["metadata"]["finalizers"] = json!(["test/hold"]);
    cluster.create::<Pod>(pod).await;
    cluster.delete::<Pod>("b", PropagationPolicy::Background).await;
    cluster.patch::<Pod>("b", json!({ "metadata": { "finalizers": null } })).await;
    cluster.until::<Pod>("it is gone too", |p| p.is_empty()).await;
    cluster.stop().await;
}

//! Node lifecycle.
use crate::cluster::{Cluster, template};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use std::time::Duration;

fn ready(node: &Node) -> String {
    let all = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    all.iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone()).unwrap_or_default()
}

fn on(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_given_up_and_its_pods_move() {
    let mut cluster = Cluster::start().await;
    let first = cluster.node("n1").await;
    let mut t = template("web", "img");
    t["spec"]["tolerations"] = json!([{
        "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30,
    }]);
    cluster
        .create::<Deployment>(json!({
            "metadata": { "name": "web" },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": t },
        }))
        .await;
    cluster
        .until::<Pod>("both run on n1", |p| p.list().iter().filter(|p| on(p) == Some("n1")).count() == 2)
        .await;
    cluster.node("n2").await;
    cluster.pass(Duration::from_secs(120)).await;
    let nodes = cluster.informers.get::<Node>();
    nodes.synced().await;
    assert!(nodes.list().iter().all(|n| ready(n) == "True"), "nodes that renew stay ready");

    first.unplug();
    let unplugged = cluster.ambient.now();
    cluster
        .until::<Node>("n1 is given up", |n| n.get("", "n1").is_some_and(|n| ready(&n) == "Unknown"))
        .await;
    let silence = cluster.ambient.now().duration_since(unplugged).as_secs();
    assert!((29..=41).contains(&silence), "given up after {silence} s");
    cluster
        .until::<Node>("it is tainted", |n| {
            let taints = n
                .get("", "n1")
                .and_then(|n| n.spec.as_ref().and_then(|s| s.taints.clone()))
                .unwrap_or_default();
            taints.iter().filter(|t| t.key == "node.kubernetes.io/unreachable").count() == 2
        })
        .await;
    cluster
        .until::<Pod>("its pods are not ready", |p| {
            let ready = |p: &Pod| {
                let all = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
                all.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            };
            p.list().iter().filter(|p| on(p) == Some("n1")).all(|p| !ready(p))
        })
        .await;
    cluster
        .until::<Pod>("they are evicted and others run on n2", |p| {
            let all = p.list();
            let gone =
                all.iter().filter(|p| on(p) == Some("n1")).all(|p| p.metadata.deletion_timestamp.is_some());
            gone && all.iter().filter(|p| on(p) == Some("n2")).count() == 2
        })
        .await;
    let moved = cluster.ambient.now().duration_since(unplugged).as_secs();
    assert!((59..=75).contains(&moved), "moved after {moved} s");
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_the_only_node_falls_silent_its_pods_are_not_evicted() {
    let mut cluster = Cluster::start().await;
    let only = cluster.node("n1").await;
    let mut pod = template("a", "img");
    pod["metadata"]["name"] = json!("a");
    cluster.create::<Pod>(pod).await;
    cluster.until::<Pod>("it runs", |p| p.get("default", "a").is_some_and(|p| on(&p) == Some("n1"))).await;
    only.unplug();
    cluster
        .until::<Node>("n1 is given up", |n| n.get("", "n1").is_some_and(|n| ready(&n) == "Unknown"))
        .await;
    cluster.pass(Duration::from_secs(1200)).await;
    let pod = cluster.api::<Pod>("default").get("a").await.unwrap();
    assert_eq!(pod.metadata.deletion_timestamp, None);
    cluster.stop().await;
}

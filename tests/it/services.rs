//! EndpointSlices and Endpoints.
use crate::cluster::{Cluster, template};
use client::Informer;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PropagationPolicy;
use serde_json::json;

fn ready_addresses(slices: &Informer<EndpointSlice>, service: &str) -> Vec<String> {
    let own = slices.list_where(|s| {
        s.metadata
            .labels
            .as_ref()
            .and_then(|l| l.get("kubernetes.io/service-name"))
            .is_some_and(|n| n == service)
    });
    let ready = own
        .iter()
        .flat_map(|s| s.endpoints.clone().unwrap_or_default())
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    let mut all: Vec<String> = ready.flat_map(|e| e.addresses).collect();
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn a_service_has_the_addresses_of_its_ready_pods() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster
        .create::<Service>(json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }))
        .await;
    cluster
        .create::<Deployment>(json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 120, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img"),
            },
        }))
        .await;
    cluster.until::<EndpointSlice>("all of them", |s| ready_addresses(s, "web").len() == 120).await;
    let slices = cluster.informers.get::<EndpointSlice>();
    let own = slices.list_where(|s| s.metadata.name.as_deref().is_some_and(|n| n.starts_with("web-")));
    assert!(own.iter().all(|s| s.endpoints.as_ref().unwrap().len() <= 100));
    cluster.patch::<Deployment>("web", json!({ "spec": { "replicas": 2 } })).await;
    cluster.until::<EndpointSlice>("two of them", |s| ready_addresses(s, "web").len() == 2).await;
    let pods = cluster.informers.get::<Pod>();
    pods.synced().await;
    cluster
        .until::<Endpoints>("the older object says the same", |e| {
            let Some(e) = e.get("default", "web") else { return false };
            let mut all: Vec<String> = e
                .subsets
                .iter()
                .flatten()
                .flat_map(|s| s.addresses.clone().unwrap_or_default())
                .map(|a| a.ip)
                .collect();
            all.sort();
            all == ready_addresses(&slices, "web")
        })
        .await;
    cluster.delete::<Service>("web", PropagationPolicy::Background).await;
    cluster.until::<EndpointSlice>("slices go with it", |s| ready_addresses(s, "web").is_empty()).await;
    cluster.until::<Endpoints>("and the older object", |e| e.get("default", "web").is_none()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changes_its_label_leaves_the_service() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster
        .create::<Service>(json!({
            "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        }))
        .await;
    let mut pod = template("web", "img");
    pod["metadata"]["name"] = json!("a");
    cluster.create::<Pod>(pod).await;
    cluster.until::<EndpointSlice>("it is in", |s| ready_addresses(s, "web").len() == 1).await;
    cluster.patch::<Pod>("a", json!({ "metadata": { "labels": { "app": "other" } } })).await;
    cluster.until::<EndpointSlice>("it is out", |s| ready_addresses(s, "web").is_empty()).await;
    cluster.stop().await;
}

//! Functions.
use crate::cluster::Cluster;
use client::dhow::v1alpha1::Function;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::PropagationPolicy;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_function_is_deployed_updated_and_removed() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster
        .create::<Function>(
            json!({ "metadata": { "name": "hello" }, "spec": { "image": "hello:1", "replicas": 2 } }),
        )
        .await;
    let ready = |f: &client::Informer<Function>, generation: i64| {
        f.get("default", "hello").and_then(|f| f.status.clone()).is_some_and(|s| {
            s.observed_generation >= Some(generation)
                && s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        })
    };
    cluster.until::<Function>("it is ready", |f| ready(f, 1)).await;
    let f = cluster.informers.get::<Function>().get("default", "hello").unwrap();
    let status = f.status.as_ref().unwrap();
    assert_eq!((status.url.as_deref(), status.ready_replicas), (Some("http://hello.localhost:8080"), 2));
    let service = cluster.api::<Service>("default").get("hello").await.unwrap();
    assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, 8080);

    cluster.patch::<Function>("hello", json!({ "spec": { "image": "hello:2", "port": 9000 } })).await;
    cluster.until::<Function>("the new version is ready", |f| ready(f, 2)).await;
    cluster
        .until::<Pod>("only its pods run", |p| {
            let live = p.list_where(|p| p.metadata.deletion_timestamp.is_none());
            live.len() == 2
                && live
                    .iter()
                    .all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("hello:2"))
        })
        .await;
    assert_eq!(
        cluster.api::<Service>("default").get("hello").await.unwrap().spec.unwrap().ports.unwrap()[0].port,
        9000
    );

    cluster.delete::<Function>("hello", PropagationPolicy::Background).await;
    cluster.until::<Deployment>("its Deployment goes", |d| d.is_empty()).await;
    cluster.until::<Service>("its Service goes", |s| s.get("default", "hello").is_none()).await;
    cluster.until::<Pod>("its pods go", |p| p.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_writes_nothing_but_leases() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster
        .create::<Function>(json!({ "metadata": { "name": "hello" }, "spec": { "image": "hello:1" } }))
        .await;
    cluster
        .until::<Function>("it is ready", |f| {
            f.get("default", "hello").and_then(|f| f.status.clone()).is_some_and(|s| s.ready_replicas == 1)
        })
        .await;
    cluster.pass(std::time::Duration::from_secs(60)).await;
    let versions = async |cluster: &Cluster| {
        let f = cluster.api::<Function>("default").get("hello").await.unwrap();
        let d = cluster.api::<Deployment>("default").get("hello").await.unwrap();
        let s = cluster.api::<Service>("default").get("hello").await.unwrap();
        let p = cluster.api::<Pod>("default").list(&Default::default()).await.unwrap();
        let pods: Vec<_> = p.items.into_iter().map(|p| p.metadata.resource_version).collect();
        (f.metadata.resource_version, d.metadata.resource_version, s.metadata.resource_version, pods)
    };
    let before = versions(&cluster).await;
    cluster.pass(std::time::Duration::from_secs(3600)).await;
    assert_eq!(versions(&cluster).await, before);
    cluster.stop().await;
}

//! Namespaces: what they get, and how they go.
use crate::cluster::{Cluster, template};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

async fn namespace(cluster: &Cluster, name: &str) -> Api<Namespace> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let ns = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    api.create(&PostParams::default(), &ns).await.unwrap();
    api
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_a_default_account_and_the_root_certificate() {
    let cluster = Cluster::start().await;
    namespace(&cluster, "shop").await;
    for ns in ["default", "kube-system", "shop"] {
        cluster.until::<ServiceAccount>("the account", |s| s.get(ns, "default").is_some()).await;
        cluster
            .until::<ConfigMap>("the certificate", |c| {
                c.get(ns, "kube-root-ca.crt").is_some_and(|c| c.data.as_ref().unwrap()["ca.crt"] == "PEM")
            })
            .await;
    }
    cluster.api::<ServiceAccount>("shop").delete("default", &DeleteParams::default()).await.unwrap();
    let before = cluster.ambient.now();
    cluster
        .until::<ServiceAccount>("a new account", |s| {
            s.get("shop", "default")
                .is_some_and(|s| s.metadata.creation_timestamp.as_ref().unwrap().0 <= before)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_takes_everything_in_it_along() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let api = namespace(&cluster, "shop").await;
    cluster
        .create::<Deployment>(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img"),
            },
        }))
        .await;
    cluster.create::<Secret>(json!({ "metadata": { "name": "s", "namespace": "shop" } })).await;
    cluster.until::<Pod>("it runs", |p| p.list_in("shop").len() == 2).await;
    api.delete("shop", &DeleteParams::default()).await.unwrap();
    cluster.until::<Namespace>("it is gone", |n| n.get("", "shop").is_none()).await;
    for left in [
        cluster.api::<Pod>("shop").list(&Default::default()).await.unwrap().items.len(),
        cluster.api::<Secret>("shop").list(&Default::default()).await.unwrap().items.len(),
        cluster.api::<ConfigMap>("shop").list(&Default::default()).await.unwrap().items.len(),
        cluster.api::<Deployment>("shop").list(&Default::default()).await.unwrap().items.len(),
    ] {
        assert_eq!(left, 0);
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_waits_for_what_a_finalizer_holds_and_says_so() {
    let cluster = Cluster::start().await;
    let api = namespace(&cluster, "shop").await;
    cluster
        .create::<Secret>(
            json!({ "metadata": { "name": "s", "namespace": "shop", "finalizers": ["test/hold"] } }),
        )
        .await;
    api.delete("shop", &DeleteParams::default()).await.unwrap();
    cluster
        .until::<Namespace>("it tells what holds it", |n| {
            let Some(ns) = n.get("", "shop") else { panic!("it went too early") };
            let all = ns.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            all.iter().any(|c| {
                c.type_ == "NamespaceFinalizersRemaining" && c.message.as_ref().unwrap().contains("test/hold")
            })
        })
        .await;
    let free = json!({ "metadata": { "finalizers": null } });
    cluster.api::<Secret>("shop").patch("s", &PatchParams::default(), &Patch::Merge(&free)).await.unwrap();
    cluster.until::<Namespace>("it is gone", |n| n.get("", "shop").is_none()).await;
    cluster.stop().await;
}

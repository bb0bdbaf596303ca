//! Functions.
use crate::cluster::Cluster;
use client::dhow::v1alpha1::{Function, Revision};
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
        let d = cluster.api::<Deployment>("default").get("hello-r1").await.unwrap();
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

fn served(functions: &client::Informer<Function>) -> String {
    let status = functions.get("default", "hello").and_then(|f| f.status.clone()).unwrap_or_default();
    status.traffic.iter().map(|t| format!("{}={}", t.revision, t.percent)).collect::<Vec<_>>().join(" ")
}

/// A cluster with the function `hello`, whose first revision serves.
async fn with_function() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster
        .create::<Function>(json!({ "metadata": { "name": "hello" }, "spec": { "image": "hello:1" } }))
        .await;
    cluster.until::<Function>("the first revision serves", |f| served(f) == "hello-r1=100").await;
    cluster
}

fn replicas(deployments: &client::Informer<Deployment>, name: &str) -> Option<i32> {
    deployments.get("default", name)?.spec.as_ref()?.replicas
}

#[tokio::test(start_paused = true)]
async fn traffic_is_split_and_goes_back_to_a_revision_that_slept() {
    let cluster = with_function().await;
    cluster.patch::<Function>("hello", json!({ "spec": { "image": "hello:2" } })).await;
    cluster.until::<Function>("the second serves", |f| served(f) == "hello-r2=100").await;
    cluster.until::<Deployment>("the first sleeps", |d| replicas(d, "hello-r1") == Some(0)).await;
    let split = json!([{ "revision": "hello-r1", "percent": 90 }, { "revision": "hello-r2", "percent": 10 }]);
    cluster.patch::<Function>("hello", json!({ "spec": { "traffic": split } })).await;
    cluster.until::<Function>("both serve", |f| served(f) == "hello-r1=90 hello-r2=10").await;
    cluster
        .patch::<Function>(
            "hello",
            json!({ "spec": { "traffic": [{ "revision": "hello-r1", "percent": 100 }] } }),
        )
        .await;
    cluster.until::<Function>("the first serves again", |f| served(f) == "hello-r1=100").await;
    let service = cluster.api::<Service>("default").get("hello").await.unwrap();
    assert_eq!(service.spec.unwrap().selector.unwrap()["dhow.dev/revision"], "hello-r1");
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_never_gets_ready_moves_no_traffic() {
    let cluster = with_function().await;
    // More than the node has.
    let patch = json!({ "spec": { "resources": { "requests": { "cpu": "1000" } } } });
    cluster.patch::<Function>("hello", patch).await;
    cluster
        .until::<Function>("it says why", |f| {
            f.get("default", "hello").and_then(|f| f.status.clone()).is_some_and(|s| {
                s.conditions[0].status == "False"
                    && s.conditions[0].message.contains("hello-r2 does not get ready: no node takes its pods")
            })
        })
        .await;
    cluster.pass(std::time::Duration::from_secs(1200)).await;
    let functions = cluster.informers.get::<Function>();
    assert_eq!(served(&functions), "hello-r1=100");
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_cannot_be_changed_and_its_number_is_not_given_again() {
    let cluster = with_function().await;
    let api = cluster.api::<Revision>("default");
    let params = kube::api::PatchParams::default();
    let refused = api
        .patch("hello-r1", &params, &kube::api::Patch::Merge(json!({ "spec": { "image": "other" } })))
        .await;
    assert!(refused.unwrap_err().to_string().contains("field is immutable"));
    cluster.delete::<Revision>("hello-r1", PropagationPolicy::Background).await;
    cluster.until::<Function>("another one serves", |f| served(f) == "hello-r2=100").await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn controllers_that_start_anew_make_no_second_revision() {
    let mut cluster = with_function().await;
    for n in 2..6 {
        cluster.patch::<Function>("hello", json!({ "spec": { "image": format!("hello:{n}") } })).await;
        cluster.restart_controllers();
        cluster.until::<Function>("it serves", |f| served(f) == format!("hello-r{n}=100")).await;
    }
    let revisions = cluster.api::<Revision>("default").list(&Default::default()).await.unwrap().items;
    assert_eq!(revisions.len(), 5);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cron_trigger_calls_at_its_times_and_tells_what_became_of_it() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    // Nothing runs, so nothing is called over the network: what is looked at is when, and what is said of it.
    let cron = json!({ "schedule": "*/5 * * * *" });
    cluster
        .create::<Function>(json!({ "metadata": { "name": "hello" },
            "spec": { "image": "hello:1", "replicas": 0, "triggers": [{ "cron": cron }] } }))
        .await;
    let told = |f: &client::Informer<Function>, last: &str| {
        let status = f.get("default", "hello").and_then(|f| f.status.clone()).unwrap_or_default();
        status.triggers.iter().any(|t| {
            t.name == "trigger-0"
                && t.last_schedule_time.as_ref().is_some_and(|t| t.0.to_string() == last)
                && t.last_result.as_deref() == Some("no pod of the function is ready")
                && t.last_successful_time.is_none()
        })
    };
    cluster.until::<Function>("the first call", |f| told(f, "2026-01-01T00:05:00Z")).await;
    cluster.until::<Function>("the second call", |f| told(f, "2026-01-01T00:10:00Z")).await;
    // What is missed while nobody looks is made up for once.
    cluster.stop_controllers();
    cluster.pass(std::time::Duration::from_secs(3600)).await;
    cluster.restart_controllers();
    cluster.until::<Function>("the last missed call", |f| told(f, "2026-01-01T01:10:00Z")).await;
    cluster.stop().await;
}

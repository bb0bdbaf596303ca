use crate::cluster::*;
use serde_json::{Value, json};

fn service(name: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"app": name}, "ports": [{"port": 80}]},
    })
}

#[tokio::test(start_paused = true)]
async fn every_service_gets_an_address_of_the_range_for_itself() {
    let c = std::sync::Arc::new(Cluster::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..40 {
        let c = c.clone();
        tasks.spawn(async move {
            let made = c.post(SERVICES, service(&format!("s{i}"), "NodePort")).await.expect(201);
            (made["spec"]["clusterIP"].to_string(), made["spec"]["ports"][0]["nodePort"].as_u64().unwrap())
        });
    }
    let got = tasks.join_all().await;
    let addresses: std::collections::BTreeSet<_> = got.iter().map(|g| &g.0).collect();
    let ports: std::collections::BTreeSet<_> = got.iter().map(|g| g.1).collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));
    assert!(addresses.iter().all(|a| a.starts_with("\"127.96.")), "{addresses:?}");
    assert!(ports.iter().all(|p| (30_000..=32_767).contains(p)), "{ports:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_is_kept_refused_twice_and_free_again_after_the_delete() {
    let c = Cluster::new().await;
    let made = c.post(SERVICES, service("a", "ClusterIP")).await.expect(201);
    let address = made["spec"]["clusterIP"].clone();
    let again = c.put(&format!("{SERVICES}/a"), service("a", "ClusterIP")).await.expect(200);
    assert_eq!(again["spec"]["clusterIP"], address);
    let mut other = service("b", "ClusterIP");
    other["spec"]["clusterIP"] = address;
    let refused = c.post(SERVICES, other.clone()).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("provided IP is already allocated"), "{}", refused.message());
    c.delete(&format!("{SERVICES}/a"), json!(null)).await.expect(200);
    c.post(SERVICES, other).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn the_kubernetes_service_has_the_first_address_and_points_here() {
    let c = Cluster::new().await;
    assert_eq!(c.get(&format!("{SERVICES}/kubernetes")).await.expect(200)["spec"]["clusterIP"], "127.96.0.1");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = c.get(slice).await.expect(200);
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(slice["ports"][0]["port"], 6443);
    let before = c.store.head().await.unwrap();
    c.server.ensure_bootstrap().await.unwrap();
    assert_eq!(c.store.head().await.unwrap(), before, "a second bootstrap writes nothing");
}

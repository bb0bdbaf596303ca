use crate::cluster::*;
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Committed, Error, Expect, Intercept, Intercepted, Op, Store};
use tokio::sync::Semaphore;

/// A store that takes commits of Services at once and carries them out later, as a queue does: also when nobody
/// waits for the answer any more.
struct Queue {
    store: Arc<dyn Store>,
    taken: Semaphore,
    carried_out: Arc<Semaphore>,
}

#[async_trait::async_trait]
impl Intercept for Queue {
    async fn commit(&self, _: &dyn Store, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        let (store, key, go) = (self.store.clone(), key.to_owned(), self.carried_out.clone());
        let slow = key.contains("/services/default/slow");
        let task = tokio::spawn(async move {
            if slow {
                let _ = go.acquire().await;
            }
            store.commit(&key, expect, op).await
        });
        if slow {
            self.taken.add_permits(1);
        }
        task.await.unwrap()
    }
}

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

#[tokio::test(start_paused = true)]
async fn an_address_stays_taken_while_the_service_of_a_client_that_left_is_on_its_way() {
    let carried_out = Arc::new(Semaphore::new(0));
    let store = memory();
    let queue = Queue { store: store.clone(), taken: Semaphore::new(0), carried_out: carried_out.clone() };
    let store = Arc::new(Intercepted::new(store, queue));
    let c = Arc::new(Cluster::over(store.clone()).await);
    let wanting = |name: &str| {
        let mut wanted = service(name, "ClusterIP");
        wanted["spec"]["clusterIP"] = json!("127.96.0.77");
        wanted
    };
    let (one, wanted) = (c.clone(), wanting("slow"));
    let first = tokio::spawn(async move { one.post(SERVICES, wanted).await });
    let _ = store.by().taken.acquire().await.unwrap();
    first.abort();
    assert!(first.await.is_err());
    let (two, wanted) = (c.clone(), wanting("b"));
    let second = tokio::spawn(async move { two.post(SERVICES, wanted).await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    carried_out.add_permits(1);
    let refused = second.await.unwrap();
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().contains("provided IP is already allocated"), "{}", refused.message());
    c.get(&format!("{SERVICES}/slow")).await.expect(200);
}

use crate::cluster::*;
use serde_json::{Value, json};

async fn path_of_new(c: &Cluster, finalizers: Value) -> (String, Value) {
    let mut object = config_map("a", json!({}));
    object["metadata"]["finalizers"] = finalizers;
    (format!("{CONFIG_MAPS}/a"), c.post(CONFIG_MAPS, object).await.expect(201))
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_the_last_one_is_gone() {
    let c = Cluster::new().await;
    let (path, made) = path_of_new(&c, json!(["example.com/hold"])).await;
    let mut watch = c
        .watch(&format!(
            "{CONFIG_MAPS}?watch=1&resourceVersion={}",
            made["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    let going = c.delete(&path, json!(null)).await.expect(200);
    assert_eq!(going["kind"], "ConfigMap");
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = c.delete(&path, json!(null)).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], going["metadata"]["resourceVersion"]);
    let released = c.patch(&path, "merge-patch", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200);
    c.get(&path).await.expect(404);
    assert_eq!(watch.shown().await, "MODIFIED a");
    assert_eq!(watch.shown().await, "DELETED a");
}

#[tokio::test(start_paused = true)]
async fn the_propagation_policy_becomes_a_finalizer() {
    let c = Cluster::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let name = policy.to_lowercase();
        c.post(DEPLOYMENTS, deployment(&name)).await.expect(201);
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        let going = c.delete(&format!("{DEPLOYMENTS}/{name}"), options).await.expect(200);
        assert_eq!(going["metadata"]["finalizers"], json!([finalizer]));
    }
    c.post(DEPLOYMENTS, deployment("background")).await.expect(201);
    let gone = c
        .ask(http::Request::delete(format!("{DEPLOYMENTS}/background?propagationPolicy=Background")), "")
        .await;
    assert_eq!(gone.expect(200)["status"], "Success");
    let wrong = c.delete(&format!("{DEPLOYMENTS}/x"), json!({"propagationPolicy": "Sideways"})).await;
    assert_eq!(wrong.code, 422);
}

#[tokio::test(start_paused = true)]
async fn preconditions_must_hold() {
    let c = Cluster::new().await;
    let (path, made) = path_of_new(&c, json!([])).await;
    let with = |preconditions: Value| c.delete(&path, json!({"preconditions": preconditions}));
    let wrong = with(json!({"uid": "another"})).await;
    assert_eq!(wrong.code, 409);
    assert!(wrong.message().contains("does not match the UID in record"), "{}", wrong.message());
    assert_eq!(with(json!({"resourceVersion": "1"})).await.code, 409);
    let right =
        json!({"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]});
    assert_eq!(with(right).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_pod_goes_gracefully_and_at_once_when_its_node_says_so() {
    let c = Cluster::new().await;
    let mut object = pod("p");
    object["spec"]["nodeName"] = json!("n");
    c.post(PODS, object).await.expect(201);
    let path = format!("{PODS}/p");
    let going = c.delete(&path, json!(null)).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(going["metadata"]["deletionTimestamp"], "2027-01-15T08:00:30Z");
    let sooner = c.delete(&path, json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(sooner["metadata"]["deletionTimestamp"], "2027-01-15T08:00:05Z");
    let later = c.delete(&path, json!({"gracePeriodSeconds": 50})).await.expect(200);
    assert_eq!(later["metadata"]["deletionGracePeriodSeconds"], 5, "a deletion is never put off");
    let gone = c.delete(&path, json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(gone["kind"], "Pod");
    c.get(&path).await.expect(404);
}

#[tokio::test(start_paused = true)]
async fn an_unscheduled_pod_goes_at_once() {
    let c = Cluster::new().await;
    c.post(PODS, pod("p")).await.expect(201);
    c.delete(&format!("{PODS}/p"), json!(null)).await.expect(200);
    c.get(&format!("{PODS}/p")).await.expect(404);
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_as_its_selector_says() {
    let c = Cluster::new().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("d", "x")] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"l": label});
        c.post(CONFIG_MAPS, object).await.expect(201);
    }
    let deleted = c.delete(&format!("{CONFIG_MAPS}?labelSelector=l%3Dx"), json!(null)).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = c.get(CONFIG_MAPS).await.expect(200);
    let names: Vec<_> =
        left["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_waits_for_finalize_and_takes_nothing_new_meanwhile() {
    let c = Cluster::new().await;
    let made = c
        .post(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
        )
        .await
        .expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let going = c.delete("/api/v1/namespaces/n", json!(null)).await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    assert_eq!(c.delete("/api/v1/namespaces/n", json!(null)).await.code, 409);

    let refused = c.post("/api/v1/namespaces/n/configmaps", config_map("a", json!({}))).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("because it is being terminated"), "{}", refused.message());
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");

    let mut done = going;
    done["spec"]["finalizers"] = json!([]);
    c.put("/api/v1/namespaces/n/finalize", done).await.expect(200);
    c.get("/api/v1/namespaces/n").await.expect(404);
}

#[tokio::test(start_paused = true)]
async fn the_namespaces_every_cluster_has_cannot_be_deleted() {
    let c = Cluster::new().await;
    let refused = c.delete("/api/v1/namespaces/default", json!(null)).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("this namespace may not be deleted"));
}

/// Every commit takes ten milliseconds.
struct Slow;

#[async_trait::async_trait]
impl store::Intercept for Slow {
    async fn commit(
        &self,
        inner: &dyn store::Store,
        key: &str,
        expect: store::Expect,
        op: store::Op,
    ) -> Result<store::Committed, store::Error> {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        inner.commit(key, expect, op).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_many_at_a_time() {
    let c = Cluster::over(std::sync::Arc::new(store::Intercepted::new(memory(), Slow))).await;
    for i in 0..100 {
        c.post(CONFIG_MAPS, config_map(&format!("c{i}"), json!({}))).await.expect(201);
    }
    let begin = tokio::time::Instant::now();
    let deleted = c.delete(CONFIG_MAPS, json!(null)).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 100);
    assert!(begin.elapsed().as_millis() <= 30, "{:?}", begin.elapsed());
}

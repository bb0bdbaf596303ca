use crate::cluster::*;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn what_is_created_can_be_read_changed_and_deleted() {
    let c = Cluster::new().await;
    let made = c.post(CONFIG_MAPS, config_map("a", json!({"k": "v"}))).await.expect(201);
    assert_eq!(made["metadata"]["creationTimestamp"], "2027-01-15T08:00:00Z");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string());
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(c.get(&path).await.expect(200), made);

    let mut changed = made.clone();
    changed["data"]["k"] = json!("w");
    let changed = c.put(&path, changed).await.expect(200);
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(c.get(&path).await.expect(200)["data"]["k"], "w");

    let status = c.delete(&path, json!(null)).await.expect(200);
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["name"], "a");
    assert_eq!(c.get(&path).await.expect(404)["message"], "configmaps \"a\" not found");
}

#[tokio::test(start_paused = true)]
async fn a_stale_resource_version_is_a_conflict_and_none_is_not() {
    let c = Cluster::new().await;
    let path = format!("{CONFIG_MAPS}/a");
    let first = c.post(CONFIG_MAPS, config_map("a", json!({"k": "1"}))).await.expect(201);
    c.put(&path, config_map("a", json!({"k": "2"}))).await.expect(200);
    let stale = c.put(&path, first).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_changes_nothing_keeps_the_version() {
    let c = Cluster::new().await;
    let made = c.post(CONFIG_MAPS, config_map("a", json!({"k": "1"}))).await.expect(201);
    let same = c.put(&format!("{CONFIG_MAPS}/a"), config_map("a", json!({"k": "1"}))).await.expect(200);
    assert_eq!(made, same);
    let patched = c.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {"k": "1"}})).await;
    assert_eq!(patched.expect(200), made);
}

#[tokio::test(start_paused = true)]
async fn generated_names_are_different_and_taken_names_are_refused() {
    let c = Cluster::new().await;
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let one = c.post(CONFIG_MAPS, generated.clone()).await.expect(201);
    let two = c.post(CONFIG_MAPS, generated).await.expect(201);
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    assert!(one["metadata"]["name"].as_str().unwrap().starts_with("x-"));
    c.post(CONFIG_MAPS, config_map("a", json!({}))).await.expect(201);
    let taken = c.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!((taken.code, taken.message().as_str()), (409, "configmaps \"a\" already exists"));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_answers_as_if_and_stores_nothing() {
    let c = Cluster::new().await;
    let before = c.store.head().await.unwrap();
    let made = c.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("a", json!({}))).await.expect(201);
    assert!(made["metadata"]["uid"].is_string());
    assert_eq!(c.store.head().await.unwrap(), before);
    assert_eq!(c.post(&format!("{CONFIG_MAPS}?dryRun=Some"), config_map("a", json!({}))).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn generation_rises_with_the_spec_only() {
    let c = Cluster::new().await;
    let made = c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/d");
    let patch = |body| c.patch(&path, "merge-patch", body);
    assert_eq!(
        patch(json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200)["metadata"]["generation"],
        1
    );
    assert_eq!(patch(json!({"spec": {"replicas": 3}})).await.expect(200)["metadata"]["generation"], 2);
    let both = json!({"status": {"replicas": 3}, "spec": {"replicas": 9}});
    let status = c.patch(&format!("{path}/status"), "merge-patch", both).await.expect(200);
    assert_eq!(status["metadata"]["generation"], 2);
    assert_eq!(status["status"]["replicas"], 3);
    assert_eq!(status["spec"]["replicas"], 3);
    let main = patch(json!({"status": {"replicas": 7}})).await.expect(200);
    assert_eq!(main["status"]["replicas"], 3, "status does not change through the object itself");
}

#[tokio::test(start_paused = true)]
async fn a_put_to_a_missing_lease_creates_it_and_to_a_missing_config_map_does_not() {
    let c = Cluster::new().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    assert_eq!(c.put(leases, lease).await.expect(201)["spec"]["holderIdentity"], "me");
    c.put(&format!("{CONFIG_MAPS}/a"), config_map("a", json!({}))).await.expect(404);
}

#[tokio::test(start_paused = true)]
async fn yaml_goes_in_and_out() {
    let c = Cluster::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  k: \"1\"\n";
    let request = http::Request::post(CONFIG_MAPS).header("content-type", "application/yaml");
    let made = c.ask(request.header("accept", "application/yaml"), yaml).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert!(made.text.contains("kind: ConfigMap") && made.headers["content-type"] == "application/yaml");
    assert_eq!(c.get(&format!("{CONFIG_MAPS}/y")).await.json()["data"]["k"], "1");
    let bad = c
        .ask(http::Request::post(CONFIG_MAPS).header("content-type", "application/yaml"), "kind: A\n  b: [\n")
        .await;
    assert_eq!(bad.code, 400);
    assert!(bad.message().contains("line 2"), "{}", bad.message());
}

#[tokio::test(start_paused = true)]
async fn many_writers_of_one_object_lose_nothing() {
    let c = std::sync::Arc::new(Cluster::new().await);
    c.post(CONFIG_MAPS, config_map("a", json!({}))).await.expect(201);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..20 {
        let c = c.clone();
        tasks.spawn(async move {
            let key = format!("k{i}");
            c.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {key: "x"}})).await.code
        });
    }
    assert!(tasks.join_all().await.into_iter().all(|code| code == 200));
    let data = c.get(&format!("{CONFIG_MAPS}/a")).await.json();
    assert_eq!(data["data"].as_object().unwrap().len(), 20);
}

use crate::cluster::*;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_strategic_patch_merges_containers_by_name_and_a_merge_patch_replaces_the_list() {
    let c = Cluster::new().await;
    c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let add = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "i:2"}]}}}});
    let strategic = c.patch(&path, "strategic-merge-patch", add.clone()).await.expect(200);
    assert_eq!(strategic["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    let merged = c.patch(&path, "merge-patch", add).await.expect(200);
    assert_eq!(merged["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let operations = json!([{"op": "replace", "path": "/spec/replicas", "value": 7}]);
    assert_eq!(c.patch(&path, "json-patch", operations).await.expect(200)["spec"]["replicas"], 7);
}

#[tokio::test(start_paused = true)]
async fn patches_that_cannot_be_applied_say_why() {
    let c = Cluster::new().await;
    c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 99}]);
    assert_eq!(c.patch(&path, "json-patch", test).await.code, 422);
    assert_eq!(c.patch(&path, "json-patch", json!({"op": "add"})).await.code, 400);
    assert_eq!(c.patch(&path, "merge-patch", json!([1])).await.code, 400);
    let apply =
        c.ask(http::Request::patch(&path).header("content-type", "application/apply-patch+yaml"), "{}").await;
    assert_eq!(apply.code, 415);
    assert!(apply.message().contains("application/strategic-merge-patch+json"), "{}", apply.message());
    assert_eq!(c.patch(&format!("{DEPLOYMENTS}/none"), "merge-patch", json!({})).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_leaves_no_object_is_refused() {
    let c = Cluster::new().await;
    c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    for value in [json!(null), json!(true), json!(7), json!("text"), json!([1])] {
        let whole = json!([{"op": "replace", "path": "", "value": value}]);
        for path in
            [format!("{DEPLOYMENTS}/d"), format!("{DEPLOYMENTS}/d/status"), format!("{DEPLOYMENTS}/d/scale")]
        {
            let answer = c.patch(&path, "json-patch", whole.clone()).await;
            assert_eq!(answer.code, 400, "{path} {value}: {}", answer.message());
            assert!(answer.message().contains("must be an object, not "), "{}", answer.message());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_patch_may_not_touch_stays_or_is_refused() {
    let c = Cluster::new().await;
    let made = c.post(CONFIG_MAPS, config_map("a", json!({}))).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let system = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z", "generation": 9}});
    assert_eq!(c.patch(&path, "merge-patch", system).await.expect(200), made);
    let renamed = c.patch(&path, "merge-patch", json!({"metadata": {"name": "b"}})).await;
    assert_eq!(
        (renamed.code, renamed.message().as_str()),
        (400, "the name of the object (b) does not match the name on the URL (a)")
    );
    assert_eq!(c.patch(&path, "merge-patch", json!({"metadata": {"uid": "x"}})).await.code, 409);
    assert_eq!(c.patch(&path, "merge-patch", json!({"metadata": {"resourceVersion": "1"}})).await.code, 409);
    assert_eq!(c.patch(&path, "merge-patch", json!({"kind": "Secret"})).await.code, 400);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_field_in_a_patch_is_refused_warned_of_or_ignored() {
    let c = Cluster::new().await;
    c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let patch = json!({"spec": {"replicsa": 3}});
    let with = async |validation: &str| {
        c.patch(&format!("{DEPLOYMENTS}/d?fieldValidation={validation}"), "merge-patch", patch.clone()).await
    };
    let strict = with("Strict").await;
    assert_eq!(strict.code, 422);
    assert!(
        strict.message().ends_with("strict decoding error: unknown field \"spec.replicsa\""),
        "{}",
        strict.message()
    );
    let warned = with("Warn").await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.replicsa\\\"\"");
    let ignored = with("Ignore").await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (200, None));
    assert_eq!(ignored.json()["spec"].get("replicsa"), None);
}

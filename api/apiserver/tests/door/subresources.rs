use crate::cluster::*;
use apiserver::UserInfo;
use http::Request;
use http_body_util::Full;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn scale_shows_and_sets_replicas() {
    let c = Cluster::new().await;
    c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = c.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=d")));
    assert_eq!(
        c.patch(&path, "merge-patch", json!({"spec": {"replicas": 5}})).await.expect(200)["spec"]["replicas"],
        5
    );
    let table = c.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["d", 5, 0, "0s"]));
    let stale = c.put(&path, scale.clone()).await;
    assert_eq!(stale.code, 409);
    let mut unconditional = scale;
    unconditional["metadata"]["resourceVersion"] = json!("");
    unconditional["spec"]["replicas"] = json!(1);
    c.put(&path, unconditional).await.expect(200);
    assert_eq!(c.get(&format!("{DEPLOYMENTS}/d")).await.json()["spec"]["replicas"], 1);
    assert_eq!(c.patch(&path, "merge-patch", json!({"spec": {"replicas": -1}})).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once() {
    let c = Cluster::new().await;
    c.post(PODS, pod("p")).await.expect(201);
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let path = format!("{PODS}/p/binding");
    assert_eq!(c.post(&path, binding("n1")).await.expect(201)["status"], "Success");
    let bound = c.get(&format!("{PODS}/p")).await.json();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "True"));
    let again = c.post(&path, binding("n2")).await;
    assert_eq!(again.code, 409);
    assert!(again.message().contains("is already assigned to node \"n1\""), "{}", again.message());
}

#[tokio::test(start_paused = true)]
async fn an_eviction_deletes_gracefully() {
    let c = Cluster::new().await;
    let mut object = pod("p");
    object["spec"]["nodeName"] = json!("n");
    c.post(PODS, object).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    c.post(&format!("{PODS}/p/eviction"), eviction).await.expect(201);
    assert_eq!(c.get(&format!("{PODS}/p")).await.json()["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_service_account_and_its_runtime_class_must_exist() {
    let c = Cluster::new().await;
    let made = c.post(PODS, pod("p")).await.expect(201);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["status"]["phase"], "Pending");
    let mut object = pod("q");
    object["spec"]["runtimeClassName"] = json!("nowhere");
    let refused = c.post(PODS, object.clone()).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.message().ends_with("pod rejected: RuntimeClass \"nowhere\" not found"),
        "{}",
        refused.message()
    );
    object["spec"]["runtimeClassName"] = json!("wasmtime");
    c.post(PODS, object).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_pod_that_does_not_run_yet() {
    let c = Cluster::new().await;
    c.post(PODS, pod("p")).await.expect(201);
    let path = format!("{PODS}/p/log");
    let unscheduled = c.get(&path).await;
    assert_eq!((unscheduled.code, unscheduled.text.as_str()), (200, ""));
    c.post(&format!("{PODS}/p/binding"), json!({"target": {"name": "n"}})).await.expect(201);
    let status = json!({"status": {"containerStatuses": [{
        "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}},
    }]}});
    c.patch(&format!("{PODS}/p/status"), "merge-patch", status).await.expect(200);
    let waiting = c.get(&path).await;
    assert_eq!(
        (waiting.code, waiting.message().as_str()),
        (400, "container \"c\" in pod \"p\" is waiting to start: ContainerCreating")
    );
}

#[tokio::test(start_paused = true)]
async fn reviews_say_who_one_is_and_what_one_may() {
    let c = Cluster::new().await;
    let ask = async |path: &str, body: serde_json::Value| {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        read(c.send(UserInfo::new("jane", ["developers"]), request).await).await.expect(201)
    };
    let may = ask(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}}),
    );
    assert_eq!(may.await["status"]["allowed"], false);
    let who = ask("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(who["status"]["userInfo"]["username"], "jane");
    let rules = ask(
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        json!({"spec": {"namespace": "default"}}),
    )
    .await;
    assert_eq!(rules["status"]["incomplete"], false);
}

#[tokio::test(start_paused = true)]
async fn documents_are_negotiated_and_cached() {
    let c = Cluster::new().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let got = c.get_as("/apis", v2).await;
    assert_eq!(
        got.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(got.json()["apiVersion"], "apidiscovery.k8s.io/v2");
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(c.get_as("/api", old).await.json()["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    assert_eq!(c.get_as("/apis", "application/json").await.json()["kind"], "APIGroupList");
    assert_eq!(c.get("/api").await.json()["kind"], "APIVersions");
    assert_eq!(c.get("/api/v1").await.json()["kind"], "APIResourceList");
    assert_eq!(c.get("/apis/apps").await.json()["kind"], "APIGroup");
    let index = c.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = c.get(&url).await;
    assert_eq!(document.json()["openapi"].as_str().unwrap().chars().next(), Some('3'));
    let tag = document.headers["etag"].to_str().unwrap();
    let again = c.ask(Request::get(&url).header("if-none-match", tag), "").await;
    assert_eq!((again.code, again.text.as_str()), (304, ""));
    assert_eq!(c.get("/openapi/v2").await.json()["swagger"], "2.0");
    assert_eq!(c.get("/version").await.json()["gitVersion"], "v1.36.2-dhow");
    let metrics = c.get("/metrics").await.text;
    assert!(
        metrics.contains("apiserver_request_total{")
            && metrics.contains("apiserver_request_duration_seconds_bucket"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn large_answers_are_compressed_for_those_who_ask() {
    let c = Cluster::new().await;
    for i in 0..4 {
        c.post(CONFIG_MAPS, config_map(&format!("a{i}"), json!({"k": "x".repeat(100_000)})))
            .await
            .expect(201);
    }
    let answer = c
        .send(
            UserInfo::admin(),
            Request::get(CONFIG_MAPS).header("accept-encoding", "gzip").body(Full::default()).unwrap(),
        )
        .await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["items"].as_array().unwrap().len(),
        4
    );
    assert!(c.get(CONFIG_MAPS).await.headers.get("content-encoding").is_none());
}

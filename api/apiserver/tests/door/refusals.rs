//! Bad input gets a clear error.
use crate::cluster::*;
use apiserver::{Config, UserInfo};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn unknown_and_repeated_fields_are_refused_when_strict() {
    let c = Cluster::new().await;
    let mut object = deployment("d");
    object["spec"]["replicsa"] = json!(2);
    let strict = c.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), object.clone()).await;
    assert_eq!(
        (strict.code, strict.message().as_str()),
        (
            400,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replicsa\"",
        )
    );
    let warned = c.post(DEPLOYMENTS, object).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.replicsa\\\"\"");
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#;
    let request = || {
        Request::post(format!("{CONFIG_MAPS}?fieldValidation=Strict"))
            .header("content-type", "application/json")
    };
    let got = c.ask(request(), twice).await;
    assert!(
        got.message().ends_with("strict decoding error: duplicate field \"data.k\""),
        "{}",
        got.message()
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_type_names_the_field() {
    let c = Cluster::new().await;
    let mut object = deployment("d");
    object["spec"]["replicas"] = json!("three");
    let got = c.post(DEPLOYMENTS, object).await;
    assert_eq!(got.code, 400);
    assert!(got.message().contains("cannot unmarshal string into Go struct field"), "{}", got.message());
    assert!(got.message().contains("spec.replicas of type int32"), "{}", got.message());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_not_what_they_say_are_refused() {
    let c = Cluster::new().await;
    let post = async |content_type: &str, body: &str| {
        c.ask(Request::post(CONFIG_MAPS).header("content-type", content_type), body.to_owned()).await
    };
    assert_eq!(post("application/json", "{").await.code, 400);
    assert_eq!(post("application/json", "[]").await.code, 400);
    assert!(post("application/json", "kind: ConfigMap").await.message().contains("application/yaml"));
    assert_eq!(post("application/xml", "<a/>").await.code, 415);
    assert_eq!(post("application/vnd.kubernetes.protobuf", "nothing").await.code, 400);
    let pod_to_config_maps = c.post(CONFIG_MAPS, pod("p")).await;
    assert_eq!(pod_to_config_maps.code, 400);
    let other_namespace =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "other"}});
    assert_eq!(
        c.post(CONFIG_MAPS, other_namespace).await.message(),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
}

#[tokio::test(start_paused = true)]
async fn objects_and_bodies_that_are_too_large_are_refused() {
    let c = Cluster::new().await;
    // Over the object limit (1.5 MiB in the store; a ConfigMap's own is 1 MiB), under the body's.
    let got = c.post(CONFIG_MAPS, config_map("a", json!({"k": "x".repeat(2_000_000)}))).await;
    assert!(matches!(got.code, 413 | 422), "{} {}", got.code, got.message());
    let got = c.ask(Request::post(CONFIG_MAPS), vec![b' '; 4_000_000]).await;
    assert_eq!((got.code, got.json()["reason"].as_str().unwrap()), (413, "RequestEntityTooLarge"));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_a_404_and_what_cannot_be_done_a_405() {
    let c = Cluster::new().await;
    for path in [
        "/api/v1/namespaces/default/frogs",
        "/apis/frogs.example/v1/frogs",
        "/api/v1/namespaces/default/nodes",
        "/nowhere",
        "/apis/apps/v9",
    ] {
        let got = c.get(path).await;
        assert_eq!(
            (got.code, got.message().as_str()),
            (404, "the server could not find the requested resource"),
            "{path}"
        );
    }
    assert_eq!(c.post("/api/v1/configmaps", config_map("a", json!({}))).await.code, 400);
    assert_eq!(c.put(CONFIG_MAPS, config_map("a", json!({}))).await.code, 405);
    assert_eq!(c.get(&format!("{PODS}/p/binding")).await.code, 405);
    assert_eq!(c.get(&format!("{PODS}/p/frog")).await.code, 404);
    for path in ["/api/v1/namespaces/default/pods/a%2Fb", "/api/v1/namespaces/a%2Fb/pods", "/api/v1/nodes/.."]
    {
        assert_eq!(c.get(path).await.code, 400, "{path}");
    }
    let missing = c.post("/api/v1/namespaces/none/configmaps", config_map("a", json!({}))).await;
    assert_eq!((missing.code, missing.message().as_str()), (404, "namespaces \"none\" not found"));
}

#[tokio::test(start_paused = true)]
async fn invalid_objects_name_every_wrong_field() {
    let c = Cluster::new().await;
    let got = c.post(CONFIG_MAPS, config_map("Not A Name", json!({}))).await;
    assert_eq!(got.code, 422);
    let status = got.json();
    assert_eq!(status["reason"], "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("ConfigMap \"Not A Name\" is invalid: metadata.name: Invalid value")
    );
}

#[tokio::test(start_paused = true)]
async fn those_without_rights_are_told_what_they_lack() {
    let c = Cluster::new().await;
    let ask = async |user: UserInfo, path: &str| {
        read(c.send(user, Request::get(path).body(Full::<Bytes>::default()).unwrap()).await).await
    };
    let jane = || UserInfo::new("jane", ["developers"]);
    let got = ask(jane(), PODS).await;
    assert_eq!(
        (got.code, got.message().as_str()),
        (
            403,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        )
    );
    assert_eq!(
        ask(jane(), "/metrics").await.message(),
        "forbidden: User \"jane\" cannot get path \"/metrics\""
    );
    assert_eq!(ask(jane(), "/apis").await.code, 200);
    assert_eq!(ask(UserInfo::anonymous(), "/apis").await.code, 403);
    for path in ["/healthz", "/livez", "/readyz", "/version", "/readyz/store"] {
        assert_eq!(ask(UserInfo::anonymous(), path).await.code, 200, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_says_when_to_come_back_but_still_says_it_is_alive() {
    let mut config = Config::new(memory(), ambient());
    config.limits.reads_in_flight = 0;
    let c = Cluster::bare(config);
    let got = c.get(CONFIG_MAPS).await;
    assert_eq!((got.code, got.headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(c.get("/livez").await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_ends_the_request() {
    let c = Cluster::new().await;
    let endless = http_body_util::StreamBody::new(futures::stream::pending::<
        Result<http_body::Frame<Bytes>, std::io::Error>,
    >());
    let request =
        Request::post(CONFIG_MAPS).header("content-type", "application/json").body(endless).unwrap();
    let answer = tower::ServiceExt::oneshot(c.server.service(UserInfo::admin()), request).await.unwrap();
    let got = read(answer).await;
    assert!(matches!(got.code, 408 | 504), "{} {}", got.code, got.text);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_and_reads_go_on() {
    let full = std::sync::Arc::new(FullDisk { inner: memory(), full: Default::default() });
    let c = Cluster::over(full.clone()).await;
    c.post(CONFIG_MAPS, config_map("a", json!({}))).await.expect(201);
    full.full.store(true, std::sync::atomic::Ordering::Relaxed);
    let refused = c.post(CONFIG_MAPS, config_map("b", json!({}))).await;
    assert_eq!(refused.code, 507);
    assert!(refused.message().contains("disk is full"), "{}", refused.message());
    assert_eq!(refused.json()["kind"], "Status");
    c.get(&format!("{CONFIG_MAPS}/a")).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_answer() {
    let mut config = Config::new(memory(), ambient());
    // An ambient that panics stands for any bug behind the door.
    config.ambient = machinery::ambient::Ambient::new(|| panic!("a bug"), || 1);
    let c = Cluster::bare(config);
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let got = c.post("/api/v1/namespaces", object).await;
    assert_eq!((got.code, got.json()["reason"].as_str().unwrap()), (500, "InternalError"));
}

/// A store whose disk can be filled.
struct FullDisk {
    inner: std::sync::Arc<dyn store::Store>,
    full: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl store::Store for FullDisk {
    async fn head(&self) -> Result<u64, store::Error> {
        self.inner.head().await
    }
    async fn compacted(&self) -> Result<u64, store::Error> {
        self.inner.compacted().await
    }
    async fn get(&self, key: &str, at: Option<u64>) -> Result<(Option<store::Kv>, u64), store::Error> {
        self.inner.get(key, at).await
    }
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<u64>,
    ) -> Result<store::Page, store::Error> {
        self.inner.list(prefix, after, limit, at).await
    }
    async fn commit(
        &self,
        key: &str,
        expect: store::Expect,
        op: store::Op,
    ) -> Result<store::Committed, store::Error> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(store::Error::NoSpace("no space left on device".to_owned()));
        }
        self.inner.commit(key, expect, op).await
    }
    async fn watch(
        &self,
        prefix: &str,
        after: u64,
    ) -> Result<futures::stream::BoxStream<'static, Result<store::Event, store::Error>>, store::Error> {
        self.inner.watch(prefix, after).await
    }
    async fn compact(&self, revision: u64) -> Result<(), store::Error> {
        self.inner.compact(revision).await
    }
}

#[tokio::test(start_paused = true)]
async fn who_acts_as_another_has_the_others_rights() {
    let c = Cluster::new().await;
    let jane =
        || Request::get(PODS).header("impersonate-user", "jane").header("impersonate-group", "developers");
    let got = c.ask(jane(), "").await;
    assert_eq!(got.code, 403);
    assert!(got.message().contains("User \"jane\" cannot list resource \"pods\""), "{}", got.message());
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .header("impersonate-user", "jane");
    let got = c.ask(who, review.to_string()).await;
    assert_eq!(got.json()["status"]["userInfo"]["username"], "jane");
    let grab = jane().header("impersonate-user", "kubernetes-admin").body(Full::<Bytes>::default()).unwrap();
    let got = read(c.send(UserInfo::new("joe", ["developers"]), grab).await).await;
    assert_eq!(got.code, 403);
    assert!(got.message().contains("cannot impersonate resource \"users\""), "{}", got.message());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_unknown_fields_make_a_bounded_number_of_warnings() {
    let c = Cluster::new().await;
    let mut object = config_map("a", json!({}));
    for i in 0..1000 {
        object[format!("{}{i}", "f".repeat(300))] = json!(1);
    }
    let got = c.post(CONFIG_MAPS, object).await;
    assert_eq!(got.code, 201);
    let lengths: Vec<usize> = got.headers.get_all("warning").iter().map(|v| v.len()).collect();
    assert_eq!(lengths.len(), 16);
    assert!(lengths.iter().all(|l| *l < 300), "{lengths:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pods_service_account_must_be_there_and_lends_its_pull_secrets() {
    let c = Cluster::new().await;
    let mut robot = pod("p");
    robot["spec"]["serviceAccountName"] = json!("robot");
    let got = c.post(PODS, robot.clone()).await;
    assert_eq!(got.code, 403);
    let wanted = "pods \"p\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not \
                  found";
    assert_eq!(got.message(), wanted);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"},
        "imagePullSecrets": [{"name": "registry"}]});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    let made = c.post(PODS, robot).await.expect(201);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    c.post(PODS, pod("q")).await.expect(201);
}

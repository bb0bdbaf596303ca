//! The whole loop against a small API server, on a paused clock.
use super::*;
use crate::throughput;
use client::fake_api::{FakeApi, ambient};
use serde_json::{Value, json};
use std::time::Duration;

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn put<T: serde::Serialize>(api: &FakeApi, path: &str, name: &str, object: T) {
    api.put(path, name, serde_json::to_value(object).unwrap());
}

fn pod(api: &FakeApi, name: &str) -> Value {
    let name = json!(name);
    api.objects().into_iter().find(|o| o["kind"] == "Pod" && o["metadata"]["name"] == name).unwrap()
}

fn events(api: &FakeApi) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    api.objects()
        .iter()
        .filter(|o| o["kind"] == "Event")
        .map(|o| (text(&o["reason"]), text(&o["message"])))
        .collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within ten minutes: {what}");
}

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(api: &FakeApi, identity: Option<&str>) -> Running {
    let stop = CancellationToken::new();
    let client = api.client();
    let informers = Informers::new(client.clone(), stop.clone());
    let config = Config { leader_identity: identity.map(str::to_owned), ..Config::default() };
    let task = tokio::spawn(run(config, client, informers, ambient(), stop.clone()));
    Running { stop, task }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(60), self.task).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_node_says_why_and_is_bound_once_one_is_there() {
    let api = FakeApi::default();
    put(&api, PODS, "a", throughput::pod("a"));
    let running = start(&api, None);
    until("the pod says why", || pod(&api, "a")["status"]["conditions"].is_array()).await;
    let condition = pod(&api, "a")["status"]["conditions"][0].clone();
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unschedulable")));
    assert_eq!(condition["message"], "no nodes available to schedule pods");
    until("the event is there", || !events(&api).is_empty()).await;
    assert_eq!(events(&api)[0], ("FailedScheduling".into(), "no nodes available to schedule pods".into()));

    put(&api, NODES, "n1", throughput::node("n1"));
    until("the pod has its node", || pod(&api, "a")["spec"]["nodeName"] == "n1").await;
    let scheduled = ("Scheduled".to_owned(), "Successfully assigned default/a to n1".to_owned());
    until("the event is there", || events(&api).contains(&scheduled)).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_faulty_api_server_only_costs_time() {
    let api = FakeApi::default();
    for i in 0..3 {
        put(&api, NODES, &format!("n{i}"), throughput::node(&format!("n{i}")));
    }
    let running = start(&api, Some("me"));
    until("the first pod can be placed", || api.requests().iter().any(|r| r.contains("/pods?&watch=true")))
        .await;
    for i in 0..200 {
        put(&api, PODS, &format!("p{i}"), throughput::pod(&format!("p{i}")));
        if i % 40 == 20 {
            api.fail(&[500, 503, 409, 500, 429, 500]);
            tokio::task::yield_now().await;
        }
    }
    until("every pod has a node", || {
        api.objects().iter().filter(|o| o["kind"] == "Pod").all(|o| o["spec"]["nodeName"].is_string())
    })
    .await;
    for node in ["n0", "n1", "n2"] {
        let held = api.objects().iter().filter(|o| o["spec"]["nodeName"] == node).count();
        assert!((60..=75).contains(&held), "{node} holds {held}");
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_second_scheduler_goes_on_where_the_first_one_ended() {
    let api = FakeApi::default();
    put(&api, NODES, "n1", throughput::node("n1"));
    let first = start(&api, Some("first"));
    put(&api, PODS, "a", throughput::pod("a"));
    until("the first pod has its node", || pod(&api, "a")["spec"]["nodeName"] == "n1").await;
    let second = start(&api, Some("second"));
    first.end().await;
    put(&api, PODS, "b", throughput::pod("b"));
    until("the second pod has its node", || pod(&api, "b")["spec"]["nodeName"] == "n1").await;
    let bindings = api.requests().iter().filter(|r| r.contains("/binding")).count();
    assert_eq!(bindings, 2);
    second.end().await;
}

//! The whole agent over a fake API and a fake runtime, under tokio's paused clock.
use super::*;
use ::client::fake_api::FakeApi;
use cri::fake::{FakeRuntime, Script};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

mod hooks;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// One clock for the kubelet and the runtime: a day of 2026, going with tokio's clock. Every test thread has its
/// own tokio clock, so the beginning is taken from a value that lives as long as the runtime.
fn world() -> (FakeRuntime, Ambient) {
    const START: i64 = 1_767_225_600_000_000_000;
    let began = Instant::now();
    let nanos = move || START + began.elapsed().as_nanos() as i64;
    let counter = std::sync::atomic::AtomicU64::new(1);
    let ambient = Ambient::new(
        move || jiff::Timestamp::from_nanosecond(nanos().into()).unwrap(),
        move || counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
    );
    (FakeRuntime::with_clock(nanos), ambient)
}

struct Node {
    ambient: Ambient,
    api: FakeApi,
    runtime: FakeRuntime,
    dir: Arc<tempfile::TempDir>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Node {
    fn start() -> Self {
        Self::start_with(FakeApi::default(), world(), Arc::new(tempfile::tempdir().unwrap()), |_| {})
    }

    fn start_with(
        api: FakeApi,
        (runtime, ambient): (FakeRuntime, Ambient),
        dir: Arc<tempfile::TempDir>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let shared: Arc<FakeRuntime> = Arc::new(runtime.clone());
        let mut config = Config::new(
            "n1",
            api.client(),
            shared.clone(),
            shared,
            dir.path().to_owned(),
            Ipv4Addr::LOCALHOST.into(),
        );
        change(&mut config);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config, ambient.clone(), shutdown.clone()));
        Self { ambient, api, runtime, dir, shutdown, task }
    }

    /// Ends the kubelet; API, runtime and disk stay.
    async fn stop(self) -> (FakeApi, (FakeRuntime, Ambient), Arc<tempfile::TempDir>) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        (self.api, (self.runtime, self.ambient), self.dir)
    }

    async fn restart(self) -> Self {
        let (api, world, dir) = self.stop().await;
        world.0.clear_calls();
        Self::start_with(api, world, dir, |_| {})
    }

    fn object(&self, kind: &str, name: &str) -> Option<Value> {
        find(&self.api, kind, name)
    }

    fn put_pod(&self, name: &str, spec: Value) {
        let mut full =
            json!({ "nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30 });
        for (k, v) in spec.as_object().unwrap() {
            full[k] = v.clone();
        }
        let meta = json!({ "namespace": "default" });
        self.api.put(
            PODS,
            name,
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": full }),
        );
    }

    /// As the API server does on DELETE: the pod is marked, the kubelet does the rest.
    fn delete_pod(&self, name: &str, grace: i64) {
        let mut pod = self.pod(name);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.put(PODS, name, pod);
    }

    fn pod(&self, name: &str) -> Value {
        self.object("Pod", name).unwrap_or_default()
    }

    fn status(&self, name: &str) -> Value {
        self.pod(name)["status"].clone()
    }

    fn waiting(&self, name: &str) -> String {
        let state = &self.status(name)["containerStatuses"][0]["state"]["waiting"]["reason"];
        state.as_str().unwrap_or_default().to_owned()
    }

    fn calls(&self, rpc: &str) -> usize {
        self.runtime.calls().iter().filter(|c| c.split(' ').next() == Some(rpc)).count()
    }

    fn events(&self, reason: &str) -> Vec<String> {
        let all = self.api.objects();
        let of = all.iter().filter(|o| o["reason"] == reason && o["involvedObject"].is_object());
        of.map(|o| o["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until something holds; at most ten minutes of simulated time.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            let passed = began.elapsed();
            assert!(
                passed < Duration::from_secs(600),
                "{what}: {:#?} {:#?}",
                self.api.objects(),
                self.runtime.calls()
            );
            // Fine at first, where milliseconds are measured, then coarser.
            tokio::time::sleep((passed / 20).max(Duration::from_millis(1))).await;
        }
    }

    async fn ready(&self, name: &str) {
        self.until("the pod is Ready", |n| is_ready(&n.status(name))).await;
    }
}

fn find(api: &FakeApi, kind: &str, name: &str) -> Option<Value> {
    api.objects().into_iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn containers(c: Value) -> Value {
    json!({ "containers": [c] })
}

fn plain(image: &str) -> Value {
    containers(json!({ "name": "c", "image": image, "imagePullPolicy": "IfNotPresent" }))
}

#[tokio::test(start_paused = true)]
async fn the_node_is_registered_ready_at_once_and_renews_its_lease() {
    let began = Instant::now();
    let node = Node::start();
    node.until("the node is Ready", |n| n.object("Node", "n1").is_some_and(|o| is_ready(&o["status"]))).await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    let object = node.object("Node", "n1").unwrap();
    assert_eq!(object["metadata"]["labels"]["dhow.dev/runtime.wasmtime"], "true");
    assert_eq!(object["status"]["nodeInfo"]["containerRuntimeVersion"], "fake://1");
    let renewed =
        |n: &Node| n.object("Lease", "n1").map(|l| l["spec"]["renewTime"].as_str().unwrap().to_owned());
    node.until("there is a lease", |n| renewed(n).is_some()).await;
    let first = renewed(&node);
    node.until("the lease is renewed", |n| renewed(n) != first).await;
    assert!(began.elapsed() < Duration::from_secs(12));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_node_is_not_ready_while_its_runtime_is_away() {
    let world = world();
    world.0.set_down(Some(cri::Error::Unavailable("no socket".into())));
    let node = Node::start_with(FakeApi::default(), world, Arc::new(tempfile::tempdir().unwrap()), |_| {});
    node.until("the node is there", |n| n.object("Node", "n1").is_some()).await;
    let text = node.object("Node", "n1").unwrap()["status"].to_string();
    assert!(text.contains("container runtime is down: no socket"), "{text}");
    node.runtime.set_down(None);
    let began = Instant::now();
    node.until("the node is Ready", |n| n.object("Node", "n1").is_some_and(|o| is_ready(&o["status"]))).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_ready_without_waiting_for_any_clock_and_costs_one_status_write() {
    let node = Node::start();
    node.runtime.add_image("app:1");
    node.until("the node is there", |n| n.object("Node", "n1").is_some()).await;
    let began = Instant::now();
    node.put_pod("p", plain("app:1"));
    node.ready("p").await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    let status = node.status("p");
    assert_eq!(status["phase"], "Running");
    assert!(status["podIP"].as_str().unwrap().starts_with("127.42."), "{status}");
    assert_eq!(status["qosClass"], "BestEffort");
    let c = &status["containerStatuses"][0];
    assert!(c["containerID"].as_str().unwrap().starts_with("fake://"));
    assert_eq!(
        (c["ready"].clone(), c["started"].clone(), c["restartCount"].clone()),
        (json!(true), json!(true), json!(0))
    );
    node.until("events are written", |n| n.events("Started").len() == 1 && n.events("Created").len() == 1)
        .await;
    assert_eq!(node.events("Pulled"), ["Container image \"app:1\" already present on machine"]);
    let writes =
        node.api.requests().iter().filter(|r| r.starts_with("PATCH") && r.contains("/pods/p/status")).count();
    assert_eq!(writes, 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_exits_with_three_fails_its_pod_with_three() {
    let node = Node::start();
    let mut spec = plain("exit-3-after-1");
    spec["restartPolicy"] = json!("Never");
    node.put_pod("job", spec);
    node.until("it failed", |n| n.status("job")["phase"] == "Failed").await;
    let status = node.status("job");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    node.until("the sandbox is stopped", |n| n.calls("StopPodSandbox") > 0).await;
    assert_eq!(node.calls("RemovePodSandbox"), 0, "its log stays until the pod is deleted");
    node.delete_pod("job", 30);
    node.until("the pod is gone", |n| n.object("Pod", "job").is_none() && n.calls("RemovePodSandbox") == 1)
        .await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_restarts_at_once_and_then_backs_off() {
    let node = Node::start();
    node.put_pod("p", plain("exit-1"));
    node.until("it waits", |n| n.waiting("p") == "CrashLoopBackOff").await;
    let status = node.status("p");
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("back-off 10s restarting failed container=c pod=p_default("), "{message}");
    let began = Instant::now();
    node.until("a second restart", |n| n.status("p")["containerStatuses"][0]["restartCount"] == 2).await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(11), "{took:?}");
    node.until("events say so", |n| !n.events("BackOff").is_empty()).await;
    node.until("old containers are removed", |n| n.calls("RemoveContainer") > 0).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_gets_its_grace_and_leaves_nothing() {
    let node = Node::start();
    node.runtime.script("slow", Script { stop_takes: Some(Duration::from_secs(5)), ..Script::forever() });
    let mut spec = plain("slow");
    spec["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    node.put_pod("p", spec);
    node.ready("p").await;
    let uid = node.pod("p")["metadata"]["uid"].as_str().unwrap().to_owned();
    let volume = volumes::volume_dir(node.dir.path(), &uid, "empty-dir", "v");
    assert!(volume.is_dir());
    let began = Instant::now();
    node.delete_pod("p", 30);
    node.until("the pod is gone", |n| n.object("Pod", "p").is_none() && n.calls("RemovePodSandbox") == 1)
        .await;
    assert_eq!(began.elapsed().as_secs(), 5);
    node.until("its files are gone", |_| !volume.exists()).await;
    assert_eq!(node.events("Killing"), ["Stopping container c"]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_hastens_an_end_under_way() {
    let node = Node::start();
    node.runtime.script("deaf", Script { stop_takes: None, ..Script::forever() });
    node.put_pod("p", plain("deaf"));
    node.ready("p").await;
    let began = Instant::now();
    node.delete_pod("p", 300);
    node.until("it is being stopped", |n| n.calls("StopContainer") == 1).await;
    node.delete_pod("p", 3);
    node.until("the pod is gone", |n| n.object("Pod", "p").is_none()).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_taken_out_of_the_api_by_force_is_stopped_all_the_same() {
    let node = Node::start();
    node.put_pod("p", plain("app"));
    node.ready("p").await;
    node.api.remove(PODS, "p");
    node.until("nothing runs", |n| n.runtime.running().is_empty() && n.calls("RemovePodSandbox") == 1).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_takes_over_what_runs_and_restarts_nothing() {
    let node = Node::start();
    let probed = containers(
        json!({ "name": "c", "image": "app", "readinessProbe": { "exec": { "command": ["x"] } } }),
    );
    node.put_pod("p", probed);
    node.ready("p").await;
    let before = node.pod("p");
    let node = node.restart().await;
    node.until("the probe runs again", |n| n.calls("ExecSync") > 0).await;
    node.until("time passes", |_| true).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    for rpc in ["RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "PullImage"] {
        assert_eq!(node.calls(rpc), 0, "{rpc}");
    }
    assert_eq!(node.pod("p")["status"], before["status"], "not even its status flickered");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_no_kubelet_ran_is_noticed_and_what_is_gone_is_removed() {
    let node = Node::start();
    node.put_pod("stays", plain("app"));
    node.put_pod("goes", plain("app"));
    node.ready("stays").await;
    node.ready("goes").await;
    let id =
        node.status("stays")["containerStatuses"][0]["containerID"].as_str().unwrap().replace("fake://", "");
    let (api, world, dir) = node.stop().await;
    assert!(world.0.end_container(&id, 9, "Error", ""));
    api.remove(PODS, "goes");
    world.0.clear_calls();
    let node = Node::start_with(api, world, dir, |_| {});
    node.until("it runs again", |n| {
        n.status("stays")["containerStatuses"][0]["restartCount"] == 1 && is_ready(&n.status("stays"))
    })
    .await;
    node.until("the orphan is gone", |n| n.runtime.running().len() == 1 && n.calls("RemovePodSandbox") == 1)
        .await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_of_the_machine_pods_get_new_sandboxes() {
    let node = Node::start();
    node.put_pod("p", plain("app"));
    node.ready("p").await;
    let ip = node.status("p")["podIP"].clone();
    let (api, world, dir) = node.stop().await;
    world.0.reboot();
    world.0.clear_calls();
    let node = Node::start_with(api, world, dir, |_| {});
    node.until("it runs with a new address", |n| is_ready(&n.status("p")) && n.status("p")["podIP"] != ip)
        .await;
    assert_eq!(node.status("p")["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(node.calls("RunPodSandbox"), 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_missing_is_told_of_and_tried_again_until_it_is_there() {
    let node = Node::start();
    node.put_pod("p", plain("reg.example/missing"));
    node.until("it fails", |n| n.waiting("p") == "ErrImagePull").await;
    node.until("it backs off", |n| n.waiting("p") == "ImagePullBackOff").await;
    let message =
        node.status("p")["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("Back-off pulling image \"reg.example/missing\": ErrImagePull: "),
        "{message}"
    );
    node.until("events tell", |n| n.events("BackOff").len() == 1 && n.events("Failed").len() >= 3).await;
    let mut failed = node.events("Failed");
    failed.sort();
    assert_eq!(failed[0], "Error: ErrImagePull");
    assert_eq!(failed[1], "Error: ImagePullBackOff");
    assert!(failed[2].starts_with("Failed to pull image \"reg.example/missing\": "), "{failed:?}");
    node.runtime.script("reg.example/missing", Script::forever());
    node.ready("p").await;
    assert!(
        node.events("Pulled").iter().any(|m| m.starts_with("Successfully pulled image")),
        "{:?}",
        node.events("Pulled")
    );
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_interrupts_a_pull() {
    let node = Node::start();
    node.runtime.script("big", Script { pull_takes: Duration::from_secs(3600), ..Script::forever() });
    node.put_pod("p", plain("big"));
    node.until("it pulls", |n| n.calls("PullImage") == 1).await;
    node.until("it says so", |n| n.waiting("p") == "ContainerCreating").await;
    let began = Instant::now();
    node.delete_pod("p", 30);
    node.until("the pod is gone", |n| n.object("Pod", "p").is_none()).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_holds_the_container_until_it_is_there() {
    let node = Node::start();
    let from = json!({ "configMapKeyRef": { "name": "cm", "key": "k" } });
    node.put_pod(
        "p",
        containers(json!({ "name": "c", "image": "app", "env": [{ "name": "A", "valueFrom": from }] })),
    );
    node.until("it waits", |n| n.waiting("p") == "CreateContainerConfigError").await;
    node.until("events tell", |n| n.events("Failed") == ["Error: configmap \"cm\" not found"]).await;
    node.api.put(
        "/api/v1/namespaces/default/configmaps",
        "cm",
        json!({ "kind": "ConfigMap", "data": { "k": "v" } }),
    );
    node.ready("p").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_config_map_volume_holds_its_keys_and_follows_changes() {
    let node = Node::start();
    let map = |v: &str| json!({ "kind": "ConfigMap", "data": { "k": v } });
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut spec = containers(
        json!({ "name": "c", "image": "app", "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }),
    );
    spec["volumes"] = json!([{ "name": "v", "configMap": { "name": "cm" } }]);
    node.put_pod("p", spec);
    node.until("it is told of", |n| {
        n.events("FailedMount") == ["MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found"]
    })
    .await;
    node.api.put(maps, "cm", map("1"));
    node.ready("p").await;
    let uid = node.pod("p")["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = volumes::volume_dir(node.dir.path(), &uid, "configmap", "v").join("k");
    let read = || std::fs::read_to_string(&file).unwrap();
    assert_eq!(read(), "1");
    node.api.put(maps, "cm", map("2"));
    node.until("the file follows", |_| read() == "2").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_before_the_others() {
    let node = Node::start();
    let mut spec = plain("app");
    spec["initContainers"] =
        json!([{ "name": "a", "image": "exit-0-after-1" }, { "name": "b", "image": "exit-0-after-1" }]);
    node.put_pod("p", spec);
    node.until("the first runs", |n| {
        n.status("p")["initContainerStatuses"][0]["state"]["running"].is_object()
    })
    .await;
    assert_eq!(node.waiting("p"), "PodInitializing");
    node.ready("p").await;
    let made: Vec<String> =
        node.runtime.calls().into_iter().filter(|c| c.starts_with("CreateContainer ")).collect();
    assert_eq!(made, ["CreateContainer a", "CreateContainer b", "CreateContainer c"]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_fails_its_liveness_probe_is_restarted() {
    let node = Node::start();
    let began = Instant::now();
    let exec: cri::fake::Exec = Arc::new(move |_| {
        if began.elapsed() < Duration::from_secs(15) { (0, String::new()) } else { (1, "sick".into()) }
    });
    node.runtime.script("app", Script { exec: Some(exec), ..Script::forever() });
    let probe = json!({ "exec": { "command": ["check"] }, "periodSeconds": 5, "failureThreshold": 2 });
    node.put_pod("p", containers(json!({ "name": "c", "image": "app", "livenessProbe": probe })));
    node.ready("p").await;
    node.until("it is restarted", |n| n.status("p")["containerStatuses"][0]["restartCount"] == 1).await;
    assert!(began.elapsed() < Duration::from_secs(30));
    node.until("events tell", |n| {
        n.events("Unhealthy").contains(&"Liveness probe failed: sick".to_owned())
            && n.events("Killing")
                .contains(&"Container c failed liveness probe, will be restarted".to_owned())
    })
    .await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_active_for_too_long_fails() {
    let node = Node::start();
    let mut spec = plain("app");
    spec["activeDeadlineSeconds"] = json!(20);
    node.put_pod("p", spec);
    node.ready("p").await;
    node.until("it failed", |n| n.status("p")["phase"] == "Failed").await;
    assert_eq!(node.status("p")["reason"], "DeadlineExceeded");
    node.until("nothing runs", |n| n.runtime.running().is_empty()).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_node_refuses_a_pod() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::start_with(FakeApi::default(), world(), dir, |c| c.max_pods = 1);
    node.put_pod("a", plain("app"));
    node.ready("a").await;
    node.put_pod("b", plain("app"));
    node.until("it failed", |n| n.status("b")["phase"] == "Failed").await;
    assert_eq!(node.status("b")["reason"], "OutOfpods");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ended_without_an_event_is_found_by_the_next_list() {
    let node = Node::start();
    node.runtime.fail_next("GetContainerEvents", cri::Error::unimplemented("GetContainerEvents"));
    node.runtime.fail_next("GetContainerEvents", cri::Error::unimplemented("GetContainerEvents"));
    node.put_pod("p", plain("exit-1-after-2"));
    node.until("it was restarted", |n| n.status("p")["containerStatuses"][0]["restartCount"] == 1).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failing_calls_of_the_runtime_are_made_again() {
    let node = Node::start();
    for rpc in ["RunPodSandbox", "PodSandboxStatus", "ImageStatus", "CreateContainer", "StartContainer"] {
        node.runtime.fail_next(rpc, cri::Error::Unavailable("busy".into()));
    }
    node.put_pod("p", plain("app"));
    node.ready("p").await;
    assert_eq!(node.runtime.running().len(), 1);
    assert_eq!(node.events("FailedCreatePodSandBox"), ["Failed to create pod sandbox: busy"]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_pods_start_side_by_side() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::start_with(FakeApi::default(), world(), dir, |c| c.max_pods = 500);
    node.runtime.add_image("app");
    for i in 0..300 {
        node.put_pod(&format!("p{i}"), plain("app"));
    }
    node.until("all run", |n| n.runtime.running().len() == 300).await;
    node.until("all are Ready", |n| {
        n.api.objects().iter().filter(|o| o["kind"] == "Pod" && is_ready(&o["status"])).count() == 300
    })
    .await;
    assert_eq!(node.calls("RunPodSandbox"), 300);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_containers_last_words_and_the_end_of_its_log_become_its_message() {
    let node = Node::start();
    node.runtime.script_with(|_, config| {
        let last_words = config.mounts.iter().find(|m| m.container_path == "/dev/termination-log")?;
        if config.metadata.as_ref()?.name == "writes" {
            std::fs::write(&last_words.host_path, "bye").unwrap();
        }
        Some(Script { output: vec!["the log".into()], ..Script::exits(1, Duration::from_secs(1)) })
    });
    let policy = "FallbackToLogsOnError";
    node.put_pod(
        "p",
        json!({ "restartPolicy": "Never", "containers": [
            { "name": "writes", "image": "app" },
            { "name": "logs", "image": "app", "terminationMessagePolicy": policy },
            { "name": "silent", "image": "app" },
        ] }),
    );
    node.until("it failed", |n| n.status("p")["phase"] == "Failed").await;
    let message =
        |n: &Node, i: usize| n.status("p")["containerStatuses"][i]["state"]["terminated"]["message"].clone();
    let all = |n: &Node| [message(n, 0), message(n, 1), message(n, 2)];
    let wanted = [json!("bye"), json!("the log\n"), Value::Null];
    assert_eq!(all(&node), wanted);
    // The file is gone with the pod's end; the message stays.
    let node = node.restart().await;
    node.until("it was looked at", |n| n.calls("PodSandboxStatus") > 0).await;
    assert_eq!(all(&node), wanted);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_more_in_an_empty_dir_than_it_may_is_evicted_at_once() {
    let node = Node::start();
    let path = Arc::new(parking_lot::Mutex::new(String::new()));
    let told = path.clone();
    node.runtime.script_with(move |_, config| {
        *told.lock() = config.mounts[0].host_path.clone();
        None
    });
    node.put_pod(
        "p",
        json!({
            "terminationGracePeriodSeconds": 3600,
            "containers": [{ "name": "c", "image": "app", "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
            "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": "64Ki" } }],
        }),
    );
    node.until("it runs", |n| n.status("p")["phase"] == "Running").await;
    let volume = std::path::PathBuf::from(path.lock().clone());
    std::fs::write(volume.join("within"), vec![1; 60 << 10]).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.status("p")["phase"], "Running");
    std::fs::write(volume.join("beyond"), vec![1; 60 << 10]).unwrap();
    let began = tokio::time::Instant::now();
    node.until("it failed", |n| n.status("p")["phase"] == "Failed").await;
    node.until("its container ended", |n| n.runtime.running().is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}: its grace was waited for", began.elapsed());
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ";
    let status = node.status("p");
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)));
    let conditions = status["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet")
    );
    node.until("it is told", |n| n.events("Evicted") == [message]).await;
    node.until("its room is given back", |_| !volume.exists()).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_probes_command_that_the_runtime_never_answers_has_failed() {
    let node = Node::start();
    let never = Duration::from_secs(3600 * 24 * 365);
    node.runtime.script_with(move |_, _| Some(Script { exec_takes: never, ..Script::forever() }));
    let probe = json!({ "exec": { "command": ["true"] }, "timeoutSeconds": 1, "failureThreshold": 2 });
    node.put_pod("p", json!({ "containers": [{ "name": "c", "image": "app", "livenessProbe": probe }] }));
    node.until("it was started again", |n| n.status("p")["containerStatuses"][0]["restartCount"] == 1).await;
    let text = "Liveness probe failed: command timed out: the container runtime did not answer";
    node.until("it is told", |n| n.events("Unhealthy") == [text]).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_class_made_anew_is_read_anew() {
    let node = Node::start();
    let make = |handler: &str| {
        let class = json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {},
            "handler": handler });
        node.api.put("/apis/node.k8s.io/v1/runtimeclasses", "class", class);
    };
    make("mistyped");
    node.put_pod(
        "p",
        json!({ "runtimeClassName": "class", "containers": [{ "name": "c", "image": "app" }] }),
    );
    node.until("it cannot start", |n| !n.events("FailedCreatePodSandBox").is_empty()).await;
    make("wasmtime");
    node.until("it runs", |n| n.status("p")["phase"] == "Running").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_runtime_is_told_which_mounts_are_a_sub_path_for_it_may_follow_no_link_there() {
    let node = Node::start();
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let told = seen.clone();
    node.runtime.script_with(move |_, config| {
        let paths = config.annotations.get(cri::SUB_PATHS_ANNOTATION).cloned();
        *told.lock() = Some((paths, config.mounts.clone()));
        None
    });
    node.put_pod(
        "p",
        json!({
            "containers": [{ "name": "c", "image": "app", "volumeMounts": [
                { "name": "v", "mountPath": "/whole" },
                { "name": "v", "mountPath": "/part", "subPath": "a/b" },
                { "name": "v", "mountPath": "/file,:x", "subPathExpr": "a/c" },
            ] }],
            "volumes": [{ "name": "v", "emptyDir": {} }],
        }),
    );
    node.until("it runs", |n| n.runtime.running().len() == 1).await;
    let (paths, mounts) = seen.lock().clone().unwrap();
    assert_eq!(paths.as_deref(), Some(r#"["/part","/file,:x"]"#));
    let part = mounts.iter().find(|m| m.container_path == "/part").unwrap();
    assert!(part.host_path.ends_with("/v/a/b"), "{}", part.host_path);
    node.stop().await;
}

/// One request over HTTPS; the status and the body.
async fn request(
    address: std::net::SocketAddr,
    tls: rustls::ClientConfig,
    method: &str,
    path: &str,
    body: &'static [u8],
) -> (u16, String) {
    use http_body_util::{BodyExt, Full};
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::from(address.ip());
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "n1")
        .header("connection", "close")
        .body(Full::new(bytes::Bytes::from_static(body)))
        .unwrap();
    let (answer, _) = tokio::join!(
        async {
            let response = sender.send_request(request).await.unwrap();
            let code = response.status().as_u16();
            drop(sender);
            (code, response.into_body().collect().await.unwrap().to_bytes())
        },
        connection
    );
    (answer.0, String::from_utf8(answer.1.to_vec()).unwrap())
}

#[tokio::test]
async fn the_server_serves_the_api_server_and_nobody_else() {
    // TLS looks at the machine's own clock.
    #[allow(clippy::disallowed_methods)]
    let now = jiff::Timestamp::now();
    let authority = pki::Authority::generate("test", now).unwrap();
    let subject = |common_name| pki::Subject { common_name, organization: None };
    let serving = authority.issue_serving(subject("n1"), &["127.0.0.1".into()], now).unwrap();
    let ca = authority.certificate_pem().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = pki::server_config(&ca, &serving).unwrap();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let node =
        Node::start_with(FakeApi::default(), world(), dir, |c| c.https = Some(Https { listener, tls }));
    node.runtime.script("app", Script { output: vec!["one".into(), "two".into()], ..Script::forever() });
    node.put_pod("p", plain("app"));
    node.ready("p").await;
    node.until("the node tells its port", |n| n.object("Node", "n1").is_some()).await;
    let port = &node.object("Node", "n1").unwrap()["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    assert_eq!(*port, json!(address.port()));

    let client = |name: Option<&'static str>| {
        let certificate = name.map(|n| authority.issue_client(subject(n), now).unwrap());
        pki::client_config(&ca, certificate.as_ref()).unwrap()
    };
    let get = |name, path: &'static str| request(address, client(name), "GET", path, b"");
    let api = Some("kube-apiserver-kubelet-client");
    let log = "/containerLogs/default/p/c";
    assert_eq!(get(api, log).await, (200, "one\ntwo\n".into()));
    assert_eq!(get(api, "/containerLogs/default/p/c?tailLines=1").await, (200, "two\n".into()));
    assert_eq!(get(api, "/healthz").await, (200, "ok".into()));
    assert!(get(api, "/pods").await.1.contains("\"PodList\""));
    assert!(get(api, "/metrics").await.1.contains("kubelet_running_pods 1"));
    let (code, text) = get(api, "/containerLogs/default/p/c?previous=true").await;
    assert_eq!(code, 400);
    assert!(text.contains("previous terminated container"), "{text}");
    assert_eq!(get(api, "/containerLogs/default/nobody/c").await.0, 404);
    assert_eq!(get(api, "/nothing").await.0, 404);
    assert_eq!(get(Some("system:node:n2"), log).await.0, 403);
    assert_eq!(get(None, log).await.0, 401);

    let import = |body| request(address, client(api), "POST", "/images/import?ref=localhost/x:1", body);
    let (code, text) = import(b"\0asm").await;
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("localhost/x:1"), "{text}");
    let (code, text) = import(b"").await;
    assert_eq!(code, 400);
    assert!(text.contains("is empty"), "{text}");
    node.stop().await;
}

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";

/// What the sandbox of a pod was last told of its network.
fn told(node: &Node, pod: &str) -> Value {
    let uid = node.pod(pod)["metadata"]["uid"].clone();
    let sandboxes =
        node.runtime.sandboxes_labelled(container_config::POD_UID, uid.as_str().unwrap_or_default());
    let rules = sandboxes.first().and_then(|sandbox| node.runtime.network_policy(sandbox));
    rules.map_or(Value::Null, |rules| serde_json::from_slice(&rules).unwrap())
}

#[tokio::test(start_paused = true)]
async fn sandboxes_hear_their_rules_before_anything_runs_in_them_and_soon_after_every_change() {
    let node = Node::start();
    node.put_pod("web", plain("app"));
    node.ready("web").await;
    let calls = node.runtime.calls();
    let at = |rpc: &str| calls.iter().position(|call| call.starts_with(rpc)).unwrap();
    assert!(at("SetNetworkPolicy") < at("CreateContainer"), "{calls:?}");
    assert_eq!(told(&node, "web"), json!({ "ingress": "Open", "egress": "Open" }));

    let policy = json!({ "kind": "NetworkPolicy", "metadata": { "namespace": "default" }, "spec": {
        "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": [{ "podSelector": {} }] }] } });
    let began = Instant::now();
    node.api.put(POLICIES, "own", policy);
    let isolated = |n: &Node, count: usize| {
        told(n, "web")["ingress"]["Isolated"][0]["peers"]["These"]["addresses"].as_array().map(Vec::len)
            == Some(count)
    };
    node.until("the rules hold", |n| isolated(n, 1)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    node.put_pod("db", plain("app"));
    node.ready("db").await;
    node.until("the new pod is known", |n| isolated(n, 2)).await;

    // What changes while no kubelet runs is told by the next one, which makes nothing anew.
    let (api, world, dir) = node.stop().await;
    api.remove(POLICIES, "own");
    let node = Node::start_with(api, world, dir, |_| {});
    node.until("all is open again", |n| told(n, "web")["ingress"] == "Open").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_namespace_left_here_goes_when_the_server_says_twice_that_it_is_gone() {
    let node = Node::start();
    node.api.put("/api/v1/namespaces", "stays", json!({ "kind": "Namespace", "apiVersion": "v1" }));
    for name in ["gone", "stays"] {
        node.runtime.keep_namespace(name);
    }
    let asked =
        |n: &Node| n.runtime.calls().iter().filter(|call| call.starts_with("ForgetNamespaces")).count();
    node.until("it was looked once", |n| asked(n) == 1).await;
    assert_eq!(node.runtime.kept_namespaces(), ["gone", "stays"]);
    node.until("it is removed", |n| n.runtime.kept_namespaces() == ["stays"]).await;
    let rounds = asked(&node);
    assert!(rounds >= 3, "one look, another, and the removal: {rounds}");
    node.api.remove("/api/v1/namespaces", "stays");
    node.until("it was looked once more", |n| asked(n) == rounds + 1).await;
    // Made again before the second look.
    node.api.put("/api/v1/namespaces", "stays", json!({ "kind": "Namespace", "apiVersion": "v1" }));
    node.until("and again", |n| asked(n) == rounds + 3).await;
    assert_eq!(node.runtime.kept_namespaces(), ["stays"]);
    node.stop().await;
}

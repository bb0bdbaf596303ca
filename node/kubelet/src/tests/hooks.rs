//! postStart and preStop: what they do to a pod, and what is said of them.
use super::*;
use parking_lot::Mutex;

/// A container whose commands are noted in the order in which they run; `fail` fails.
fn noting(node: &Node, image: &str) -> Arc<Mutex<Vec<String>>> {
    let ran = Arc::new(Mutex::new(Vec::new()));
    let noted = ran.clone();
    let exec: cri::fake::Exec = Arc::new(move |command| {
        noted.lock().push(command.join(" "));
        if command[0] == "fail" { (1, "no".into()) } else { (0, String::new()) }
    });
    node.runtime.script(image, Script { exec: Some(exec), ..Script::forever() });
    ran
}

fn hooked(lifecycle: Value) -> Value {
    containers(json!({ "name": "c", "image": "app", "lifecycle": lifecycle }))
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_the_start_and_before_the_stop() {
    let node = Node::start();
    let ran = noting(&node, "app");
    node.put_pod(
        "p",
        hooked(json!({
            "postStart": { "exec": { "command": ["hello"] } }, "preStop": { "exec": { "command": ["bye"] } },
        })),
    );
    node.ready("p").await;
    assert_eq!(*ran.lock(), ["hello"]);
    node.delete_pod("p", 30);
    node.until("the pod is gone", |n| n.object("Pod", "p").is_none()).await;
    assert_eq!(*ran.lock(), ["hello", "bye"]);
    let calls = node.runtime.calls();
    let at = |rpc: &str| calls.iter().rposition(|c| c.starts_with(rpc)).unwrap();
    assert!(at("ExecSync") < at("StopContainer"), "{calls:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_post_start_hook_fails_is_stopped_and_tried_again() {
    let node = Node::start();
    let ran = noting(&node, "app");
    node.put_pod("p", hooked(json!({ "postStart": { "exec": { "command": ["fail"] } } })));
    node.until("it was tried twice", |_| ran.lock().len() >= 2).await;
    assert!(node.calls("StopContainer") >= 1);
    assert!(!is_ready(&node.status("p")));
    node.until("the event is there", |n| !n.events("FailedPostStartHook").is_empty()).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_that_fails_is_told_and_one_that_hangs_takes_no_more_than_the_grace() {
    let node = Node::start();
    let ran = noting(&node, "app");
    node.put_pod("p", hooked(json!({ "preStop": { "exec": { "command": ["fail"] } } })));
    node.put_pod("q", hooked(json!({ "preStop": { "sleep": { "seconds": 3600 } } })));
    node.ready("p").await;
    node.ready("q").await;
    node.delete_pod("p", 30);
    node.until("the pod is gone", |n| n.object("Pod", "p").is_none()).await;
    assert_eq!(*ran.lock(), ["fail"]);
    node.until("the event is there", |n| !n.events("FailedPreStopHook").is_empty()).await;
    assert_eq!(node.events("FailedPreStopHook"), ["PreStopHook failed: no"]);
    let began = Instant::now();
    node.delete_pod("q", 10);
    node.until("the pod is gone", |n| n.object("Pod", "q").is_none()).await;
    let took = began.elapsed().as_secs();
    assert!((10..=13).contains(&took), "{took}");
    node.stop().await;
}

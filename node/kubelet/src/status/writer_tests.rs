use super::writer::StatusWriter;
use client::fake_api::FakeApi;
use client::k8s_openapi::api::core::v1::PodStatus;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::test(start_paused = true)]
async fn a_status_that_changes_all_the_time_is_written_all_the_same() {
    let api = FakeApi::default();
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "d", "name": "p" } });
    api.put("/api/v1/namespaces/d/pods", "p", pod);
    let uid = api.objects()[0]["metadata"]["uid"].as_str().unwrap().to_owned();
    let writer = StatusWriter::new(api.client(), TaskTracker::new(), CancellationToken::new());
    let slot = writer.slot("d", "p", &uid);
    for i in 0..50 {
        let status = PodStatus { message: Some(i.to_string()), ..PodStatus::default() };
        slot.set(Arc::new(status), Duration::from_millis(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let writes = api.requests().len();
    assert!((10..=30).contains(&writes), "{writes} writes within half a second");
    slot.flushed().await;
    assert_eq!(api.objects()[0]["status"]["message"], "49");
}

//! `metrics.k8s.io`, and what the server tells of itself.
use crate::cluster::{Cluster, ambient, memory};
use apiserver::Config;
use machinery::metrics::{MetricsReader, NodeUsage, PodUsage, Usage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Knows one node and the pods called `web…`.
struct Known;

impl MetricsReader for Known {
    fn node(&self, name: &str) -> Option<NodeUsage> {
        let usage = Usage { cpu_nanocores: 250_000_000, memory_bytes: 3 << 20, ..Usage::default() };
        let timestamp = jiff::Timestamp::constant(1_800_000_000, 0);
        (name == "n1").then_some(NodeUsage { timestamp, window: Duration::from_secs(15), usage })
    }
    fn pod(&self, _: &str, name: &str) -> Option<PodUsage> {
        let usage = Usage { cpu_nanocores: 1, memory_bytes: 1024, requests_millis_per_second: Some(1_500) };
        let timestamp = jiff::Timestamp::constant(1_800_000_000, 0);
        let containers = vec![("c".to_owned(), usage)];
        name.starts_with("web").then_some(PodUsage { timestamp, window: Duration::from_secs(15), containers })
    }
}

async fn measured() -> Cluster {
    let cluster =
        Cluster::bare(Config { metrics: Some(Arc::new(Known)), ..Config::new(memory(), ambient()) });
    cluster.server.ensure_bootstrap().await.unwrap();
    cluster
}

fn pod(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

#[tokio::test]
async fn without_a_reader_the_group_is_not_there() {
    let c = Cluster::new().await;
    assert!(!c.get("/apis").await.text.contains("metrics.k8s.io"));
    for path in ["/apis/metrics.k8s.io", "/apis/metrics.k8s.io/v1beta1", "/apis/metrics.k8s.io/v1beta1/nodes"]
    {
        assert_eq!(c.get(path).await.code, 404, "{path}");
    }
}

#[tokio::test]
async fn nodes_and_running_pods_are_told_with_what_they_use() {
    let c = measured().await;
    assert!(c.get("/apis").await.text.contains("metrics.k8s.io/v1beta1"));
    let resources = c.get("/apis/metrics.k8s.io/v1beta1").await.expect(200);
    assert_eq!(resources["resources"].as_array().unwrap().len(), 2);
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"disk": "ssd"}}});
        c.post("/api/v1/nodes", node).await.expect(201);
    }
    let nodes = c.get("/apis/metrics.k8s.io/v1beta1/nodes").await.expect(200);
    assert_eq!((&nodes["kind"], nodes["items"].as_array().unwrap().len()), (&json!("NodeMetricsList"), 1));
    let node = c.get("/apis/metrics.k8s.io/v1beta1/nodes/n1").await.expect(200);
    assert_eq!(node["usage"], json!({"cpu": "250m", "memory": "3Mi"}));
    assert_eq!((&node["window"], &node["metadata"]["labels"]["disk"]), (&json!("15s"), &json!("ssd")));
    let missing = c.get("/apis/metrics.k8s.io/v1beta1/nodes/n2").await;
    assert_eq!((missing.code, missing.message()), (404, "nodes.metrics.k8s.io \"n2\" not found".to_owned()));

    let pods = "/api/v1/namespaces/default/pods";
    for (name, app) in [("web-a", "web"), ("web-b", "web"), ("web-c", "other"), ("db", "web")] {
        c.post(pods, pod(name, app)).await.expect(201);
    }
    let all = "/apis/metrics.k8s.io/v1beta1/pods";
    assert_eq!(c.get(all).await.expect(200)["items"], json!([]), "none of them runs");
    for name in ["web-a", "web-c", "db"] {
        let status = json!({"status": {"phase": "Running"}});
        c.patch(&format!("{pods}/{name}/status"), "merge-patch", status).await.expect(200);
    }
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().clone();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(c.get(all).await.expect(200)), ["web-a", "web-c"]);
    assert_eq!(names(c.get(&format!("{all}?labelSelector=app%3Dweb")).await.expect(200)), ["web-a"]);
    assert_eq!(
        names(c.get(&format!("{all}?fieldSelector=metadata.name%3Dweb-c")).await.expect(200)),
        ["web-c"]
    );
    let one = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web-a";
    let web = c.get(one).await.expect(200);
    assert_eq!(
        web["containers"],
        json!([{"name": "c", "usage": {"cpu": "1n", "memory": "1Ki", "dhow.dev/requests-per-second": "1500m"}}])
    );
    assert_eq!(
        names(c.get("/apis/metrics.k8s.io/v1beta1/namespaces/other/pods").await.expect(200)),
        [] as [&str; 0]
    );
    // Read only.
    assert_eq!(c.delete(one, Value::Null).await.code, 405);
    assert_eq!(c.get(&format!("{all}?watch=1")).await.code, 405);
}

#[tokio::test]
async fn autoscalers_are_one_object_in_two_versions() {
    let c = Cluster::new().await;
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let autoscaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 5,
            "targetCPUUtilizationPercentage": 60}});
    let made = c.post(old, autoscaler).await.expect(201);
    assert_eq!(made["spec"]["targetCPUUtilizationPercentage"], 60);
    let read = c.get(&format!("{new}/web")).await.expect(200);
    assert_eq!(read["apiVersion"], "autoscaling/v2");
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let metric = json!({"type": "Pods", "pods": {"metric": {"name": "requests_per_second"},
        "target": {"type": "AverageValue", "averageValue": "20"}}});
    let both = json!({"spec": {"metrics": [read["spec"]["metrics"][0], metric], "minReplicas": 2}});
    c.patch(&format!("{new}/web"), "merge-patch", both).await.expect(200);
    let back =
        c.patch(&format!("{old}/web"), "merge-patch", json!({"spec": {"maxReplicas": 7}})).await.expect(200);
    assert_eq!((&back["spec"]["minReplicas"], &back["spec"]["maxReplicas"]), (&json!(2), &json!(7)));
    let read = c.get(&format!("{new}/web")).await.expect(200);
    assert_eq!(read["spec"]["metrics"].as_array().unwrap().len(), 2, "{read}");
    assert_eq!(read["spec"]["maxReplicas"], 7);
    let bad = c.patch(&format!("{new}/web"), "merge-patch", json!({"spec": {"maxReplicas": 1}})).await;
    assert_eq!(bad.code, 422);
    assert!(bad.message().contains("must be greater than or equal to `minReplicas`"), "{}", bad.message());
}

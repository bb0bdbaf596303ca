//! Horizontal pod autoscaling, with pods that are told to be busy.
use crate::cluster::{Cluster, template};
use client::Informer;
use controllers::Config;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Event;
use machinery::metrics::{MetricsReader, NodeUsage, PodUsage, Usage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Every pod answers so many requests per second, in thousandths.
#[derive(Default)]
struct Load(AtomicU64);

impl MetricsReader for Load {
    fn node(&self, _: &str) -> Option<NodeUsage> {
        None
    }
    fn pod(&self, _: &str, _: &str) -> Option<PodUsage> {
        let usage = Usage { requests_millis_per_second: Some(self.0.load(Relaxed)), ..Usage::default() };
        let timestamp = jiff::Timestamp::constant(1_767_225_600, 0);
        Some(PodUsage {
            timestamp,
            window: Duration::from_secs(15),
            containers: vec![("c".to_owned(), usage)],
        })
    }
}

fn autoscaler(target: &str) -> Value {
    json!({
        "metadata": { "name": "web" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target },
            "minReplicas": 1, "maxReplicas": 8,
            "metrics": [{ "type": "Pods", "pods": { "metric": { "name": "requests_per_second" },
                "target": { "type": "AverageValue", "averageValue": "20" } } }],
        },
    })
}

fn condition(a: &Informer<HorizontalPodAutoscaler>, kind: &str) -> Option<(String, String)> {
    let a = a.get("default", "web")?;
    let found = a.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)?.clone();
    Some((found.status, found.reason.unwrap_or_default()))
}

fn available(d: &Informer<Deployment>) -> i32 {
    let d = d.get("default", "web");
    d.and_then(|d| d.status.as_ref()?.available_replicas).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_deployment_grows_under_load_up_to_the_most_and_shrinks_once_it_was_quiet_for_long_enough() {
    let load = Arc::new(Load::default());
    let mut cluster = Cluster::measured(Config::default(), Some(load.clone())).await;
    cluster.node("n1").await;
    let deployment = json!({ "metadata": { "name": "web" }, "spec": {
        "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img") } });
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment>("it runs", |d| available(d) == 1).await;
    cluster.create::<HorizontalPodAutoscaler>(autoscaler("web")).await;
    let valid = Some(("True".to_owned(), "ValidMetricFound".to_owned()));
    cluster
        .until::<HorizontalPodAutoscaler>("the metric is found", |a| condition(a, "ScalingActive") == valid)
        .await;
    cluster.pass(Duration::from_secs(600)).await;
    cluster.until::<Deployment>("nothing to do, nothing done", |d| available(d) == 1).await;

    load.0.store(40_000, Relaxed);
    cluster.until::<Deployment>("as many as may be", |d| available(d) == 8).await;
    let told = |e: &Informer<Event>| {
        e.list().iter().any(|e| {
            e.reason.as_deref() == Some("SuccessfulRescale")
                && e.message.as_deref()
                    == Some("New size: 8; reason: pods metric requests_per_second above target")
        })
    };
    cluster.until::<Event>("it is told", told).await;
    let limited = Some(("True".to_owned(), "TooManyReplicas".to_owned()));
    cluster
        .until::<HorizontalPodAutoscaler>("it is held by the most", |a| {
            condition(a, "ScalingLimited") == limited
        })
        .await;

    load.0.store(0, Relaxed);
    cluster.pass(Duration::from_secs(200)).await;
    cluster.until::<Deployment>("it waits", |d| available(d) == 8).await;
    let held = Some(("True".to_owned(), "ScaleDownStabilized".to_owned()));
    cluster.until::<HorizontalPodAutoscaler>("and says so", |a| condition(a, "AbleToScale") == held).await;
    cluster.until::<Deployment>("as few as may be", |d| available(d) == 1).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_not_there_is_told_and_found_when_it_comes() {
    let load = Arc::new(Load::default());
    let mut cluster = Cluster::measured(Config::default(), Some(load)).await;
    cluster.node("n1").await;
    cluster.create::<HorizontalPodAutoscaler>(autoscaler("web")).await;
    let failed = Some(("False".to_owned(), "FailedGetScale".to_owned()));
    cluster.until::<HorizontalPodAutoscaler>("no scale", |a| condition(a, "AbleToScale") == failed).await;
    let deployment = json!({ "metadata": { "name": "web" }, "spec": {
        "replicas": 12, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img") } });
    cluster.create::<Deployment>(deployment).await;
    cluster.until::<Deployment>("no more than may be", |d| available(d) == 8).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_metrics_nothing_is_scaled_and_the_status_says_why() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1").await;
    let deployment = json!({ "metadata": { "name": "web" }, "spec": {
        "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template("web", "img") } });
    cluster.create::<Deployment>(deployment).await;
    cluster.create::<HorizontalPodAutoscaler>(autoscaler("web")).await;
    let failed = Some(("False".to_owned(), "FailedGetPodsMetric".to_owned()));
    cluster.until::<HorizontalPodAutoscaler>("no metrics", |a| condition(a, "ScalingActive") == failed).await;
    cluster.until::<Deployment>("as it was", |d| available(d) == 3).await;
    cluster.stop().await;
}

//! The figures as the server tells them: asked of the runtime at each request.
use super::routes::{State, refuse_for};
use crate::metrics::exposition::{CONTENT_TYPE, Family, text};
use crate::metrics::figures::{PodUse, compute_uses};
use crate::metrics::node_usage::NodeUsage;
use crate::metrics::{cadvisor, resource, summary};
use axum::Extension;
use axum::response::{IntoResponse, Response};
use http::header;
use std::sync::Arc;

fn exposed(text: String) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

impl State {
    /// What the runtime's containers use, by pod, and what else it measured.
    async fn uses(&self) -> Result<(Vec<PodUse>, Vec<cri::PodSandboxMetrics>), cri::Error> {
        let stats = self.runtime.list_container_stats(cri::ListContainerStatsRequest::default()).await?;
        let metrics = match self.runtime.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await
        {
            Ok(answer) => answer.pod_metrics,
            // Most runtimes measure no more than CPU and memory.
            Err(cri::Error::Unimplemented(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let status = |namespace: &str, name: &str| {
            self.registry.get(namespace, name).map(|entry| entry.mailbox.shown())
        };
        Ok((compute_uses(stats.stats, &metrics, status), metrics))
    }
}

/// `/metrics`: the kubelet's own.
pub(super) async fn kubelet(Extension(state): Extension<Arc<State>>) -> Response {
    let (mut pods, mut containers) = (0, 0);
    for pod in state.pods.list() {
        let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
        let Some(entry) = state.registry.get(namespace.unwrap_or_default(), name.unwrap_or_default()) else {
            continue;
        };
        let shown = entry.mailbox.shown();
        let statuses = shown.container_statuses.iter().flatten();
        let running = statuses.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some())).count();
        containers += running;
        pods += usize::from(running > 0);
    }
    let now = vec![
        Family::gauge("kubelet_node_name", "The node's name; the count is always 1")
            .row(&[("node", &state.node_name)], 1.0),
        Family::gauge("kubelet_active_pods", "Pods this kubelet manages")
            .row(&[("static", "")], state.registry.len() as f64),
        Family::gauge("kubelet_running_pods", "Pods that have a running container").row(&[], pods as f64),
        Family::gauge("kubelet_running_containers", "Containers that run")
            .row(&[("container_state", "running")], containers as f64),
    ];
    exposed(state.metrics.text(now))
}

/// `/metrics/resource`. A runtime that does not answer is told as `scrape_error`, as upstream does.
pub(super) async fn resource(Extension(state): Extension<Arc<State>>) -> Response {
    let node = NodeUsage::read().await;
    let uses = state.uses().await;
    if let Err(error) = &uses {
        tracing::warn!(%error, "the runtime did not tell what its containers use");
    }
    let (pods, error) = match uses {
        Ok((pods, _)) => (pods, false),
        Err(_) => (Vec::new(), true),
    };
    exposed(text(resource::compute_families(node.as_ref(), &pods, error)))
}

/// `/metrics/cadvisor`: CPU, memory and all the runtime measures beyond.
pub(super) async fn cadvisor(Extension(state): Extension<Arc<State>>) -> Response {
    let (pods, metrics) = match state.uses().await {
        Ok(uses) => uses,
        Err(error) => return refuse_for(&error),
    };
    let descriptors = match state.runtime.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await
    {
        Ok(answer) => answer.descriptors,
        Err(cri::Error::Unimplemented(_)) => Vec::new(),
        Err(error) => return refuse_for(&error),
    };
    let own = resource::compute_families(None, &pods, false);
    let own = own.into_iter().filter(|f| f.name.starts_with("container_"));
    let families = own.chain(cadvisor::compute_families(&descriptors, &metrics, &pods)).collect();
    exposed(text(families))
}

/// `/stats/summary`.
pub(super) async fn summary(Extension(state): Extension<Arc<State>>) -> Response {
    let node = NodeUsage::read().await;
    match state.uses().await {
        Ok((pods, _)) => {
            let now = state.ambient.now();
            axum::Json(summary::compute_summary(&state.node_name, node.as_ref(), &pods, now)).into_response()
        }
        Err(error) => refuse_for(&error),
    }
}

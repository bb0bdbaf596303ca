//! Values of one metric by pod, taken out of PodMetrics.
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use jiff::Timestamp;
use machinery::metrics::{REQUESTS_PER_SECOND, parse_go_duration};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// `metrics.k8s.io/v1beta1` PodMetrics, as far as it is read here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PodMetrics {
    pub(super) metadata: ObjectMeta,
    pub(super) timestamp: Option<Timestamp>,
    #[serde(default)]
    pub(super) window: String,
    #[serde(default)]
    pub(super) containers: Vec<ContainerMetrics>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ContainerMetrics {
    pub(super) name: String,
    #[serde(default)]
    pub(super) usage: BTreeMap<String, Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PodMetricsList {
    #[serde(default)]
    pub(super) items: Vec<PodMetrics>,
}

/// One pod's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// In thousandths: of a core, a byte, a request per second.
    pub(super) value: i64,
    /// The end of the window it was measured in, and the window.
    pub(super) timestamp: Timestamp,
    pub(super) window: Duration,
}

/// By pod name.
pub(super) type Samples = BTreeMap<String, Sample>;

/// The metric of pods that is known without a custom metrics API: what a wasm pod's requests come to.
pub(super) const REQUESTS: &str = "requests_per_second";

/// Where a metric is found in PodMetrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of<'a> {
    /// `cpu` or `memory` of all containers together.
    Pod(&'a str),
    /// Of the container of this name.
    Container(&'a str, &'a str),
    /// Requests per second of the containers that answer requests.
    Requests,
}

/// A quantity in thousandths.
pub(super) fn millis(quantity: &Quantity) -> Option<i64> {
    machinery::quantity::Quantity::parse(&quantity.0).ok().map(machinery::quantity::Quantity::milli_value)
}

/// The samples of a metric. A pod of which it is not known whole is left out; with no metrics at all the error is
/// upstream's.
pub(super) fn samples(all: &[PodMetrics], of: Of<'_>) -> Result<Samples, String> {
    if all.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    let mut samples = Samples::new();
    for metrics in all {
        let Some(name) = metrics.metadata.name.clone() else { continue };
        let value = match of {
            Of::Pod(resource) => {
                metrics.containers.iter().map(|c| c.usage.get(resource).and_then(millis)).sum::<Option<i64>>()
            }
            Of::Container(container, resource) => {
                let Some(found) = metrics.containers.iter().find(|c| c.name == container) else {
                    let namespace = metrics.metadata.namespace.as_deref().unwrap_or_default();
                    return Err(format!(
                        "container {container} not present in metrics for pod {namespace}/{name}"
                    ));
                };
                found.usage.get(resource).and_then(millis)
            }
            Of::Requests => {
                // A container that answers no requests is no reason to know none of the pod.
                let counted: Vec<i64> = metrics
                    .containers
                    .iter()
                    .filter_map(|c| c.usage.get(REQUESTS_PER_SECOND).and_then(millis))
                    .collect();
                (!counted.is_empty()).then(|| counted.iter().sum())
            }
        };
        let (Some(value), Some(timestamp)) = (value, metrics.timestamp) else { continue };
        let window = parse_go_duration(&metrics.window).unwrap_or_default();
        samples.insert(name, Sample { value, timestamp, window });
    }
    Ok(samples)
}

//! Decisions without an API server, for a benchmark to time.
use crate::cache::Cache;
use crate::decide::{Sampling, schedule_one};
use crate::framework::Framework;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::{Container, Node, NodeStatus, Pod, PodSpec, ResourceRequirements};
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throughput {
    pub placed: usize,
    pub refused: usize,
    /// Pods on the fullest and on the emptiest node.
    pub most: usize,
    pub least: usize,
}

fn quantities(list: &[(&str, &str)]) -> Option<std::collections::BTreeMap<String, Quantity>> {
    Some(list.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
}

/// A node of 32 cores and 64 GiB that holds 110 pods.
pub fn node(name: &str) -> Node {
    Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        status: Some(NodeStatus {
            allocatable: quantities(&[("cpu", "32"), ("memory", "64Gi"), ("pods", "110")]),
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

/// A pod that asks for a tenth of a core and 128 MiB.
pub fn pod(name: &str) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(format!("uid-{name}")),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "c".into(),
                resources: Some(ResourceRequirements {
                    requests: quantities(&[("cpu", "100m"), ("memory", "128Mi")]),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

/// Schedules `pods` equal pods on `nodes` equal empty nodes, assuming each: what the loop does for every pod
/// but the requests.
pub fn schedule_all(nodes: usize, pods: usize, random: &mut dyn FnMut() -> u64) -> Throughput {
    let framework = Framework::default();
    let mut cache = Cache::default();
    for i in 0..nodes {
        cache.set_node(Arc::new(node(&format!("node-{i}"))));
    }
    let mut sampling = Sampling::default();
    let (mut placed, mut refused) = (0, 0);
    for i in 0..pods {
        let pod = Arc::new(PodInfo::new(Arc::new(pod(&format!("pod-{i}")))));
        match schedule_one(&framework, cache.snapshot(), &pod, sampling, random) {
            Ok(placement) => {
                sampling.start = (sampling.start + placement.looked_at) % nodes.max(1);
                cache.assume(pod, &placement.node);
                placed += 1;
            }
            Err(_) => refused += 1,
        }
    }
    let counts = || cache.snapshot().nodes().iter().map(|n| n.pod_count());
    Throughput { placed, refused, most: counts().max().unwrap_or(0), least: counts().min().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pods_spread_over_equal_nodes_until_these_are_full() {
        let mut state = 7u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 16
        };
        let even = schedule_all(10, 1000, &mut random);
        // Scores are whole hundredths, so nodes a pod or three apart count as equal.
        assert_eq!((even.placed, even.refused), (1000, 0));
        assert!(even.most <= 103 && even.least >= 97, "{even:?}");
        let full = schedule_all(10, 1105, &mut random);
        assert_eq!(full, Throughput { placed: 1100, refused: 5, most: 110, least: 110 });
    }
}

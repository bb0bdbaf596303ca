//! The topology spread constraints of a pod, ready to be counted.
use crate::affinity_term::narrow;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::Pod;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// One constraint, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadConstraint {
    /// `DoNotSchedule`; else `ScheduleAnyway`.
    pub required: bool,
    pub max_skew: i64,
    pub topology_key: String,
    pub min_domains: usize,
    /// Nodes that the pod's selector and affinity leave out do not count.
    pub honours_affinity: bool,
    /// Nodes with taints that the pod does not tolerate do not count.
    pub honours_taints: bool,
    /// `None` takes no pod.
    selector: Option<LabelSelector>,
    namespace: String,
}

impl SpreadConstraint {
    /// All constraints of a pod.
    pub fn all_of(pod: &Pod) -> Vec<Self> {
        let constraints = pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
        constraints
            .map(|c| {
                let mut selector = c.label_selector.clone();
                if let Some(selector) = &mut selector {
                    narrow(selector, pod, "In", c.match_label_keys.as_deref());
                }
                Self {
                    required: c.when_unsatisfiable == "DoNotSchedule",
                    max_skew: i64::from(c.max_skew),
                    topology_key: c.topology_key.clone(),
                    min_domains: usize::try_from(c.min_domains.unwrap_or(1)).unwrap_or(1),
                    honours_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
                    honours_taints: c.node_taints_policy.as_deref() == Some("Honor"),
                    selector,
                    namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                }
            })
            .collect()
    }

    /// Whether the constraint counts `pod`, were it placed.
    pub fn takes(&self, pod: &PodInfo) -> bool {
        pod.key.namespace == self.namespace
            && self.selector.as_ref().is_some_and(|s| client::selector::matches(s, pod.labels()))
    }

    /// How many pods of a node it counts. One that is being deleted makes room already.
    pub fn count(&self, node: &NodeInfo) -> i64 {
        let counts =
            |p: &&std::sync::Arc<PodInfo>| p.pod.metadata.deletion_timestamp.is_none() && self.takes(p);
        i64::try_from(node.pods().filter(counts).count()).unwrap_or(i64::MAX)
    }
}

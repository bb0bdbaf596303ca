//! One file a plugin. All are pure and have no state.
mod import_support;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod preemption;
mod runtime_support;
#[cfg(test)]
mod spread_tests;
mod taint_toleration;
#[cfg(test)]
mod tests;

pub use import_support::ImportSupport;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_balanced_allocation::NodeResourcesBalancedAllocation;
pub use node_resources_fit::NodeResourcesFit;
pub use node_unschedulable::NodeUnschedulable;
pub use pod_topology_spread::PodTopologySpread;
pub use preemption::Preemption;
pub use runtime_support::RuntimeSupport;
pub use taint_toleration::TaintToleration;

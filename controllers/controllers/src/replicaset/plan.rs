//! What one ReplicaSet needs, decided from what is there. Pure.
use crate::pod::{self, Availability};
use crate::selector::Labels;
use client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use client::k8s_openapi::api::core::v1::Pod;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;
use std::time::Duration;

/// The most pods created or deleted in one pass (kube-controller-manager's burst): a mistaken `replicas` stays
/// correctable, and one pass stays under a second at 1,000 writes a second.
pub(crate) const BURST: usize = 500;

/// What the planner sees.
pub(crate) struct World<'a> {
    pub(crate) replica_set: &'a ReplicaSet,
    /// The pods it controls, active or not.
    pub(crate) pods: &'a [&'a Pod],
    pub(crate) now: Timestamp,
}

/// What is to be done, and if nothing, why.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// So many pods are missing.
    pub(crate) create: usize,
    /// These pods are too many, by name.
    pub(crate) delete: Vec<String>,
    /// A ready pod becomes available after this long: look again then.
    pub(crate) look_again: Option<Duration>,
    pub(crate) why: Why,
}

/// The reason for what a plan does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Why {
    #[default]
    AsWanted,
    TooFew,
    TooMany,
    /// The ReplicaSet is being deleted: its pods are the garbage collector's.
    Terminating,
}

/// Decides what to create and delete.
pub(crate) fn plan_replicas(world: &World<'_>) -> Plan {
    let mut plan = Plan { look_again: next_available(world), ..Plan::default() };
    if world.replica_set.metadata.deletion_timestamp.is_some() {
        plan.why = Why::Terminating;
        return plan;
    }
    let want = wanted(world.replica_set);
    let mut active: Vec<&Pod> = world.pods.iter().copied().filter(|p| pod::is_active(p)).collect();
    if active.len() < want {
        plan.create = (want - active.len()).min(BURST);
        plan.why = Why::TooFew;
    } else if active.len() > want {
        pod::sort_for_deletion(&mut active);
        let excess = (active.len() - want).min(BURST);
        plan.delete = active[..excess].iter().filter_map(|p| p.metadata.name.clone()).collect();
        plan.why = Why::TooMany;
    }
    plan
}

/// `spec.replicas`, 1 if it is missing.
pub(crate) fn wanted(rs: &ReplicaSet) -> usize {
    let replicas = rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

fn min_ready_seconds(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

fn next_available(world: &World<'_>) -> Option<Duration> {
    let min = min_ready_seconds(world.replica_set);
    let waits = world.pods.iter().filter(|p| pod::is_active(p)).filter_map(|p| {
        match pod::availability(p, min, world.now) {
            Availability::In(wait) => Some(wait),
            Availability::Available | Availability::NotReady => None,
        }
    });
    waits.min()
}

/// The status that fits the world. `failure` is what went wrong in this pass: a reason and a message.
pub(crate) fn compute_status(world: &World<'_>, failure: Option<(&str, &str)>) -> ReplicaSetStatus {
    let rs = world.replica_set;
    let no_labels = Labels::new();
    let template = rs.spec.as_ref().and_then(|s| s.template.as_ref());
    let wanted_labels =
        template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref()).unwrap_or(&no_labels);
    let (mut replicas, mut labeled, mut ready, mut available) = (0, 0, 0, 0);
    for p in world.pods.iter().filter(|p| pod::is_active(p)) {
        replicas += 1;
        let labels = p.metadata.labels.as_ref();
        if crate::selector::equality_matches(wanted_labels, labels) {
            labeled += 1;
        }
        if pod::is_ready(p) {
            ready += 1;
            if pod::availability(p, min_ready_seconds(rs), world.now) == Availability::Available {
                available += 1;
            }
        }
    }
    let old = rs.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: Some(labeled),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        observed_generation: rs.metadata.generation,
        conditions: compute_conditions(old.conditions.unwrap_or_default(), failure, world.now),
        terminating_replicas: old.terminating_replicas,
    }
}

/// ReplicaFailure is there exactly as long as the last pass failed; its transition time is the first failure's.
fn compute_conditions(
    mut old: Vec<ReplicaSetCondition>,
    failure: Option<(&str, &str)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    match failure {
        None => old.retain(|c| c.type_ != "ReplicaFailure"),
        Some((reason, message)) => {
            if !old.iter().any(|c| c.type_ == "ReplicaFailure" && c.reason.as_deref() == Some(reason)) {
                old.retain(|c| c.type_ != "ReplicaFailure");
                old.push(ReplicaSetCondition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(reason.to_owned()),
                    message: Some(message.to_owned()),
                    last_transition_time: Some(Time(now)),
                });
            }
        }
    }
    (!old.is_empty()).then_some(old)
}

/// Whether two statuses say the same; missing numbers are zero.
pub(crate) fn same_status(a: &ReplicaSetStatus, b: &ReplicaSetStatus) -> bool {
    a.replicas == b.replicas
        && a.fully_labeled_replicas.unwrap_or(0) == b.fully_labeled_replicas.unwrap_or(0)
        && a.ready_replicas.unwrap_or(0) == b.ready_replicas.unwrap_or(0)
        && a.available_replicas.unwrap_or(0) == b.available_replicas.unwrap_or(0)
        && a.observed_generation == b.observed_generation
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}

/// The sizes of slow-start batches: 1, 2, 4, … so that a quota or an admission error is met by one request, not
/// by five hundred.
pub(crate) fn slow_start(total: usize) -> impl Iterator<Item = usize> {
    let mut left = total;
    let mut size = 1;
    std::iter::from_fn(move || {
        let batch = size.min(left);
        left -= batch;
        size *= 2;
        (batch > 0).then_some(batch)
    })
}

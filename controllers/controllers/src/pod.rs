//! What controllers ask of a pod: is it active, ready, available, and which one goes first.
use client::k8s_openapi::api::core::v1::{Pod, PodCondition};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

/// `status.phase`, `""` before there is one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether every container has ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody asked for its deletion.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it counts towards a controller's replicas.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// A condition of the pod by its type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether its Ready condition is True.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when it is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let c = condition(pod, "Ready").filter(|c| c.status == "True")?;
    c.last_transition_time.as_ref().map(|t| t.0)
}

/// How far a pod is from being available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// Ready, and available after this long if it stays so.
    In(Duration),
    NotReady,
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let wait = SignedDuration::from_secs(min_ready_seconds.into());
    match ready_since(pod) {
        None => Availability::NotReady,
        Some(since) => match left(since, wait, now) {
            None => Availability::Available,
            Some(rest) => Availability::In(rest),
        },
    }
}

/// What is left of `span` counted from `since`; `None` once it is over. Rounded up to whole milliseconds and
/// never zero, so that a timer set to it finds the time over when it fires.
pub(crate) fn left(since: Timestamp, span: SignedDuration, now: Timestamp) -> Option<Duration> {
    let rest = span.checked_sub(now.duration_since(since))?;
    if rest <= SignedDuration::ZERO {
        return None;
    }
    Some(Duration::from_millis(u64::try_from(rest.as_millis()).unwrap_or(u64::MAX) + 1))
}

/// Container restarts, all containers together; the largest single count, as upstream ranks by it.
pub(crate) fn max_restarts(pod: &Pod) -> i32 {
    pod.status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .map(|all| all.iter().map(|c| c.restart_count).max().unwrap_or(0))
        .unwrap_or(0)
}

/// The node it is bound to.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// `controller.kubernetes.io/pod-deletion-cost`; 0 if missing or unreadable.
fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// Sorts so that the pods whose loss costs least come first: unassigned before assigned, Pending before Unknown
/// before Running, not ready before ready, low deletion cost, doubled up on a node, ready for less time, more
/// restarts, younger; the name decides what is left, so that the order is the same every time.
pub(crate) fn sort_for_deletion(pods: &mut [&Pod]) {
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for name in pods.iter().filter_map(|p| node(p)) {
        *on_node.entry(name.to_owned()).or_default() += 1;
    }
    let crowd = |p: &Pod| node(p).and_then(|n| on_node.get(n)).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        node(a)
            .is_some()
            .cmp(&node(b).is_some())
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| crowd(b).cmp(&crowd(a)))
            .then_with(|| later_first(ready_since(a), ready_since(b)))
            .then_with(|| max_restarts(b).cmp(&max_restarts(a)))
            .then_with(|| later_first(created(a), created(b)))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "" | "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// An unknown time counts as the latest.
fn later_first(a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

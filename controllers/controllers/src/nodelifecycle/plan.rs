//! What a node's silence means for it and for its pods. Pure.
use client::k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions a kubelet posts; all of them become Unknown when it falls silent.
const KUBELET_CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// NoSchedule taints that follow conditions: condition, the status that taints, key.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// What the planner sees of a node.
pub(crate) struct World<'a> {
    pub(crate) node: &'a Node,
    /// When, by this process's clock, the node last gave a sign of life.
    pub(crate) heard: Timestamp,
    /// `--node-monitor-grace-period`.
    pub(crate) grace: SignedDuration,
    /// Whether some other node is ready. If none is, the fault is more likely here than in all of them, and
    /// there is nowhere to move pods to: nothing is evicted.
    pub(crate) others_ready: bool,
    pub(crate) now: Timestamp,
}

/// What is to be done about a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// All conditions as they shall be, if any is to change.
    pub(crate) conditions: Option<Vec<NodeCondition>>,
    /// All taints as they shall be, if any is to change.
    pub(crate) taints: Option<Vec<Taint>>,
    /// Its pods cannot be ready.
    pub(crate) silent: bool,
    pub(crate) look_again: Option<Duration>,
    pub(crate) why: Why,
}

/// The reason for what a plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Ready,
    /// Its kubelet says that it is not.
    NotReady,
    /// Nothing was heard of it for the grace period.
    Silent,
    Terminating,
}

fn condition<'a>(all: &'a [NodeCondition], kind: &str) -> Option<&'a NodeCondition> {
    all.iter().find(|c| c.type_ == kind)
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// Whether the Ready condition is True.
pub(crate) fn is_ready(node: &Node) -> bool {
    condition(conditions(node), "Ready").is_some_and(|c| c.status == "True")
}

/// Decides about a node.
pub(crate) fn plan_node(world: &World<'_>) -> Plan {
    let mut plan =
        Plan { conditions: None, taints: None, silent: false, look_again: None, why: Why::Terminating };
    if world.node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let seen = conditions(world.node);
    let mut now_are = seen.to_vec();
    match crate::pod::left(world.heard, world.grace, world.now) {
        Some(wait) => plan.look_again = Some(wait),
        None => {
            plan.silent = true;
            for kind in KUBELET_CONDITIONS {
                silence(&mut now_are, kind, world.now);
            }
        }
    }
    let ready = condition(&now_are, "Ready").map_or("Unknown", |c| c.status.as_str());
    plan.why = match ready {
        _ if plan.silent => Why::Silent,
        "True" => Why::Ready,
        _ => Why::NotReady,
    };
    let taints = compute_taints(world, &now_are);
    let old = world.node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    plan.taints = (taints != old).then_some(taints);
    plan.conditions = (now_are != seen).then_some(now_are);
    plan
}

fn silence(all: &mut Vec<NodeCondition>, kind: &str, now: Timestamp) {
    match all.iter_mut().find(|c| c.type_ == kind) {
        Some(c) if c.status == "Unknown" => {}
        Some(c) => {
            c.status = "Unknown".into();
            c.reason = Some("NodeStatusUnknown".into());
            c.message = Some("Kubelet stopped posting node status.".into());
            c.last_transition_time = Some(Time(now));
        }
        None => all.push(NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusNeverUpdated".into()),
            message: Some("Kubelet never posted node status.".into()),
            last_heartbeat_time: None,
            last_transition_time: Some(Time(now)),
        }),
    }
}

/// The taints that fit the conditions; foreign taints stay, and so does the time of one that stays.
fn compute_taints(world: &World<'_>, conditions: &[NodeCondition]) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key) in CONDITION_TAINTS {
        if condition(conditions, kind).is_some_and(|c| c.status == *status) {
            wanted.push((key, "NoSchedule"));
            if *kind == "Ready" && world.others_ready {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if world.node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        let by_condition = CONDITION_TAINTS.iter().any(|(_, _, key)| t.key == *key);
        match t.effect.as_str() {
            "NoSchedule" => by_condition || t.key == UNSCHEDULABLE,
            "NoExecute" => t.key == NOT_READY || t.key == UNREACHABLE,
            _ => false,
        }
    };
    let old = world.node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut taints: Vec<Taint> = old
        .into_iter()
        .filter(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(world.now)),
            });
        }
    }
    taints
}

/// What the NoExecute taints of its node mean for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    Never,
    In(Duration),
    Now,
}

/// Decides about a pod on a node with `taints`.
pub(crate) fn plan_eviction(pod: &Pod, taints: &[Taint], now: Timestamp) -> Eviction {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() || crate::pod::is_terminal(pod) {
        return Eviction::Never;
    }
    let mut first = Eviction::Never;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let mut matching = tolerations.iter().filter(|t| client::tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Eviction::Now;
        }
        // The shortest one counts; one without seconds holds for ever.
        let Some(seconds) = matching.filter_map(|t| t.toleration_seconds).min() else { continue };
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let Some(left) = crate::pod::left(since, SignedDuration::from_secs(seconds), now) else {
            return Eviction::Now;
        };
        first = match first {
            Eviction::In(sooner) if sooner <= left => first,
            Eviction::In(_) | Eviction::Never | Eviction::Now => Eviction::In(left),
        };
    }
    first
}

use super::plan::{Eviction, Why, World, plan_eviction, plan_node};
use client::k8s_openapi::api::core::v1::{
    Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodSpec, Taint, Toleration,
};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::{SignedDuration, Timestamp};

fn t(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn node(ready: &str) -> Node {
    Node {
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: ready.into(),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

fn plan(node: &Node, heard: i64, others_ready: bool, now: i64) -> super::plan::Plan {
    let grace = SignedDuration::from_secs(40);
    plan_node(&World { node, heard: t(heard), grace, others_ready, now: t(now) })
}

fn effects(taints: &Option<Vec<Taint>>) -> Vec<String> {
    taints.iter().flatten().map(|t| format!("{}:{}", t.key, t.effect)).collect()
}

#[test]
fn a_node_that_is_heard_is_left_alone_until_the_grace_period_ends() {
    let p = plan(&node("True"), 0, true, 30);
    assert_eq!((p.why, p.conditions, p.taints), (Why::Ready, None, None));
    assert_eq!(p.look_again.unwrap().as_secs(), 10);
}

#[test]
fn a_silent_node_becomes_unknown_and_is_tainted_twice() {
    let p = plan(&node("True"), 0, true, 40);
    assert_eq!(p.why, Why::Silent);
    let conditions = p.conditions.unwrap();
    assert!(conditions.iter().all(|c| c.status == "Unknown"));
    assert_eq!(conditions[0].message.as_deref(), Some("Kubelet stopped posting node status."));
    assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
    assert_eq!(
        effects(&p.taints),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
}

#[test]
fn when_every_node_is_silent_nothing_is_evicted() {
    let p = plan(&node("True"), 0, false, 40);
    assert_eq!(effects(&p.taints), ["node.kubernetes.io/unreachable:NoSchedule"]);
}

#[test]
fn a_node_that_says_it_is_not_ready_is_tainted_and_one_that_is_ready_again_is_not() {
    let mut n = node("False");
    let p = plan(&n, 0, true, 1);
    assert_eq!(p.why, Why::NotReady);
    assert_eq!(
        effects(&p.taints),
        ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"]
    );
    let mut taints = p.taints.unwrap();
    taints.push(Taint { key: "mine".into(), effect: "NoExecute".into(), ..Taint::default() });
    n.spec.as_mut().unwrap().taints = Some(taints);
    assert_eq!(plan(&n, 0, true, 2).taints, None, "what stays keeps its time");
    n.status = node("True").status;
    assert_eq!(effects(&plan(&n, 0, true, 3).taints), ["mine:NoExecute"]);
}

#[test]
fn a_cordoned_node_carries_the_unschedulable_taint() {
    let mut n = node("True");
    n.spec.as_mut().unwrap().unschedulable = Some(true);
    assert_eq!(effects(&plan(&n, 0, true, 1).taints), ["node.kubernetes.io/unschedulable:NoSchedule"]);
}

fn toleration(key: Option<&str>, operator: &str, effect: Option<&str>, seconds: Option<i64>) -> Toleration {
    Toleration {
        key: key.map(str::to_owned),
        operator: Some(operator.into()),
        effect: effect.map(str::to_owned),
        toleration_seconds: seconds,
        value: None,
    }
}

fn pod(tolerations: Vec<Toleration>) -> Pod {
    Pod { spec: Some(PodSpec { tolerations: Some(tolerations), ..PodSpec::default() }), ..Pod::default() }
}

fn taint(key: &str, added: i64) -> Taint {
    Taint { key: key.into(), effect: "NoExecute".into(), value: None, time_added: Some(Time(t(added))) }
}

#[test]
fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
    let unreachable = "node.kubernetes.io/unreachable";
    let taints = [taint(unreachable, 0)];
    let on = |tolerations, now| plan_eviction(&pod(tolerations), &taints, t(now));
    assert_eq!(on(vec![], 0), Eviction::Now);
    let five_minutes = toleration(Some(unreachable), "Exists", Some("NoExecute"), Some(300));
    match on(vec![five_minutes.clone()], 100) {
        Eviction::In(wait) => assert_eq!(wait.as_secs(), 200),
        other => panic!("{other:?}"),
    }
    assert_eq!(on(vec![five_minutes.clone()], 300), Eviction::Now);
    assert_eq!(on(vec![toleration(None, "Exists", None, None)], 9999), Eviction::Never);
    let two = [taint(unreachable, 0), taint("other", 0)];
    assert_eq!(plan_eviction(&pod(vec![five_minutes.clone()]), &two, t(1)), Eviction::Now);
    assert_eq!(plan_eviction(&pod(vec![five_minutes]), &[], t(1)), Eviction::Never);
    let mut gone = pod(vec![]);
    gone.metadata.deletion_timestamp = Some(Time(t(0)));
    assert_eq!(plan_eviction(&gone, &taints, t(1)), Eviction::Never);
}

use super::graph::{FOREGROUND, Graph, GroupKind, Node, ORPHAN};
use super::plan::{Action, Dependents, Owner, Why, plan_collect, unblocked, without};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use client::kube::api::PropagationPolicy;

fn reference(uid: &str) -> OwnerReference {
    OwnerReference {
        uid: uid.into(),
        name: uid.into(),
        kind: "ReplicaSet".into(),
        api_version: "apps/v1".into(),
        block_owner_deletion: Some(true),
        controller: Some(true),
    }
}

fn meta(finalizers: &[&str], deleting: bool) -> ObjectMeta {
    ObjectMeta {
        finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
        deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
        ..ObjectMeta::default()
    }
}

fn node(owners: &[&str], deleting: bool, foreground: bool) -> Node {
    Node {
        kind: GroupKind::of("v1", "Pod"),
        owners: owners.iter().map(|u| reference(u)).collect(),
        deleting,
        foreground,
        ..Node::default()
    }
}

#[test]
fn an_object_goes_exactly_when_no_owner_is_left() {
    use Owner::{Absent, Solid, Waiting};
    let delete = |policy| Action::Delete { policy, unblock: false };
    let none = Dependents::default();
    let some = Dependents { any: true, any_waiting: false };
    let circle = Dependents { any: true, any_waiting: true };
    let plain = meta(&[], false);
    let cases: &[(&ObjectMeta, &[Owner], Dependents, Action)] = &[
        (&plain, &[], none, Action::Keep(Why::NeverOwned)),
        (&plain, &[Solid], none, Action::Keep(Why::Owned)),
        (&plain, &[Solid, Absent], none, Action::Drop(vec!["o1".into()])),
        (&plain, &[Waiting, Solid, Absent], some, Action::Drop(vec!["o0".into(), "o2".into()])),
        (&plain, &[Absent], some, delete(PropagationPolicy::Background)),
        (&plain, &[Absent, Absent], none, delete(PropagationPolicy::Background)),
        (&plain, &[Waiting], none, delete(PropagationPolicy::Background)),
        (&plain, &[Waiting], some, delete(PropagationPolicy::Foreground)),
        (&plain, &[Waiting], circle, Action::Delete { policy: PropagationPolicy::Foreground, unblock: true }),
        (&meta(&[ORPHAN], false), &[Absent], some, delete(PropagationPolicy::Orphan)),
        (&meta(&[FOREGROUND], false), &[Absent], some, delete(PropagationPolicy::Foreground)),
        (&meta(&[], true), &[Absent], none, Action::Keep(Why::Terminating)),
    ];
    for (m, owners, dependents, want) in cases {
        let references: Vec<OwnerReference> =
            (0..owners.len()).map(|i| reference(&format!("o{i}"))).collect();
        let pairs: Vec<_> = references.iter().zip(owners.iter().copied()).collect();
        assert_eq!(plan_collect(m, &pairs, *dependents), *want, "{owners:?} {dependents:?}");
    }
}

#[test]
fn the_removal_of_an_owner_brings_up_its_dependents() {
    let mut g = Graph::default();
    assert!(g.apply("owner", node(&[], false, false)).is_empty());
    assert!(g.apply("a", node(&["owner"], false, false)).is_empty(), "a known owner is no news");
    g.apply("b", node(&["owner"], false, false));
    assert_eq!(g.remove("owner"), ["a", "b"]);
    assert_eq!(g.remove("owner"), Vec::<String>::new());
}

#[test]
fn a_dependent_of_an_unknown_owner_is_looked_at() {
    let mut g = Graph::default();
    assert_eq!(g.apply("a", node(&["nobody"], false, false)), ["a"]);
}

#[test]
fn foreground_deletion_brings_up_dependents_and_then_the_owner() {
    let mut g = Graph::default();
    g.apply("owner", node(&[], false, false));
    g.apply("a", node(&["owner"], false, false));
    let look = g.apply("owner", node(&[], true, true));
    assert!(look.contains(&"owner".to_owned()) && look.contains(&"a".to_owned()), "{look:?}");
    assert_eq!(g.remove("a"), ["owner"]);
}

#[test]
fn a_dropped_reference_lets_a_waiting_owner_be_looked_at() {
    let mut g = Graph::default();
    g.apply("owner", node(&[], true, true));
    g.apply("a", node(&["owner"], false, false));
    assert_eq!(g.apply("a", node(&[], false, false)), ["owner"]);
    assert_eq!(g.dependents("owner").count(), 0);
}

#[test]
fn references_are_dropped_and_unblocked_by_uid() {
    let all = [reference("a"), reference("b")];
    let left = without(&all, &["a".to_owned()]);
    assert_eq!(left.iter().map(|r| r.uid.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(unblocked(&all).iter().all(|r| r.block_owner_deletion == Some(false)));
}

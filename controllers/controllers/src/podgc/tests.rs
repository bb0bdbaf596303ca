use super::plan::{Why, World, plan_pod_gc};
use client::k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn pod(name: &str, node: Option<&str>, phase: &str, terminating: bool, age: i64) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            creation_timestamp: Some(Time(now() - SignedDuration::from_secs(age))),
            deletion_timestamp: terminating.then(|| Time(now())),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: node.map(str::to_owned), ..PodSpec::default() }),
        status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
    }
}

fn plan(pods: &[Pod], missing: &BTreeMap<String, Timestamp>, threshold: usize) -> super::plan::Plan {
    let nodes = BTreeSet::from(["n1".to_owned()]);
    let pods: Vec<&Pod> = pods.iter().collect();
    plan_pod_gc(&World { pods: &pods, nodes: &nodes, missing, threshold, now: now() })
}

#[test]
fn pods_of_a_missing_node_go_after_the_quarantine() {
    let pods = [pod("a", Some("gone"), "Running", false, 1), pod("b", Some("n1"), "Running", false, 1)];
    let first = plan(&pods, &BTreeMap::new(), 0);
    assert!(first.delete.is_empty());
    assert_eq!(first.look_again.unwrap().as_secs(), 40);
    assert_eq!(first.missing["gone"], now());
    let since = BTreeMap::from([("gone".to_owned(), now() - SignedDuration::from_secs(40))]);
    let then = plan(&pods, &since, 0);
    assert_eq!(then.delete.len(), 1);
    assert_eq!(then.delete[0].1, Why::Orphaned { node: "gone".into() });
}

#[test]
fn a_pod_deleted_before_it_was_scheduled_goes_at_once() {
    let pods = [pod("a", None, "Pending", true, 1), pod("b", None, "Pending", false, 1)];
    let p = plan(&pods, &BTreeMap::new(), 0);
    assert_eq!((p.delete.len(), &p.delete[0].1), (1, &Why::NeverScheduled));
    assert_eq!(p.look_again, None);
}

#[test]
fn the_oldest_ended_pods_beyond_the_threshold_go() {
    let pods: Vec<Pod> = (0..5)
        .map(|i| pod(&format!("p{i}"), Some("n1"), if i == 4 { "Running" } else { "Succeeded" }, false, i))
        .collect();
    let p = plan(&pods, &BTreeMap::new(), 2);
    let names: Vec<&str> = p.delete.iter().map(|(k, _)| k.name.as_str()).collect();
    assert_eq!(names, ["p3", "p2"]);
    assert!(plan(&pods, &BTreeMap::new(), 0).delete.is_empty());
}

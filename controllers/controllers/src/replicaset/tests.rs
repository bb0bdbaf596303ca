use super::plan::{BURST, Why, World, compute_status, plan_replicas, same_status, slow_start};
use client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use client::k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use jiff::{SignedDuration, Timestamp};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn set(n: i32, min_ready: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: ObjectMeta { generation: Some(7), ..ObjectMeta::default() },
        spec: Some(ReplicaSetSpec {
            replicas: Some(n),
            min_ready_seconds: Some(min_ready),
            template: Some(PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some([("app".to_owned(), "web".to_owned())].into()),
                    ..ObjectMeta::default()
                }),
                spec: None,
            }),
            ..ReplicaSetSpec::default()
        }),
        status: None,
    }
}

/// A pod by name, phase, node and for how many seconds it has been ready.
fn pod(name: &str, phase: &str, node: Option<&str>, ready_for: Option<i64>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            creation_timestamp: Some(Time(now() - SignedDuration::from_secs(1000))),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: node.map(str::to_owned), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some(phase.into()),
            conditions: ready_for.map(|s| {
                vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(Time(now() - SignedDuration::from_secs(s))),
                    ..PodCondition::default()
                }]
            }),
            ..PodStatus::default()
        }),
    }
}

fn plan(n: i32, pods: &[Pod]) -> super::plan::Plan {
    let pods: Vec<&Pod> = pods.iter().collect();
    plan_replicas(&World { replica_set: &set(n, 0), pods: &pods, now: now() })
}

#[test]
fn missing_pods_are_created_and_ended_ones_do_not_count() {
    let pods = [pod("a", "Running", Some("n"), None), pod("b", "Failed", Some("n"), None)];
    let p = plan(3, &pods);
    assert_eq!((p.create, p.why), (2, Why::TooFew));
    let mut gone = pod("c", "Running", Some("n"), Some(1));
    gone.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(plan(1, &[gone]).create, 1);
}

#[test]
fn a_huge_difference_is_worked_off_in_bursts() {
    assert_eq!(plan(10_000, &[]).create, BURST);
}

#[test]
fn a_terminating_set_leaves_its_pods_to_the_garbage_collector() {
    let mut rs = set(3, 0);
    rs.metadata.deletion_timestamp = Some(Time(now()));
    let p = plan_replicas(&World { replica_set: &rs, pods: &[], now: now() });
    assert_eq!((p.create, p.why), (0, Why::Terminating));
}

#[test]
fn the_cheapest_pods_are_deleted_first() {
    let mut expensive = pod("expensive", "Running", Some("n2"), Some(100));
    expensive.metadata.annotations =
        Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "10".to_owned())].into());
    let pods = [
        expensive,
        pod("old", "Running", Some("n3"), Some(500)),
        pod("young", "Running", Some("n4"), Some(5)),
        pod("crowded-a", "Running", Some("n1"), Some(900)),
        pod("crowded-b", "Running", Some("n1"), Some(800)),
        pod("unready", "Running", Some("n5"), None),
        pod("pending", "Pending", Some("n6"), None),
        pod("unassigned", "Pending", None, None),
    ];
    let order = ["unassigned", "pending", "unready", "crowded-b", "crowded-a", "young", "old", "expensive"];
    for keep in 0..order.len() {
        let p = plan(keep as i32, &pods);
        assert_eq!(p.delete, order[..order.len() - keep], "keeping {keep}");
    }
}

#[test]
fn a_pod_is_available_after_it_was_ready_for_long_enough() {
    let pods = [
        pod("a", "Running", Some("n"), Some(30)),
        pod("b", "Running", Some("n"), Some(4)),
        pod("c", "Running", Some("n"), None),
    ];
    let pods: Vec<&Pod> = pods.iter().collect();
    let rs = set(3, 10);
    let world = World { replica_set: &rs, pods: &pods, now: now() };
    let s = compute_status(&world, None);
    assert_eq!((s.replicas, s.ready_replicas, s.available_replicas), (3, Some(2), Some(1)));
    assert_eq!((s.fully_labeled_replicas, s.observed_generation), (Some(3), Some(7)));
    let wait = plan_replicas(&world).look_again.unwrap();
    assert!(wait.as_secs_f64() > 6.0 && wait.as_secs_f64() < 6.1, "{wait:?}");
}

#[test]
fn a_failure_is_a_condition_that_goes_with_it() {
    let mut rs = set(1, 0);
    let failed =
        compute_status(&World { replica_set: &rs, pods: &[], now: now() }, Some(("FailedCreate", "quota")));
    let c = &failed.conditions.as_ref().unwrap()[0];
    assert_eq!((c.type_.as_str(), c.status.as_str()), ("ReplicaFailure", "True"));
    rs.status = Some(failed.clone());
    let later = now() + SignedDuration::from_secs(9);
    let again =
        compute_status(&World { replica_set: &rs, pods: &[], now: later }, Some(("FailedCreate", "quota")));
    assert!(same_status(&failed, &again), "the same failure is not written twice");
    let well = compute_status(&World { replica_set: &rs, pods: &[], now: later }, None);
    assert_eq!(well.conditions, None);
}

#[test]
fn batches_double() {
    assert_eq!(slow_start(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
    assert_eq!(slow_start(0).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn every_replicaset_is_looked_at_when_pods_may_have_gone_unseen() {
    let api = client::fake_api::FakeApi::default();
    let set = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "namespace": "default" },
        "spec": { "selector": { "matchLabels": { "app": "web" } } },
    });
    api.put("/apis/apps/v1/namespaces/default/replicasets", "web", set);
    let ctx = crate::testing::context(&api);
    let c = super::Controller {
        replica_sets: ctx.informer(),
        pods: ctx.informer(),
        expectations: crate::expectations::Expectations::default(),
        ctx,
    };
    assert!(c.replica_sets.synced().await);
    // No pod is left that could name it.
    assert_eq!(c.keys_of_pod(&client::Change::Resync), [client::ObjectKey::new("default", "web")]);
}

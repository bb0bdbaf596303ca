use super::*;
use crate::throughput;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn pod(name: &str, node: Option<&str>) -> Arc<Pod> {
    let mut pod = throughput::pod(name);
    pod.spec.as_mut().unwrap().node_name = node.map(str::to_owned);
    Arc::new(pod)
}

fn scheduler() -> Scheduler {
    Scheduler::new("default-scheduler", Framework::default(), 0)
}

#[test]
fn a_failed_binding_gives_the_room_back_and_is_tried_again() {
    let mut s = scheduler();
    s.apply_node(Arc::new(throughput::node("n")), Moment::ZERO);
    s.apply_pod(pod("a", None), Moment::ZERO);
    let Some(Decision::Bind { queued, placement }) = s.decide(Moment::ZERO, &mut || 0) else { panic!() };
    assert_eq!(placement.node, "n");
    // While the request is under way, news of the pod changes nothing.
    s.apply_pod(pod("a", None), Moment::ZERO);
    assert!(s.decide(Moment::ZERO, &mut || 0).is_none());
    s.binding_failed(queued, Some(pod("a", None)), Moment::ZERO);
    assert_eq!(s.cache().snapshot().node("n").unwrap().pod_count(), 0);
    assert!(s.decide(Moment::ZERO, &mut || 0).is_none());
    assert!(matches!(s.decide(Duration::from_secs(1), &mut || 0), Some(Decision::Bind { .. })));
}

#[test]
fn other_schedulers_pods_gated_pods_and_dying_pods_are_left_alone() {
    let mut s = scheduler();
    s.apply_node(Arc::new(throughput::node("n")), Moment::ZERO);
    let change = |f: fn(&mut Pod)| {
        let mut p = throughput::pod("a");
        f(&mut p);
        Arc::new(p)
    };
    let now = Moment::ZERO;
    s.apply_pod(change(|p| p.spec.as_mut().unwrap().scheduler_name = Some("other".into())), now);
    s.apply_pod(change(|p| p.spec.as_mut().unwrap().scheduling_gates = Some(vec![Default::default()])), now);
    assert!(s.decide(now, &mut || 0).is_none());
    s.apply_pod(pod("a", None), now);
    let dying = |p: &mut Pod| {
        p.metadata.deletion_timestamp = Some(client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            client::k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        ));
    };
    s.apply_pod(change(dying), now);
    assert!(s.decide(now, &mut || 0).is_none());
}

#[test]
fn an_ended_pod_makes_room_for_one_that_waits() {
    let mut s = scheduler();
    let mut node = throughput::node("n");
    node.status.as_mut().unwrap().allocatable.as_mut().unwrap().get_mut("pods").unwrap().0 = "1".into();
    s.apply_node(Arc::new(node), Moment::ZERO);
    s.apply_pod(pod("a", Some("n")), Moment::ZERO);
    s.apply_pod(pod("b", None), Moment::ZERO);
    assert!(matches!(s.decide(Moment::ZERO, &mut || 0), Some(Decision::Explain { .. })));
    let mut ended = (*pod("a", Some("n"))).clone();
    ended.status = Some(Default::default());
    ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let later = Duration::from_secs(20);
    s.apply_pod(Arc::new(ended), later);
    assert!(matches!(s.decide(later, &mut || 0), Some(Decision::Bind { .. })));
}

proptest! {
    /// An API server that fails, a watch that lags and repeats, nodes and pods that come and go: no node ever
    /// gets more pods than it holds, and in the end every pod that can be placed is.
    #[test]
    fn nothing_is_overcommitted_and_nothing_is_forgotten(
        steps in prop::collection::vec((0..9u8, 0..8u8, 0..3u8), 0..120),
    ) {
        const PLACES: usize = 3;
        let mut s = scheduler();
        let mut now = Moment::ZERO;
        // The truth: pods and their nodes, as the API server holds them.
        let mut truth: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut under_way: Vec<(QueuedPod, String)> = Vec::new();
        let nodes: Vec<Arc<Node>> = (0..3u8)
            .map(|i| {
                let mut node = throughput::node(&format!("n{i}"));
                let quantities = node.status.as_mut().unwrap().allocatable.as_mut().unwrap();
                quantities.get_mut("pods").unwrap().0 = PLACES.to_string();
                Arc::new(node)
            })
            .collect();
        let mut seed = 1u64;
        let mut random = move || { seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99); seed >> 20 };
        let finish = |s: &mut Scheduler, truth: &mut BTreeMap<String, Option<String>>,
                          (queued, node): (QueuedPod, String), fails: bool, now: Moment| {
            let name = queued.pod.key.name.clone();
            match truth.get_mut(&name) {
                Some(held @ None) if !fails => {
                    *held = Some(node);
                    s.binding_succeeded(&queued.pod.uid, now);
                }
                Some(None) => s.binding_failed(queued, Some(pod(&name, None)), now),
                Some(Some(held)) => { let held = held.clone(); s.binding_failed(queued, Some(pod(&name, Some(&held))), now) }
                None => s.binding_failed(queued, None, now),
            }
        };
        for (step, who, which) in steps {
            now += Duration::from_millis(900);
            let name = format!("p{who}");
            match step {
                0 | 1 => { truth.entry(name.clone()).or_insert(None); }
                2 => if truth.remove(&name).is_some() { s.delete_pod(&format!("uid-{name}"), now) },
                3 => s.apply_node(nodes[which as usize].clone(), now),
                4 => s.delete_node(&format!("n{which}")),
                5 if !under_way.is_empty() => {
                    let one = under_way.remove(0);
                    finish(&mut s, &mut truth, one, which == 0, now);
                }
                6 => if let Some(node) = truth.get(&name) {
                    s.apply_pod(pod(&name, node.as_deref()), now);
                },
                _ => if let Some(Decision::Bind { queued, placement }) = s.decide(now, &mut random) {
                    under_way.push((queued, placement.node));
                },
            }
            for node in s.cache().snapshot().nodes() {
                prop_assert!(node.pod_count() <= PLACES);
            }
        }
        // Then all goes well.
        for one in std::mem::take(&mut under_way) {
            finish(&mut s, &mut truth, one, false, now);
        }
        for node in &nodes {
            s.apply_node(node.clone(), now);
        }
        for _ in 0..200 {
            now += Duration::from_secs(20);
            for (name, node) in truth.clone() {
                s.apply_pod(pod(&name, node.as_deref()), now);
            }
            while let Some(decision) = s.decide(now, &mut random) {
                if let Decision::Bind { queued, placement } = decision {
                    finish(&mut s, &mut truth, (queued, placement.node), false, now);
                }
            }
        }
        prop_assert!(truth.values().all(Option::is_some), "{:?}", truth);
        for i in 0..3 {
            let node = format!("n{i}");
            let held = truth.values().flatten().filter(|n| **n == node).count();
            prop_assert!(held <= PLACES);
        }
    }
}

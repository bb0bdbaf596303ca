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
fn a_failed_binding_makes_room_for_a_pod_that_waits() {
    let mut s = scheduler();
    let mut node = throughput::node("n");
    node.status.as_mut().unwrap().allocatable.as_mut().unwrap().get_mut("pods").unwrap().0 = "1".into();
    s.apply_node(Arc::new(node), Moment::ZERO);
    s.apply_pod(pod("a", None), Moment::ZERO);
    s.apply_pod(pod("b", None), Moment::ZERO);
    let Some(Decision::Bind { queued, .. }) = s.decide(Moment::ZERO, &mut || 0) else { panic!() };
    assert!(matches!(s.decide(Moment::ZERO, &mut || 0), Some(Decision::Explain { .. })));
    s.binding_failed(queued, None, Moment::ZERO);
    let Some(Decision::Bind { queued, .. }) = s.decide(Duration::from_secs(1), &mut || 0) else { panic!() };
    assert_eq!(queued.pod.key.name, "b");
}

#[test]
fn what_is_not_there_any_more_is_dropped_after_missed_changes() {
    let mut s = scheduler();
    for n in ["n", "m"] {
        s.apply_node(Arc::new(throughput::node(n)), Moment::ZERO);
    }
    s.apply_pod(pod("a", Some("n")), Moment::ZERO);
    s.apply_pod(pod("b", None), Moment::ZERO);
    s.apply_pod(pod("c", None), Moment::ZERO);
    s.retain_pods(&BTreeSet::from(["uid-c".to_owned()]), Moment::ZERO);
    s.retain_nodes(&BTreeSet::from(["n".to_owned()]), Moment::ZERO);
    assert_eq!(s.cache().snapshot().nodes().len(), 1);
    assert_eq!(s.cache().snapshot().node("n").unwrap().pod_count(), 0);
    assert_eq!(s.queue().uids(), ["uid-c"]);
}

#[test]
fn a_binding_that_is_never_seen_gives_the_room_back_in_the_end() {
    let mut s = scheduler();
    s.apply_node(Arc::new(throughput::node("n")), Moment::ZERO);
    s.apply_pod(pod("a", None), Moment::ZERO);
    let Some(Decision::Bind { queued, .. }) = s.decide(Moment::ZERO, &mut || 0) else { panic!() };
    s.binding_succeeded(&queued.pod.uid, Moment::ZERO);
    let deadline = s.next_timer().unwrap();
    assert!(s.tick(deadline - Duration::from_secs(1)).is_empty());
    assert_eq!(s.tick(deadline).len(), 1);
    assert_eq!((s.cache().snapshot().node("n").unwrap().pod_count(), s.next_timer()), (0, None));
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

/// The truth, as an API server holds it: a pod's node, by name. A pod made anew has a new uid.
#[derive(Default)]
struct Truth {
    made: u32,
    pods: BTreeMap<String, (String, Option<String>)>,
}

impl Truth {
    fn make(&mut self, name: &str) {
        self.made += 1;
        let uid = format!("uid-{}", self.made);
        self.pods.entry(name.to_owned()).or_insert((uid, None));
    }

    fn pod(&self, name: &str) -> Option<Arc<Pod>> {
        let (uid, node) = self.pods.get(name)?;
        let mut seen = (*pod(name, node.as_deref())).clone();
        seen.metadata.uid = Some(uid.clone());
        Some(Arc::new(seen))
    }

    /// What comes of a binding request.
    fn bind(&mut self, s: &mut Scheduler, queued: QueuedPod, node: String, fails: bool, now: Moment) {
        let name = queued.pod.key.name.clone();
        match self.pods.get_mut(&name) {
            Some((uid, held @ None)) if !fails && *uid == queued.pod.uid => {
                *held = Some(node);
                s.binding_succeeded(&queued.pod.uid, now);
            }
            _ => {
                let latest = self.pod(&name);
                s.binding_failed(queued, latest, now);
            }
        }
    }

    fn on(&self, node: &str) -> usize {
        self.pods.values().filter(|(_, n)| n.as_deref() == Some(node)).count()
    }
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
        let mut truth = Truth::default();
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
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            seed >> 20
        };
        for (step, who, which) in steps {
            now += Duration::from_millis(900);
            let name = format!("p{who}");
            match step {
                0 | 1 => truth.make(&name),
                2 => if let Some((uid, _)) = truth.pods.remove(&name) {
                    s.delete_pod(&uid, now);
                },
                3 => s.apply_node(nodes[which as usize].clone(), now),
                4 => s.delete_node(&format!("n{which}"), now),
                5 if !under_way.is_empty() => {
                    let (queued, node) = under_way.remove(0);
                    truth.bind(&mut s, queued, node, which == 0, now);
                }
                6 => if let Some(pod) = truth.pod(&name) {
                    s.apply_pod(pod, now);
                },
                _ => if let Some(Decision::Bind { queued, placement }) = s.decide(now, &mut random) {
                    under_way.push((queued, placement.node));
                },
            }
            for node in s.cache().snapshot().nodes() {
                prop_assert!(node.pod_count() <= PLACES);
            }
            for i in 0..3 {
                prop_assert!(truth.on(["n0", "n1", "n2"][i]) <= PLACES);
            }
        }
        // Then all goes well.
        for (queued, node) in std::mem::take(&mut under_way) {
            truth.bind(&mut s, queued, node, false, now);
        }
        for node in &nodes {
            s.apply_node(node.clone(), now);
        }
        for _ in 0..40 {
            now += Duration::from_secs(20);
            let names: Vec<String> = truth.pods.keys().cloned().collect();
            for pod in names.iter().filter_map(|n| truth.pod(n)) {
                s.apply_pod(pod, now);
            }
            // At most eight pods are ready at once.
            for _ in 0..16 {
                if let Some(Decision::Bind { queued, placement }) = s.decide(now, &mut random) {
                    truth.bind(&mut s, queued, placement.node, false, now);
                }
            }
        }
        prop_assert!(truth.pods.values().all(|(_, node)| node.is_some()), "{:?}", truth.pods);
        for i in 0..3 {
            prop_assert!(truth.on(["n0", "n1", "n2"][i]) <= PLACES);
        }
    }
}

#[test]
fn a_pod_that_wants_company_goes_once_the_other_is_placed_and_one_that_avoids_it_once_it_is_relabelled() {
    let term =
        serde_json::json!([{ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "db" } } }]);
    let with = |name: &str, side: &str| {
        let mut p = (*pod(name, None)).clone();
        let affinity =
            serde_json::json!({ side: { "requiredDuringSchedulingIgnoredDuringExecution": term } });
        p.spec.as_mut().unwrap().affinity = Some(serde_json::from_value(affinity).unwrap());
        Arc::new(p)
    };
    let db = |app: &str| {
        let mut p = (*pod("db", Some("n"))).clone();
        p.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
        Arc::new(p)
    };
    let mut s = scheduler();
    let mut node = throughput::node("n");
    node.metadata.labels = Some([("zone".to_owned(), "z".to_owned())].into());
    s.apply_node(Arc::new(node), Moment::ZERO);
    s.apply_pod(with("a", "podAffinity"), Moment::ZERO);
    assert!(matches!(s.decide(Moment::ZERO, &mut || 0), Some(Decision::Explain { .. })));
    let later = Duration::from_secs(20);
    s.apply_pod(db("db"), later);
    let Some(Decision::Bind { queued, .. }) = s.decide(later, &mut || 0) else { panic!() };
    assert_eq!(queued.pod.key.name, "a");
    s.apply_pod(with("b", "podAntiAffinity"), later);
    assert!(matches!(s.decide(later, &mut || 0), Some(Decision::Explain { .. })));
    let last = Duration::from_secs(60);
    s.apply_pod(db("other"), last);
    let Some(Decision::Bind { queued, .. }) = s.decide(last, &mut || 0) else { panic!() };
    assert_eq!(queued.pod.key.name, "b");
}

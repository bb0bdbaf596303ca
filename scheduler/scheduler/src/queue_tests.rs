use super::*;
use crate::throughput;
use client::k8s_openapi::api::core::v1::Taint;
use proptest::prelude::*;

fn pod_of(name: &str, priority: i32) -> Arc<PodInfo> {
    let mut pod = throughput::pod(name);
    pod.spec.as_mut().unwrap().priority = Some(priority);
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn secs(s: u64) -> Moment {
    Duration::from_secs(s)
}

fn pop_name(q: &mut Queue) -> Option<String> {
    q.pop().map(|p| p.pod.key.name.clone())
}

fn rejected(queued: QueuedPod, by: &'static str) -> QueuedPod {
    QueuedPod { rejected_by: BTreeSet::from([by]), ..queued }
}

#[test]
fn the_greater_priority_comes_first_and_equals_in_the_order_they_came() {
    let mut q = Queue::default();
    for (name, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
        q.add(pod_of(name, priority));
    }
    let order: Vec<String> = std::iter::from_fn(|| pop_name(&mut q)).collect();
    assert_eq!(order, ["b", "d", "a", "c"]);
}

#[test]
fn a_pod_that_fails_waits_twice_as_long_each_time_up_to_ten_seconds() {
    let mut q = Queue::default();
    q.add(pod_of("a", 0));
    let mut now = Moment::ZERO;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let p = q.pop().unwrap();
        q.failed(p, now);
        let next = q.next_flush().unwrap();
        q.flush(next - Duration::from_millis(1));
        assert!(q.pop().is_none());
        waits.push((next - now).as_secs());
        now = next;
        q.flush(now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn an_event_wakes_only_the_pods_it_may_help() {
    let framework = Framework::default();
    let mut q = Queue::default();
    q.add(pod_of("taint", 0));
    q.add(pod_of("room", 0));
    let (taint, room) = (q.pop().unwrap(), q.pop().unwrap());
    q.unschedulable(&Framework::default(), rejected(taint, "TaintToleration"), Moment::ZERO);
    q.unschedulable(&Framework::default(), rejected(room, "NodeResourcesFit"), Moment::ZERO);
    let gone = pod_of("gone", 0);
    q.on_event(&framework, &ClusterEvent::PodRemoved { pod: &gone }, secs(60));
    assert_eq!(pop_name(&mut q).as_deref(), Some("room"));
    assert_eq!(pop_name(&mut q), None);

    // A node whose taint went away helps the other one; a heartbeat or another taint does not.
    let mut node = throughput::node("n");
    node.spec = Some(Default::default());
    let mut tainted = node.clone();
    tainted.spec.as_mut().unwrap().taints =
        Some(vec![Taint { key: "k".into(), effect: "NoSchedule".into(), ..Default::default() }]);
    let mut info = crate::node_info::NodeInfo::new(Arc::new(node.clone()));
    let change = info.update(Arc::new(tainted));
    q.on_event(&framework, &ClusterEvent::Node { node: &info, change }, secs(61));
    assert_eq!(pop_name(&mut q), None);
    let change = info.update(Arc::new(node.clone()));
    assert!(info.update(Arc::new(node)).is_none());
    q.on_event(&framework, &ClusterEvent::Node { node: &info, change }, secs(62));
    assert_eq!(pop_name(&mut q).as_deref(), Some("taint"));
}

#[test]
fn a_pod_woken_soon_after_its_attempt_waits_for_its_backoff() {
    let mut q = Queue::default();
    q.add(pod_of("a", 0));
    let p = q.pop().unwrap();
    q.unschedulable(&Framework::default(), rejected(p, "NodeResourcesFit"), secs(100));
    let gone = pod_of("gone", 0);
    q.on_event(&Framework::default(), &ClusterEvent::PodRemoved { pod: &gone }, secs(100));
    assert_eq!(q.pending(), Pending { active: 0, backoff: 1, unschedulable: 0 });
    assert_eq!(q.next_flush(), Some(secs(101)));
}

#[test]
fn after_five_minutes_every_pod_is_tried_again() {
    let mut q = Queue::default();
    q.add(pod_of("a", 0));
    let p = q.pop().unwrap();
    q.unschedulable(&Framework::default(), rejected(p, "NodeName"), secs(1));
    assert_eq!(q.next_flush(), Some(secs(301)));
    q.flush(secs(300));
    assert!(q.pop().is_none());
    q.flush(secs(301));
    assert_eq!(q.pop().unwrap().attempts, 2);
}

proptest! {
    /// Whatever happens, no pod is lost or doubled, and with time every waiting pod comes.
    #[test]
    fn no_pod_is_lost_or_doubled(steps in prop::collection::vec((0..7u8, 0..5u8, 0..3i32), 0..80)) {
        let framework = Framework::default();
        let mut q = Queue::default();
        let mut waiting: BTreeSet<String> = BTreeSet::new();
        let mut hands: Vec<QueuedPod> = Vec::new();
        let mut now = Moment::ZERO;
        for (step, who, priority) in steps {
            now += Duration::from_millis(700);
            let pod = pod_of(&format!("p{who}"), priority);
            let held = hands.iter().position(|h| h.pod.uid == pod.uid);
            match step {
                0 if held.is_none() => {
                    waiting.insert(pod.uid.clone());
                    q.add(pod);
                }
                1 => {
                    prop_assert_eq!(q.update(pod.clone(), now), waiting.contains(&pod.uid));
                }
                2 => {
                    prop_assert_eq!(q.remove(&pod.uid), waiting.remove(&pod.uid));
                }
                3 => {
                    q.flush(now);
                    if let Some(p) = q.pop() {
                        prop_assert!(waiting.remove(&p.pod.uid));
                        hands.push(p);
                    }
                }
                4 => if let Some(at) = held {
                    let p = hands.swap_remove(at);
                    waiting.insert(p.pod.uid.clone());
                    q.unschedulable(&framework, rejected(p, "NodeResourcesFit"), now);
                },
                5 => if let Some(at) = held {
                    let p = hands.swap_remove(at);
                    waiting.insert(p.pod.uid.clone());
                    q.failed(p, now);
                },
                6 => q.on_event(&framework, &ClusterEvent::PodRemoved { pod: &pod }, now),
                _ => {}
            }
            prop_assert_eq!(q.uids(), waiting.iter().cloned().collect::<Vec<_>>());
            let p = q.pending();
            prop_assert_eq!(p.active + p.backoff + p.unschedulable, waiting.len());
        }
        q.flush(now + FLUSH);
        q.flush(now + FLUSH + BACKOFF_CAP);
        prop_assert_eq!(q.pending().active, waiting.len());
        while let Some(p) = q.pop() {
            prop_assert!(waiting.remove(&p.pod.uid));
        }
        prop_assert!(waiting.is_empty());
    }
}

use super::*;
use crate::throughput;
use proptest::prelude::*;

fn pod(i: u8) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(throughput::pod(&format!("p{i}")))))
}

fn node(i: u8) -> Arc<Node> {
    Arc::new(throughput::node(&format!("n{i}")))
}

#[derive(Clone, Debug)]
enum Step {
    SetNode(u8),
    RemoveNode(u8),
    Assume(u8, u8),
    Finish(u8),
    Forget(u8),
    Add(u8, u8),
    Remove(u8),
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (p, n) = (0..6u8, 0..4u8);
    let step = prop_oneof![
        n.clone().prop_map(Step::SetNode),
        n.clone().prop_map(Step::RemoveNode),
        (p.clone(), n.clone()).prop_map(|(p, n)| Step::Assume(p, n)),
        p.clone().prop_map(Step::Finish),
        p.clone().prop_map(Step::Forget),
        (p.clone(), n).prop_map(|(p, n)| Step::Add(p, n)),
        p.prop_map(Step::Remove),
        Just(Step::Expire),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever happens: a pod counts on the node it was last put on and nowhere else, and a node's sums are
    /// those of its pods.
    #[test]
    fn sums_are_those_of_the_pods_that_are_there(steps in steps()) {
        let mut cache = Cache::default();
        let mut model: BTreeMap<String, (String, Standing)> = BTreeMap::new();
        let mut nodes = BTreeSet::new();
        let mut now = Moment::ZERO;
        for step in steps {
            now += Duration::from_secs(200);
            match step {
                Step::SetNode(n) => {
                    cache.set_node(node(n));
                    nodes.insert(format!("n{n}"));
                }
                Step::RemoveNode(n) => {
                    cache.remove_node(&format!("n{n}"));
                    nodes.remove(&format!("n{n}"));
                }
                Step::Assume(p, n) => {
                    cache.assume(pod(p), &format!("n{n}"));
                    model.insert(pod(p).uid.clone(), (format!("n{n}"), Standing::Assumed));
                }
                Step::Finish(p) => {
                    cache.binding_finished(&pod(p).uid, now);
                    if let Some((_, standing @ Standing::Assumed)) = model.get_mut(&pod(p).uid) {
                        *standing = Standing::Bound(now + CONFIRMATION);
                    }
                }
                Step::Forget(p) => {
                    let uid = &pod(p).uid;
                    let assumed = model.get(uid).is_some_and(|(_, s)| *s != Standing::Known);
                    prop_assert_eq!(cache.forget(uid), assumed);
                    if assumed {
                        model.remove(uid);
                    }
                }
                Step::Add(p, n) => {
                    cache.add(pod(p), &format!("n{n}"));
                    model.insert(pod(p).uid.clone(), (format!("n{n}"), Standing::Known));
                }
                Step::Remove(p) => {
                    prop_assert_eq!(cache.remove(&pod(p).uid).is_some(), model.remove(&pod(p).uid).is_some());
                }
                Step::Expire => {
                    let due = |s: &Standing| matches!(s, Standing::Bound(at) if *at <= now);
                    let expected = model.values().filter(|(_, s)| due(s)).count();
                    model.retain(|_, (_, s)| !due(s));
                    prop_assert_eq!(cache.expire(now).len(), expected);
                }
            }
            let seen: BTreeSet<String> = cache.snapshot().nodes().iter().map(|n| n.name.clone()).collect();
            prop_assert_eq!(&seen, &nodes);
            for info in cache.snapshot().nodes() {
                prop_assert_eq!(&cache.snapshot().node(&info.name).unwrap().name, &info.name);
                let here = model.values().filter(|(n, _)| *n == info.name).count();
                prop_assert_eq!(info.pod_count(), here);
                prop_assert_eq!(info.requested.milli_cpu, 100 * here as i64);
                prop_assert_eq!(info.scored.memory, (128 << 20) * here as i64);
            }
            prop_assert_eq!(cache.uids(), model.keys().cloned().collect::<Vec<_>>());
            let deadlines = model.values().filter_map(|(_, s)| match s {
                Standing::Bound(at) => Some(*at),
                _ => None,
            });
            prop_assert_eq!(cache.next_expiry(), deadlines.min());
        }
    }
}

#[test]
fn pods_seen_before_their_node_count_on_it_once_it_is_there() {
    let mut cache = Cache::default();
    cache.add(pod(1), "n1");
    assert_eq!(cache.set_node(node(1)), NodeChange::ALL);
    assert_eq!(cache.snapshot().node("n1").unwrap().pod_count(), 1);
    assert!(cache.set_node(node(1)).is_none());
    cache.remove_node("n1");
    cache.set_node(node(1));
    assert_eq!(cache.snapshot().node("n1").unwrap().requested.milli_cpu, 100);
}

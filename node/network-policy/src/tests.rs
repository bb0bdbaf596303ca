//! What policies mean: table by table, and against a reading of the API's documentation, connection by connection.
use crate::{Direction, Index, PodFacts, Protocol, Rules};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(namespace: &str, name: &str, labels: Value, ip: &str) -> core::Pod {
    parse(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "ports": [
            {"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"podIP": ip}
    }))
}

fn namespace(name: &str, labels: Value) -> core::Namespace {
    parse(json!({"metadata": {"name": name, "labels": labels}}))
}

fn policy(namespace: &str, name: &str, spec: Value) -> NetworkPolicy {
    parse(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}))
}

/// Two namespaces: `shop` (team a) with web .1, db .2 and cron .3, and `other` (team b) with web .4.
fn world() -> Index {
    let mut index = Index::default();
    index.apply_namespace(&namespace("shop", json!({"team": "a"})));
    index.apply_namespace(&namespace("other", json!({"team": "b"})));
    for (of, name, n) in [("shop", "web", 1), ("shop", "db", 2), ("shop", "cron", 3), ("other", "web", 4)] {
        let pod = pod(of, name, json!({"app": name}), &format!("10.0.0.{n}"));
        index.apply_pod(&pod);
        index.apply_subject(&format!("{of}/{name}"), PodFacts::of(&pod));
    }
    index
}

fn with(specs: &[Value]) -> Index {
    let mut index = world();
    for (i, spec) in specs.iter().enumerate() {
        index.apply_policy(&policy("shop", &format!("p{i}"), spec.clone()));
    }
    index
}

fn enters(index: &Index, to: &str, from: &str, port: u16) -> bool {
    index.rules(to).ingress.allows(from.parse().unwrap(), Protocol::Tcp, port)
}

fn leaves(index: &Index, from: &str, to: &str, port: u16) -> bool {
    index.rules(from).egress.allows(to.parse().unwrap(), Protocol::Tcp, port)
}

#[test]
fn without_a_policy_all_is_open_and_an_empty_one_isolates_what_it_selects() {
    let mut index = world();
    assert!(index.rules("shop/db").is_open() && index.rules("nobody").is_open());
    index.apply_policy(&policy("shop", "deny", json!({"podSelector": {"matchLabels": {"app": "db"}}})));
    assert_eq!(
        index.rules("shop/db"),
        Rules { ingress: Direction::Isolated(vec![]), egress: Direction::Open }
    );
    assert!(index.rules("shop/web").is_open() && index.rules("other/web").is_open());
    index.apply_policy(&policy("shop", "deny", json!({"podSelector": {}, "policyTypes": ["Egress"]})));
    assert_eq!(
        index.rules("shop/db"),
        Rules { ingress: Direction::Open, egress: Direction::Isolated(vec![]) }
    );
    index.remove_policy("shop", "deny");
    assert!(index.rules("shop/db").is_open());
}

#[test]
fn an_empty_rule_allows_everyone_and_policies_add_up() {
    let db = || json!({"matchLabels": {"app": "db"}});
    let index = with(&[
        json!({"podSelector": db(), "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.9.0.0/16", "except": ["10.9.9.0/24"]}}],
            "ports": [{"port": 5432}]}]}),
    ]);
    assert!(enters(&index, "shop/db", "10.0.0.1", 1));
    assert!(!enters(&index, "shop/db", "10.0.0.3", 1), "cron is not web");
    assert!(!enters(&index, "shop/db", "10.0.0.4", 1), "the other namespace's web is another");
    assert!(enters(&index, "shop/db", "10.9.1.1", 5432) && !enters(&index, "shop/db", "10.9.1.1", 80));
    assert!(!enters(&index, "shop/db", "10.9.9.1", 5432), "excepted");
    assert!(leaves(&index, "shop/db", "10.0.0.4", 1), "egress is not spoken of");
    let open = with(&[json!({"podSelector": db(), "ingress": [{}]}), json!({"podSelector": db()})]);
    assert!(enters(&open, "shop/db", "1.2.3.4", 9));
}

#[test]
fn namespace_and_pod_selectors_of_one_peer_both_hold_and_of_two_peers_either() {
    let (team, app) = (json!({"matchLabels": {"team": "b"}}), json!({"matchLabels": {"app": "web"}}));
    let both = with(&[json!({"podSelector": {}, "ingress": [{"from": [
        {"namespaceSelector": team, "podSelector": app}]}]})]);
    assert!(enters(&both, "shop/db", "10.0.0.4", 1) && !enters(&both, "shop/db", "10.0.0.1", 1));
    let either = with(&[json!({"podSelector": {}, "ingress": [{"from": [
        {"namespaceSelector": team}, {"podSelector": app}]}]})]);
    assert!(enters(&either, "shop/db", "10.0.0.4", 1) && enters(&either, "shop/db", "10.0.0.1", 1));
    assert!(!enters(&either, "shop/db", "10.0.0.3", 1));
    let all = with(&[json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]})]);
    assert!(
        enters(&all, "shop/db", "10.0.0.4", 1) && !enters(&all, "shop/db", "8.8.8.8", 1),
        "pods, not the world"
    );
    let own = with(&[json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]})]);
    assert!(enters(&own, "shop/db", "10.0.0.3", 1) && !enters(&own, "shop/db", "10.0.0.4", 1));
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let ingress = |ports: Value| with(&[json!({"podSelector": {}, "ingress": [{"ports": ports}]})]);
    let range = ingress(json!([{"port": 8000, "endPort": 8010}]));
    assert!([8000, 8005, 8010].iter().all(|port| enters(&range, "shop/db", "1.2.3.4", *port)));
    assert!([7999, 8011].iter().all(|port| !enters(&range, "shop/db", "1.2.3.4", *port)));
    let named = ingress(json!([{"port": "http"}]));
    assert!(enters(&named, "shop/db", "1.2.3.4", 8080) && !enters(&named, "shop/db", "1.2.3.4", 80));
    let unknown = ingress(json!([{"port": "nope"}]));
    assert!(!enters(&unknown, "shop/db", "1.2.3.4", 8080), "a name nobody has is no port, not every port");
    let other = ingress(json!([{"port": "dns"}]));
    assert!(!enters(&other, "shop/db", "1.2.3.4", 53), "the name is a UDP port's");
    let udp = ingress(json!([{"protocol": "UDP"}]));
    assert!(udp.rules("shop/db").ingress.allows("1.2.3.4".parse().unwrap(), Protocol::Udp, 9));
    assert!(!enters(&udp, "shop/db", "1.2.3.4", 9));

    let egress = |to: Value| {
        with(&[
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": [{"port": "http"}]}]}),
        ])
    };
    let pods = egress(json!([{"podSelector": {"matchLabels": {"app": "web"}}}]));
    assert!(leaves(&pods, "shop/db", "10.0.0.1", 8080));
    assert!(!leaves(&pods, "shop/db", "10.0.0.1", 80) && !leaves(&pods, "shop/db", "10.0.0.3", 8080));
    let anyone = egress(json!([]));
    assert!(leaves(&anyone, "shop/db", "10.0.0.4", 8080) && !leaves(&anyone, "shop/db", "8.8.8.8", 8080));
    let block = egress(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]));
    assert!(!leaves(&block, "shop/db", "10.0.0.1", 8080), "addresses have no names for ports");
}

#[test]
fn what_cannot_be_read_allows_less_never_more() {
    for rule in [
        json!({"from": [{"ipBlock": {"cidr": "nonsense"}}]}),
        json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["nonsense"]}}]}),
        json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Odd"}]}}]}),
        json!({"ports": [{"protocol": "ICMP"}]}),
        json!({"ports": [{"port": 70000}]}),
    ] {
        let index = with(&[json!({"podSelector": {}, "ingress": [rule.clone()]})]);
        assert!(!enters(&index, "shop/db", "10.0.0.1", 80), "{rule}");
    }
}

#[test]
fn pods_of_the_nodes_network_and_ended_ones_are_nobodys_peers_and_nobodys_subjects() {
    let mut index = with(&[json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]})]);
    let mut host = pod("shop", "host", json!({}), "10.0.0.9");
    host.spec.as_mut().unwrap().host_network = Some(true);
    index.apply_pod(&host);
    index.apply_subject("host", PodFacts::of(&host));
    assert!(index.rules("host").is_open());
    assert!(!enters(&index, "shop/db", "10.0.0.9", 80));
    let mut ended = pod("shop", "web", json!({"app": "web"}), "10.0.0.1");
    assert!(enters(&index, "shop/db", "10.0.0.1", 80));
    ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
    index.apply_pod(&ended);
    assert!(!enters(&index, "shop/db", "10.0.0.1", 80), "its address may be another's now");
}

#[test]
fn only_what_a_change_touches_is_made_anew() {
    let mut index = with(&[
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}),
        json!({"podSelector": {"matchLabels": {"app": "cron"}}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]}),
    ]);
    let dirty = |index: &mut Index| index.take_dirty().iter().map(|id| id.to_string()).collect::<Vec<_>>();
    assert_eq!(dirty(&mut index).len(), 4);
    let mut web = pod("shop", "web", json!({"app": "web"}), "10.0.0.1");
    web.status.as_mut().unwrap().phase = Some("Running".into());
    web.metadata.resource_version = Some("9".into());
    index.apply_pod(&web);
    assert!(dirty(&mut index).is_empty(), "a status update is no news");
    index.apply_pod(&pod("shop", "web", json!({"app": "web"}), "10.0.0.7"));
    assert_eq!(dirty(&mut index), ["shop/db"]);
    index.apply_namespace(&namespace("other", json!({"team": "c"})));
    assert_eq!(dirty(&mut index), ["shop/cron"]);
    index.remove_pod("shop", "web");
    assert_eq!(dirty(&mut index), ["shop/db"]);
    index.remove_policy("shop", "p1");
    assert_eq!(dirty(&mut index), ["shop/cron"]);
    index.remove_subject("shop/cron");
    index.apply_policy(&policy("shop", "p9", json!({"podSelector": {}})));
    assert_eq!(dirty(&mut index), ["shop/db", "shop/web"]);
}

/// Objects of a small random world, kept beside the index.
#[derive(Clone, Debug, Default)]
struct Objects {
    policies: BTreeMap<(String, String), Value>,
    pods: BTreeMap<(String, String), (BTreeMap<String, String>, IpAddr)>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

fn labels_match(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str())
}

/// The definition, word by word: who is isolated, and whether one rule of one policy allows it.
fn defined(objects: &Objects, subject: &(String, String), egress: bool, peer: IpAddr, port: u16) -> bool {
    let (list, peers_field, kind) =
        if egress { ("egress", "to", "Egress") } else { ("ingress", "from", "Ingress") };
    let own = &objects.pods[subject].0;
    let speaking: Vec<&Value> = objects
        .policies
        .iter()
        .filter(|(key, spec)| key.0 == subject.0 && labels_match(&spec["podSelector"], own))
        .filter(|(_, spec)| spec["policyTypes"].as_array().unwrap().iter().any(|own| own == kind))
        .map(|(_, spec)| spec)
        .collect();
    if speaking.is_empty() {
        return true;
    }
    speaking.iter().flat_map(|spec| spec[list].as_array().into_iter().flatten()).any(|rule| {
        let peers = rule[peers_field].as_array().cloned().unwrap_or_default();
        let peer_fits = peers.is_empty()
            || peers.iter().any(|one| {
                if let Some(cidr) = one["ipBlock"]["cidr"].as_str() {
                    let inside = |cidr: &str| cidr.parse::<ipnet::IpNet>().unwrap().contains(&peer);
                    let except = one["ipBlock"]["except"].as_array().cloned().unwrap_or_default();
                    return inside(cidr) && !except.iter().any(|cidr| inside(cidr.as_str().unwrap()));
                }
                objects.pods.iter().any(|((namespace, _), (labels, address))| {
                    let in_namespace = match &one["namespaceSelector"] {
                        Value::Null => *namespace == subject.0,
                        selector => {
                            objects.namespaces.get(namespace).is_some_and(|of| labels_match(selector, of))
                                || labels_match(selector, &BTreeMap::new())
                        }
                    };
                    *address == peer && in_namespace && labels_match(&one["podSelector"], labels)
                })
            });
        let ports = rule["ports"].as_array().cloned().unwrap_or_default();
        let port_fits = ports.is_empty()
            || ports.iter().any(|one| {
                let first = one["port"].as_u64().unwrap();
                (first..=one["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(port))
            });
        peer_fits && port_fits
    })
}

fn label_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab]", "[xy]", 0..3)
}

fn selector() -> impl Strategy<Value = Value> {
    label_map()
        .prop_map(|labels| if labels.is_empty() { json!({}) } else { json!({ "matchLabels": labels }) })
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|s| json!({ "podSelector": s })),
        selector().prop_map(|s| json!({ "namespaceSelector": s })),
        (selector(), selector()).prop_map(|(n, p)| json!({ "namespaceSelector": n, "podSelector": p })),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/29", "except": ["10.0.0.2/31"]}})),
        Just(json!({"ipBlock": {"cidr": "0.0.0.0/0"}})),
    ]
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let port = (1u16..4, 0u16..2).prop_map(|(first, more)| json!({"port": first, "endPort": first + more}));
    (prop::collection::vec(peer(), 0..3), prop::collection::vec(port, 0..2))
        .prop_map(move |(of, ports)| json!({ peers: of, "ports": ports }))
}

fn spec() -> impl Strategy<Value = Value> {
    let types =
        prop_oneof![Just(json!(["Ingress"])), Just(json!(["Egress"])), Just(json!(["Ingress", "Egress"]))];
    let ingress = prop::collection::vec(rule("from"), 0..3);
    (selector(), types, ingress, prop::collection::vec(rule("to"), 0..3)).prop_map(|(of, types, ingress, egress)| {
        json!({"podSelector": of, "policyTypes": types, "ingress": ingress, "egress": egress})
    })
}

#[derive(Clone, Debug)]
enum Step {
    Policy(String, String, Option<Value>),
    Pod(String, String, Option<(BTreeMap<String, String>, u8)>),
    Namespace(String, Option<BTreeMap<String, String>>),
}

fn step() -> impl Strategy<Value = Step> {
    let at = || "[mn]";
    prop_oneof![
        (at(), "[pq]", prop::option::weighted(0.8, spec()))
            .prop_map(|(n, name, spec)| Step::Policy(n, name, spec)),
        (at(), "[st]", prop::option::weighted(0.8, (label_map(), 1u8..8)))
            .prop_map(|(n, name, of)| Step::Pod(n, name, of)),
        (at(), prop::option::weighted(0.9, label_map())).prop_map(|(n, labels)| Step::Namespace(n, labels)),
    ]
}

fn take(step: Step, objects: &mut Objects, index: &mut Index) {
    match step {
        Step::Policy(n, name, Some(spec)) => {
            index.apply_policy(&policy(&n, &name, spec.clone()));
            objects.policies.insert((n, name), spec);
        }
        Step::Policy(n, name, None) => {
            index.remove_policy(&n, &name);
            objects.policies.remove(&(n, name));
        }
        Step::Pod(n, name, Some((labels, last))) => {
            let ip = format!("10.0.0.{last}");
            let made = pod(&n, &name, json!(labels), &ip);
            index.apply_pod(&made);
            index.apply_subject(&format!("{n}/{name}"), PodFacts::of(&made));
            objects.pods.insert((n, name), (labels, ip.parse().unwrap()));
        }
        Step::Pod(n, name, None) => {
            index.remove_pod(&n, &name);
            index.remove_subject(&format!("{n}/{name}"));
            objects.pods.remove(&(n, name));
        }
        Step::Namespace(n, Some(labels)) => {
            index.apply_namespace(&namespace(&n, json!(labels)));
            objects.namespaces.insert(n, labels);
        }
        Step::Namespace(n, None) => {
            index.remove_namespace(&n);
            objects.namespaces.remove(&n);
        }
    }
}

proptest! {
    /// However the objects came and went, the rules say what the definition says, and whose rules changed was dirty.
    #[test]
    fn rules_are_what_the_definition_says_and_changes_are_noticed(steps in prop::collection::vec(step(), 1..24)) {
        let (mut objects, mut index) = (Objects::default(), Index::default());
        let mut known: BTreeMap<String, Rules> = BTreeMap::new();
        for step in steps {
            take(step, &mut objects, &mut index);
            let dirty = index.take_dirty();
            known.retain(|id, _| objects.pods.keys().any(|(n, name)| *id == format!("{n}/{name}")));
            for subject in objects.pods.keys() {
                let id = format!("{}/{}", subject.0, subject.1);
                let rules = index.rules(&id);
                if !dirty.contains(id.as_str()) {
                    prop_assert_eq!(known.get(&id), Some(&rules), "{} changed unnoticed", id);
                }
                for last in 0..9u8 {
                    let peer: IpAddr = format!("10.0.0.{last}").parse().unwrap();
                    for port in 1..5 {
                        prop_assert_eq!(rules.ingress.allows(peer, Protocol::Tcp, port), defined(&objects, subject, false, peer, port));
                        prop_assert_eq!(rules.egress.allows(peer, Protocol::Tcp, port), defined(&objects, subject, true, peer, port));
                    }
                }
                known.insert(id, rules);
            }
        }
    }
}

//! Decisions over small clusters: what each plugin says, and what people read.
use crate::cache::Cache;
use crate::decide::{Placement, Sampling, feasible_nodes_to_find, schedule_one};
use crate::framework::{FitError, Framework};
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn node(name: &str, more: Value) -> Arc<Node> {
    let mut v = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "3" },
                    "runtimeHandlers": [{ "name": "" }, { "name": "wasmtime" }] },
    });
    merge(&mut v, more);
    Arc::new(serde_json::from_value(v).unwrap())
}

pub(super) fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    let mut v = json!({
        "metadata": { "name": name, "namespace": "default", "uid": name },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    merge(&mut v["spec"], spec);
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value::<Pod>(v).unwrap())))
}

pub(super) fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (k, v) in more {
                merge(into.entry(k).or_insert(Value::Null), v);
            }
        }
        (into, more) => *into = more,
    }
}

fn requests(cpu: &str) -> Value {
    json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] })
}

pub(super) fn cluster(nodes: &[Arc<Node>]) -> Cache {
    let mut cache = Cache::default();
    for n in nodes {
        cache.set_node(n.clone());
    }
    cache.set_runtime_class("wasm", Some("wasmtime"));
    cache.set_runtime_class("linux", Some("runc"));
    cache
}

pub(super) fn decide(cache: &Cache, pod: &PodInfo) -> Result<Placement, FitError> {
    schedule_one(&Framework::default(), cache.snapshot(), pod, Sampling::default(), &mut || 0)
}

#[track_caller]
pub(super) fn placed(cache: &Cache, pod: &PodInfo, on: &str) {
    assert_eq!(decide(cache, pod).map(|p| p.node).map_err(|e| e.to_string()), Ok(on.to_owned()));
}

#[track_caller]
pub(super) fn refused(cache: &Cache, pod: &PodInfo, why: &str) {
    assert_eq!(decide(cache, pod).map_err(|e| e.to_string()), Err(why.to_owned()));
}

fn taint(key: &str, value: &str, effect: &str) -> Value {
    json!({ "spec": { "taints": [{ "key": key, "value": value, "effect": effect }] } })
}

#[test]
fn reasons_are_counted_and_worded_as_kube_scheduler_does() {
    let tainted = taint("k", "v", "NoSchedule");
    let c = cluster(&[node("a", json!({})), node("b", tainted.clone()), node("c", tainted)]);
    refused(
        &c,
        &pod("p", requests("3")),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
    refused(&cluster(&[]), &pod("p", json!({})), "no nodes available to schedule pods");
}

#[test]
fn a_full_node_could_be_helped_by_preemption_only_if_it_has_lesser_pods() {
    let mut c = cluster(&[node("a", json!({}))]);
    for i in 0..3 {
        c.assume(pod(&format!("held{i}"), requests("500m")), "a");
    }
    refused(
        &c,
        &pod("p", requests("1")),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    let mut important = requests("1");
    important["priority"] = json!(1000);
    refused(
        &c,
        &pod("p", important.clone()),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods.",
    );
    important["preemptionPolicy"] = json!("Never");
    refused(
        &c,
        &pod("p", important),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. \
         preemption: not eligible due to preemptionPolicy=Never.",
    );
}

#[test]
fn extended_resources_count_by_name() {
    let mut c = cluster(&[node("a", json!({ "status": { "allocatable": { "example.com/gpu": "1" } } }))]);
    let gpu =
        json!({ "containers": [{ "name": "c", "resources": { "requests": { "example.com/gpu": "1" } } }] });
    placed(&c, &pod("p", gpu.clone()), "a");
    c.assume(pod("held", gpu.clone()), "a");
    let error = decide(&c, &pod("p", gpu)).unwrap_err();
    assert!(
        error.to_string().starts_with("0/1 nodes are available: 1 Insufficient example.com/gpu."),
        "{error}"
    );
}

#[test]
fn tolerations_cover_taints_by_key_value_effect_and_wildcards() {
    let c = cluster(&[node("a", taint("k", "v", "NoExecute"))]);
    let with = |t: Value| pod("p", json!({ "tolerations": [t] }));
    for good in [
        json!({ "key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute" }),
        json!({ "key": "k", "value": "v" }),
        json!({ "key": "k", "operator": "Exists" }),
        json!({ "operator": "Exists" }),
        json!({ "operator": "Exists", "effect": "NoExecute" }),
    ] {
        placed(&c, &with(good), "a");
    }
    for bad in [
        json!({ "key": "k", "value": "w" }),
        json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }),
        json!({ "key": "x", "operator": "Exists" }),
    ] {
        assert!(decide(&c, &with(bad)).is_err());
    }
}

#[test]
fn a_preferred_taint_makes_a_node_the_second_choice() {
    let c = cluster(&[node("a", taint("k", "", "PreferNoSchedule")), node("b", json!({}))]);
    placed(&c, &pod("p", json!({})), "b");
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
    let c = cluster(&[node("a", json!({ "spec": { "unschedulable": true } }))]);
    refused(
        &c,
        &pod("p", json!({})),
        "0/1 nodes are available: 1 node(s) were unschedulable. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    let daemon =
        json!({ "tolerations": [{ "key": "node.kubernetes.io/unschedulable", "operator": "Exists" }] });
    placed(&c, &pod("p", daemon), "a");
}

#[test]
fn selectors_and_affinity_say_where_a_pod_may_run() {
    let label = |zone: &str, rank: &str| json!({ "metadata": { "labels": { "zone": zone, "rank": rank } } });
    let c = cluster(&[node("a", label("x", "1")), node("b", label("y", "5")), node("c", json!({}))]);
    placed(&c, &pod("p", json!({ "nodeSelector": { "zone": "y" } })), "b");
    refused(
        &c,
        &pod("p", json!({ "nodeSelector": { "zone": "nowhere" } })),
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
    let required = |terms: Value| {
        json!({ "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } })
    };
    let expression = |key: &str, operator: &str, values: Value| json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]);
    placed(&c, &pod("p", required(expression("rank", "Gt", json!(["3"])))), "b");
    placed(&c, &pod("p", required(expression("rank", "Lt", json!(["3"])))), "a");
    placed(&c, &pod("p", required(expression("zone", "DoesNotExist", json!([])))), "c");
    placed(&c, &pod("p", required(expression("kubernetes.io/hostname", "NotIn", json!(["a", "c"])))), "b");
    assert!(decide(&c, &pod("p", required(json!([{}])))).is_err());

    let preferred = json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 10, "preference": { "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["y"] }] } },
        { "weight": 20, "preference": { "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["x"] }] } },
    ] } } });
    placed(&c, &pod("p", preferred), "a");
}

#[test]
fn a_pod_that_names_its_node_needs_no_look_at_the_others() {
    let c = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let named = |name: &str, cpu: &str| {
        let mut spec = requests(cpu);
        spec["affinity"] = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }] } } });
        pod("p", spec)
    };
    assert_eq!(
        decide(&c, &named("b", "1")).unwrap(),
        Placement { node: "b".into(), looked_at: 1, feasible: 1 }
    );
    refused(
        &c,
        &named("b", "3"),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn host_ports_are_taken_by_address_protocol_and_number() {
    let mut c = cluster(&[node("a", json!({}))]);
    let ports = |ip: &str, protocol: &str, port: i32| {
        json!({ "containers": [{ "name": "c", "ports": [
            { "containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol }] }] })
    };
    c.assume(pod("held", ports("127.0.0.1", "TCP", 80)), "a");
    refused(
        &c,
        &pod("p", ports("0.0.0.0", "TCP", 80)),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    placed(&c, &pod("p", ports("127.0.0.2", "TCP", 80)), "a");
    placed(&c, &pod("p", ports("", "UDP", 80)), "a");
    c.remove("held");
    placed(&c, &pod("p", ports("", "TCP", 80)), "a");
}

#[test]
fn a_runtime_class_needs_a_node_with_its_handler() {
    let both = json!({ "status": { "runtimeHandlers": [{ "name": "wasmtime" }, { "name": "runc" }] } });
    let c = cluster(&[node("a", json!({})), node("b", both)]);
    placed(&c, &pod("p", json!({ "runtimeClassName": "linux" })), "b");
    let c = cluster(&[node("a", json!({}))]);
    placed(&c, &pod("p", json!({ "runtimeClassName": "wasm" })), "a");
    refused(
        &c,
        &pod("p", json!({ "runtimeClassName": "linux" })),
        "0/1 nodes are available: 1 node(s) didn't support runtime handler \"runc\". \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    refused(
        &c,
        &pod("p", json!({ "runtimeClassName": "none" })),
        "0/1 nodes are available: runtimeclass.node.k8s.io \"none\" not found. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn the_emptiest_node_wins_and_equals_are_drawn() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    c.assume(pod("held", requests("1")), "a");
    let p = pod("p", requests("100m"));
    let drawn = |n: u64| {
        let mut random = || n;
        schedule_one(&Framework::default(), c.snapshot(), &p, Sampling::default(), &mut random).unwrap().node
    };
    assert_eq!((drawn(0), drawn(1), drawn(2)), ("b".into(), "c".into(), "b".into()));
}

#[test]
fn large_clusters_are_sampled() {
    assert_eq!(feasible_nodes_to_find(99, 0), 99);
    assert_eq!(feasible_nodes_to_find(100, 0), 100);
    assert_eq!(feasible_nodes_to_find(1000, 0), 420);
    assert_eq!(feasible_nodes_to_find(6000, 0), 300);
    assert_eq!(feasible_nodes_to_find(1000, 30), 300);
    let c = cluster(&(0..300).map(|i| node(&format!("n{i}"), json!({}))).collect::<Vec<_>>());
    let sampling = Sampling { start: 250, percentage: 0 };
    let placement =
        schedule_one(&Framework::default(), c.snapshot(), &pod("p", json!({})), sampling, &mut || 0).unwrap();
    assert_eq!(placement, Placement { node: "n250".into(), looked_at: 144, feasible: 144 });
}

#[test]
fn a_pod_that_says_its_imports_goes_where_all_are_offered_and_else_is_told_which_is_not() {
    let offering = |name: &str, offers: &str| {
        node(name, json!({ "metadata": { "annotations": { "dhow.dev/offers": offers } } }))
    };
    let importing = |imports: &str| {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "default", "uid": "p",
                          "annotations": { "dhow.dev/imports": imports } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        });
        PodInfo::new(Arc::new(serde_json::from_value::<Pod>(pod).unwrap()))
    };
    let cache = cluster(&[
        offering("a", "wasi:io/poll@0.2"),
        offering("b", "wasi:io/poll@0.2,wasi:keyvalue/store@0.2.0-draft"),
        node("old", json!({})),
    ]);
    placed(&cache, &importing("wasi:io/poll@0.2.6, wasi:keyvalue/store@0.2.0-draft"), "b");
    let error = decide(&cache, &importing("wasi:io/poll@0.2.6,foo:bar/baz@1.0.0")).unwrap_err().to_string();
    assert!(error.contains("2 node(s) didn't offer the import foo:bar/baz@1.0.0"), "{error}");
    assert!(error.contains("1 node(s) didn't offer the import wasi:io/poll@0.2.6"), "{error}");
}

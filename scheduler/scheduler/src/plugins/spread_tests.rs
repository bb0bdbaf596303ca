//! Decisions that look at pods on all nodes: affinity to pods, and spreading.
use super::tests::{cluster, decide, merge, node, placed, pod, refused};
use crate::cache::Cache;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

/// A node of a zone that is large enough for all.
fn zoned(name: &str, zone: &str) -> Arc<Node> {
    node(
        name,
        json!({ "metadata": { "labels": { "zone": zone } }, "status": { "allocatable": { "pods": "50" } } }),
    )
}

fn three_nodes() -> Cache {
    cluster(&[zoned("a1", "a"), zoned("a2", "a"), zoned("b1", "b")])
}

/// A pod with labels, in a namespace.
fn labelled(name: &str, namespace: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    let mut v = serde_json::to_value(&*pod(name, spec).pod).unwrap();
    merge(&mut v, json!({ "metadata": { "namespace": namespace, "labels": labels } }));
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value::<Pod>(v).unwrap())))
}

fn web(name: &str, spec: Value) -> Arc<PodInfo> {
    labelled(name, "default", json!({ "app": "web" }), spec)
}

fn term(key: &str, app: &str) -> Value {
    json!({ "topologyKey": key, "labelSelector": { "matchLabels": { "app": app } } })
}

fn affinity(side: &str, terms: Value) -> Value {
    json!({ "affinity": { side: { "requiredDuringSchedulingIgnoredDuringExecution": terms } } })
}

fn preferred(side: &str, weight: i32, term: Value) -> Value {
    json!({ "affinity": { side: { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": weight, "podAffinityTerm": term }] } } })
}

fn spread(max_skew: i32, key: &str, when: &str, more: Value) -> Value {
    let mut c = json!({ "maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": { "matchLabels": { "app": "web" } } });
    merge(&mut c, more);
    json!({ "topologySpreadConstraints": [c] })
}

const NO_PREEMPTION: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

fn why(nodes: usize, reason: &str, preemption: &str) -> String {
    format!(
        "0/{nodes} nodes are available: {nodes} {reason}. preemption: 0/{nodes} nodes are available: {nodes} {preemption}."
    )
}

#[test]
fn pods_that_keep_away_from_their_like_take_a_node_each() {
    let mut c = three_nodes();
    let apart = affinity("podAntiAffinity", json!([term("kubernetes.io/hostname", "web")]));
    for i in 0..3 {
        let p = web(&format!("w{i}"), apart.clone());
        let node = decide(&c, &p).unwrap().node;
        c.assume(p, &node);
    }
    for n in ["a1", "a2", "b1"] {
        assert_eq!(c.snapshot().node(n).unwrap().pod_count(), 1);
    }
    let reason = "node(s) didn't match pod anti-affinity rules";
    refused(&c, &web("w3", apart), &why(3, reason, NO_PREEMPTION));
}

#[test]
fn a_placed_pod_keeps_others_away_though_they_ask_for_nothing() {
    let mut c = three_nodes();
    c.assume(
        labelled(
            "db",
            "default",
            json!({ "app": "db" }),
            affinity("podAntiAffinity", json!([term("zone", "web")])),
        ),
        "a1",
    );
    placed(&c, &web("w", json!({})), "b1");
    c.assume(
        labelled(
            "db2",
            "default",
            json!({ "app": "db" }),
            affinity("podAntiAffinity", json!([term("zone", "web")])),
        ),
        "b1",
    );
    let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
    refused(&c, &web("w", json!({})), &why(3, reason, NO_PREEMPTION));
    // Another namespace is not meant.
    assert!(decide(&c, &labelled("w", "other", json!({ "app": "web" }), json!({}))).is_ok());
}

#[test]
fn pods_that_want_to_be_together_share_a_zone_and_the_first_of_them_goes_anywhere() {
    let mut c = three_nodes();
    let together = affinity("podAffinity", json!([term("zone", "web")]));
    c.assume(web("w0", together.clone()), "b1");
    placed(&c, &web("w1", together.clone()), "b1");
    // Whom nobody like it has gone before, and who is not like it, waits.
    let reason = "node(s) didn't match pod affinity rules";
    let db = affinity("podAffinity", json!([term("zone", "db")]));
    refused(&c, &web("w2", db.clone()), &why(3, reason, NOT_HELPFUL));
    assert!(decide(&c, &labelled("d", "default", json!({ "app": "db" }), db)).is_ok());
    // A node without the label is none that could be shared.
    let bare = cluster(&[node("x", json!({}))]);
    refused(&bare, &web("w", together), &why(1, reason, NOT_HELPFUL));
}

#[test]
fn terms_reach_into_namespaces_by_name_by_label_and_narrow_by_the_pods_own_labels() {
    let mut c = three_nodes();
    c.assume(labelled("w", "shop", json!({ "app": "web", "v": "1" }), json!({})), "b1");
    let mut by_name = term("zone", "web");
    by_name["namespaces"] = json!(["shop"]);
    placed(&c, &pod("p", affinity("podAffinity", json!([by_name]))), "b1");
    let mut by_label = term("zone", "web");
    by_label["namespaceSelector"] = json!({ "matchLabels": { "team": "x" } });
    let p = pod("p", affinity("podAffinity", json!([by_label])));
    assert!(decide(&c, &p).is_err());
    assert!(c.set_namespace("shop", Some([("team".to_owned(), "x".to_owned())].into())));
    placed(&c, &p, "b1");
    let mut narrowed = term("zone", "web");
    narrowed["namespaces"] = json!(["shop"]);
    narrowed["matchLabelKeys"] = json!(["v"]);
    let of =
        |v: &str| labelled("p", "default", json!({ "v": v }), affinity("podAffinity", json!([narrowed])));
    placed(&c, &of("1"), "b1");
    assert!(decide(&c, &of("2")).is_err());
}

#[test]
fn preferences_about_other_pods_decide_between_nodes_that_fit() {
    let mut c = three_nodes();
    c.assume(labelled("db", "default", json!({ "app": "db" }), json!({})), "b1");
    placed(&c, &web("w", preferred("podAffinity", 100, term("zone", "db"))), "b1");
    let node = decide(&c, &web("w", preferred("podAntiAffinity", 100, term("zone", "db")))).unwrap().node;
    assert!(node.starts_with('a'), "{node}");
    // What a placed pod prefers counts as well.
    let mut c = three_nodes();
    c.assume(labelled("db", "default", json!({}), preferred("podAffinity", 100, term("zone", "web"))), "b1");
    placed(&c, &web("w", json!({})), "b1");
}

#[test]
fn no_zone_gets_more_than_max_skew_above_the_least() {
    let mut c = three_nodes();
    let even = spread(1, "zone", "DoNotSchedule", json!({}));
    c.assume(web("w0", json!({})), "a1");
    placed(&c, &web("w1", even.clone()), "b1");
    c.assume(web("w1", json!({})), "b1");
    c.assume(web("w2", json!({})), "b1");
    let on = decide(&c, &web("w3", even.clone())).unwrap().node;
    assert!(on.starts_with('a'), "{on}");
    // Pods of others, and pods that go, do not count.
    c.assume(labelled("x", "other", json!({ "app": "web" }), json!({})), "a1");
    let going =
        serde_json::from_value::<Pod>(json!({ "metadata": { "name": "g", "namespace": "default", "uid": "g",
        "labels": { "app": "web" }, "deletionTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "containers": [{ "name": "c" }] } }));
    c.assume(Arc::new(PodInfo::new(Arc::new(going.unwrap()))), "a2");
    let on = decide(&c, &web("w3", even.clone())).unwrap().node;
    assert!(on.starts_with('a'), "{on}");
    // A node of no zone is beyond help; the full zone would be helped by a pod that goes.
    let c = {
        let mut c = cluster(&[zoned("a1", "a"), node("x", json!({})), zoned("b1", "b")]);
        c.assume(web("w", json!({})), "b1");
        c
    };
    let mut on_b = even;
    on_b["nodeSelector"] = json!({ "zone": "b" });
    let error = decide(&c, &web("w", on_b.clone())).map_err(|e| e.to_string());
    // The selector leaves only zone b to spread over, so it is the least itself.
    assert_eq!(error.unwrap().node, "b1");
    on_b["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
    refused(
        &c,
        &web("w", on_b),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 2 node(s) didn't match \
         Pod's node affinity/selector. preemption: 0/3 nodes are available: 1 No preemption victims found for \
         incoming pod, 2 Preemption is not helpful for scheduling.",
    );
    let anywhere = web("w", spread(1, "rack", "DoNotSchedule", json!({})));
    let missing = "node(s) didn't match pod topology spread constraints (missing required label)";
    refused(&c, &anywhere, &why(3, missing, NOT_HELPFUL));
}

#[test]
fn with_fewer_domains_than_wanted_one_counts_as_empty() {
    let mut c = cluster(&[zoned("a1", "a"), zoned("b1", "b")]);
    for (name, on) in [("w0", "a1"), ("w1", "b1")] {
        c.assume(web(name, json!({})), on);
    }
    assert!(decide(&c, &web("w", spread(1, "zone", "DoNotSchedule", json!({})))).is_ok());
    let reason = "node(s) didn't match pod topology spread constraints";
    let three = web("w", spread(1, "zone", "DoNotSchedule", json!({ "minDomains": 3 })));
    refused(&c, &three, &why(2, reason, NO_PREEMPTION));
}

#[test]
fn tainted_nodes_count_unless_they_are_to_be_left_out() {
    let mut tainted = (*zoned("b1", "b")).clone();
    tainted.spec =
        serde_json::from_value(json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] })).unwrap();
    let mut c = cluster(&[zoned("a1", "a"), Arc::new(tainted)]);
    c.assume(web("w0", json!({})), "a1");
    assert!(decide(&c, &web("w", spread(1, "zone", "DoNotSchedule", json!({})))).is_err());
    let honour = web("w", spread(1, "zone", "DoNotSchedule", json!({ "nodeTaintsPolicy": "Honor" })));
    placed(&c, &honour, "a1");
}

#[test]
fn spreading_that_is_only_wished_for_prefers_the_emptier_zone_and_node() {
    let mut c = three_nodes();
    for (name, on) in [("w0", "a1"), ("w1", "a1"), ("w2", "a2")] {
        c.assume(web(name, json!({})), on);
    }
    placed(&c, &web("w", spread(1, "zone", "ScheduleAnyway", json!({}))), "b1");
    let by_node = web("w", spread(1, "kubernetes.io/hostname", "ScheduleAnyway", json!({})));
    placed(&c, &by_node, "b1");
    c.assume(web("w3", json!({})), "b1");
    c.assume(web("w4", json!({})), "b1");
    placed(&c, &by_node, "a2");
}

//! What must hold of every kind, checked row by row with one example each.
use super::*;
use crate::schema;
use crate::validation;
use serde_json::json;

/// A small valid object of each kind, as a user writes it.
fn example(row: &Resource) -> Value {
    let template = |restart: &str| {
        json!({"metadata": {"labels": {"app": "a"}}, "spec": {
            "restartPolicy": restart,
            "containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"port": 80}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "initContainers": [{"name": "i", "image": "y"}],
            "volumes": [{"name": "v"}, {"name": "w", "secret": {"secretName": "s"}},
                {"name": "d", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]
        }})
    };
    let selector = json!({"matchLabels": {"app": "a"}});
    let mut o = match (row.group, row.kind) {
        ("", "Pod") => json!({"spec": template("Always")["spec"]}),
        ("", "ConfigMap") => json!({"data": {"a": "1"}, "binaryData": {"b": "AA=="}}),
        ("", "Secret") => json!({"stringData": {"a": "1"}}),
        ("", "Service") => {
            json!({"spec": {"type": "NodePort", "selector": {"app": "a"}, "ports": [{"port": 80}]}})
        }
        ("", "Endpoints") => {
            json!({"subsets": [{"addresses": [{"ip": "127.42.0.1"}], "ports": [{"port": 80}]}]})
        }
        ("", "Event") => {
            json!({"involvedObject": {"kind": "Pod", "namespace": "n", "name": "p"}, "reason": "r"})
        }
        ("events.k8s.io", _) => {
            json!({"regarding": {"kind": "Pod", "namespace": "n"}, "reportingController": "x.io/y",
            "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal", "eventTime": "2026-01-01T00:00:00Z"})
        }
        ("", "Node") => json!({"status": {"capacity": {"cpu": "2"}}}),
        ("apps", _) => json!({"spec": {"selector": selector, "template": template("Always")}}),
        ("batch", _) => json!({"spec": {"template": template("Never")}}),
        ("discovery.k8s.io", _) => {
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.42.0.1"]}], "ports": [{"port": 80}]})
        }
        ("coordination.k8s.io", _) => json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 40}}),
        ("autoscaling", _) => {
            json!({"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3}})
        }
        ("node.k8s.io", _) => json!({"handler": "wasmtime"}),
        ("dhow.dev", _) => json!({"spec": {"image": "x", "env": [{"name": "A", "value": "1"}]}}),
        _ => json!({}),
    };
    o["apiVersion"] = json!(row.api_version());
    o["kind"] = json!(row.kind);
    o["metadata"] = json!({"name": "a", "uid": "u", "resourceVersion": "1"});
    if row.namespaced() {
        o["metadata"]["namespace"] = json!("n");
    }
    o
}

fn created(row: &Resource) -> Value {
    let mut o = example(row);
    row.strategy.default(&mut o);
    row.strategy.prepare_for_create(&mut o);
    o
}

#[test]
fn a_good_object_of_every_kind_is_valid_and_fits_its_schema_after_defaulting() {
    for row in TABLE {
        let mut o = created(row);
        let mut faults = validation::object_meta(row, &o);
        faults.extend(row.strategy.validate(&o));
        assert!(faults.is_empty(), "{}: {faults:?}", row.plural);
        let schema = schema::definition(row.schema).unwrap_or_else(|| panic!("no schema {}", row.schema));
        assert_eq!(schema::decode(schema, &mut o), Ok(vec![]), "{}", row.plural);
    }
}

#[test]
fn defaulting_twice_changes_nothing_for_every_kind() {
    for row in TABLE {
        let mut o = created(row);
        row.strategy.default(&mut o);
        let once = o.clone();
        row.strategy.default(&mut o);
        assert_eq!(o, once, "{}", row.plural);
    }
}

#[test]
fn writing_back_what_was_read_is_allowed_and_changes_nothing_for_every_kind() {
    for row in TABLE {
        let old = created(row);
        let mut new = old.clone();
        row.strategy.default(&mut new);
        row.prepare_for_update(&mut new, &old);
        let mut faults = validation::object_meta_update(row, &new, &old);
        faults.extend(row.strategy.validate_update(&new, &old));
        assert!(faults.is_empty(), "{}: {faults:?}", row.plural);
        assert!(!row.strategy.generation_changed(&new, &old), "{}", row.plural);
        let mut status = old.clone();
        row.prepare_for_status_update(&mut status, &old);
        assert_eq!(status, old, "{}", row.plural);
        assert!(row.strategy.validate_status_update(&status, &old).is_empty(), "{}", row.plural);
    }
}

#[test]
fn a_status_given_on_create_is_dropped_where_there_is_a_status_subresource() {
    for row in TABLE.iter().filter(|r| r.subresource("status").is_some()) {
        // A kubelet registers its node with status and all.
        if row.kind == "Node" {
            continue;
        }
        let mut o = example(row);
        o["status"] = json!({"observedGeneration": 77, "phase": "Weird"});
        row.strategy.default(&mut o);
        row.strategy.prepare_for_create(&mut o);
        assert!(
            o["status"].get("observedGeneration").is_none() && o["status"]["phase"] != "Weird",
            "{}",
            row.plural
        );
        let mut new = o.clone();
        new["status"] = json!({"observedGeneration": 77});
        row.prepare_for_update(&mut new, &o);
        assert_eq!(new["status"], o["status"], "{}", row.plural);
    }
}

#[test]
fn every_selectable_field_and_every_cell_has_a_value_even_of_an_empty_object() {
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    for row in TABLE {
        for o in [json!({}), json!({"spec": null, "status": []}), created(row)] {
            assert_eq!(row.strategy.fields(row, &o).len(), row.selectable_fields.len(), "{}", row.plural);
            for column in row.columns {
                let cell = (column.cell)(&o, now);
                assert!(cell.is_string() || cell.is_number(), "{} {}: {cell}", row.plural, column.name);
            }
        }
    }
}

#[test]
fn no_strategy_panics_on_an_object_of_the_wrong_shape() {
    for row in TABLE {
        let s = row.strategy;
        for spec in [
            json!(null),
            json!([]),
            json!("x"),
            json!({}),
            json!({"template": [], "ports": {}, "strategy": 1}),
        ] {
            let mut o = json!({"metadata": {"name": "a"}, "spec": spec, "status": spec, "subsets": spec, "data": spec});
            let old = o.clone();
            s.default(&mut o);
            s.prepare_for_create(&mut o);
            row.prepare_for_update(&mut o, &old);
            row.prepare_for_status_update(&mut o, &old);
            s.validate(&o);
            s.validate_update(&o, &old);
            s.validate_status_update(&o, &old);
            s.generation_changed(&o, &old);
            s.graceful_deletion(&o, None);
            validation::object_meta(row, &o);
        }
    }
}

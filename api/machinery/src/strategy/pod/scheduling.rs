//! Validation of what a pod tells the scheduler: affinity, tolerations, spreading.
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults};
use crate::strategy::view::{has, int, list, text};
use crate::validation::label_value;
use serde_json::Value;

pub(in crate::strategy) const TAINT_EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) fn tolerations(faults: &mut Faults, tolerations: &[Value], path: &Path) {
    for (i, t) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator, value, effect) =
            (text(t, "/key"), text(t, "/operator"), text(t, "/value"), text(t, "/effect"));
        if !key.is_empty() {
            check::key(faults, key, path.child("key"));
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            faults.push(Error::invalid(path.child("operator"), operator, detail));
        }
        if has(t, "/tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            faults.push(Error::invalid(path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                if let Err(errors) = label_value(value) {
                    faults.push(Error::invalid(path.child("operator"), value, &errors.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                faults.push(Error::invalid(path.child("operator"), t.clone(), detail));
            }
            "Exists" => {}
            other => {
                faults.push(Error::not_supported(path.child("operator"), other, &["Equal", "Exists"]));
            }
        }
        check::maybe_one_of(faults, t, &path, "effect", TAINT_EFFECTS);
    }
}

pub(super) fn affinity(faults: &mut Faults, affinity: &Value, path: &Path) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    let node_path = path.child("nodeAffinity");
    if has(node, &format!("/{REQUIRED}")) {
        let path = node_path.child(REQUIRED).child("nodeSelectorTerms");
        let terms = list(&node[REQUIRED], "/nodeSelectorTerms");
        if terms.is_empty() {
            faults.push(Error::required(path.clone(), "must have at least one node selector term"));
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(faults, term, &path.index(i));
        }
    }
    for (i, p) in list(node, &format!("/{PREFERRED}")).iter().enumerate() {
        let path = node_path.child(PREFERRED).index(i);
        check::range(faults, int(p, "/weight"), path.child("weight"), 1, 100);
        node_term(faults, &p["preference"], &path.child("preference"));
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let (terms, path) = (&affinity[side], path.child(side));
        for (i, term) in list(terms, &format!("/{REQUIRED}")).iter().enumerate() {
            pod_term(faults, term, &path.child(REQUIRED).index(i));
        }
        for (i, p) in list(terms, &format!("/{PREFERRED}")).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            check::range(faults, int(p, "/weight"), path.child("weight"), 1, 100);
            pod_term(faults, &p["podAffinityTerm"], &path.child("podAffinityTerm"));
        }
    }
}

fn node_term(faults: &mut Faults, term: &Value, path: &Path) {
    for name in ["matchExpressions", "matchFields"] {
        for (i, e) in list(term, &format!("/{name}")).iter().enumerate() {
            let path = path.child(name).index(i);
            let values = list(e, "/values").len();
            match text(e, "/operator") {
                "In" | "NotIn" if values == 0 => {
                    let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                    faults.push(Error::required(path.child("values"), detail));
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    faults.push(Error::forbidden(path.child("values"), detail));
                }
                "Gt" | "Lt" if values != 1 => {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    faults.push(Error::required(path.child("values"), detail));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => {
                    let detail = "not a valid selector operator";
                    faults.push(Error::invalid(path.child("operator"), other, detail));
                }
            }
            check::key(faults, text(e, "/key"), path.child("key"));
        }
    }
}

fn pod_term(faults: &mut Faults, term: &Value, path: &Path) {
    check::label_selector(faults, &term["labelSelector"], &path.child("labelSelector"));
    topology_key(faults, term, path, "can not be empty");
}

fn topology_key(faults: &mut Faults, term: &Value, path: &Path, why: &str) {
    match text(term, "/topologyKey") {
        "" => faults.push(Error::required(path.child("topologyKey"), why)),
        key => check::key(faults, key, path.child("topologyKey")),
    }
}

pub(super) fn spread(faults: &mut Faults, constraints: &[Value], path: &Path) {
    for (i, c) in constraints.iter().enumerate() {
        let path = path.index(i);
        if int(c, "/maxSkew") <= 0 {
            faults.push(Error::invalid(
                path.child("maxSkew"),
                int(c, "/maxSkew"),
                "must be greater than zero",
            ));
        }
        topology_key(faults, c, &path, "can not be empty");
        check::one_of(faults, c, &path, "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"]);
        check::label_selector(faults, &c["labelSelector"], &path.child("labelSelector"));
    }
}

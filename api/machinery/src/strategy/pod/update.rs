//! What may change of a pod: hardly anything but images.
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults};
use crate::strategy::view::{has, int, list, maybe_int, same, text};
use serde_json::Value;
use std::collections::BTreeSet;

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn pod(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    for name in ["containers", "initContainers"] {
        let at = path.child(name);
        let pointer = format!("/spec/{name}");
        if list(new, &pointer).len() != list(old, &pointer).len() {
            faults.push(Error::forbidden(at, "pod updates may not add or remove containers"));
            return faults;
        }
    }
    if !deadline(&mut faults, new, old, &path) {
        return faults;
    }
    tolerations(&mut faults, new, old, &path);
    gates(&mut faults, new, old, &path);

    // What may change is taken from the old pod; then nothing may differ.
    let mut rest = new["spec"].clone();
    let was = &old["spec"];
    for name in ["containers", "initContainers"] {
        for (i, before) in list(was, &format!("/{name}")).iter().enumerate() {
            if let Some(c) = rest.pointer_mut(&format!("/{name}/{i}")).filter(|c| c.is_object()) {
                c["image"] = before["image"].clone();
            }
        }
    }
    let mut kept = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let grace = "/terminationGracePeriodSeconds";
    if int(was, grace) < 0 && int(&rest, grace) == 1 {
        kept.push("terminationGracePeriodSeconds");
    }
    for name in kept {
        crate::strategy::view::keep(&mut rest, was, name);
    }
    if !same(&rest, was) {
        let names =
            |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let mut changed: Vec<String> = names(&rest).into_iter().chain(names(was)).collect();
        changed.sort();
        changed.dedup();
        changed.retain(|k| !same(&rest[k.as_str()], &was[k.as_str()]));
        faults.push(Error::forbidden(path, &format!("{ALLOWED}\nchanged: {}", changed.join(", "))));
    }
    faults
}

/// `activeDeadlineSeconds` may be set, and shortened.
fn deadline(faults: &mut Faults, new: &Value, old: &Value, path: &Path) -> bool {
    let at = path.child("activeDeadlineSeconds");
    let pointer = "/spec/activeDeadlineSeconds";
    match (maybe_int(new, pointer), maybe_int(old, pointer)) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            check::range(faults, n, at, 0, i64::from(i32::MAX));
            return false;
        }
        (Some(n), Some(o)) if n > o => {
            faults.push(Error::invalid(at, n, "must be less than or equal to previous value"));
            return false;
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            faults.push(Error::invalid(at, Value::Null, detail));
        }
        _ => {}
    }
    true
}

fn tolerations(faults: &mut Faults, new: &Value, old: &Value, path: &Path) {
    let at = path.child("tolerations");
    // Compared as text: a client may send thousands.
    let timeless = |t: &Value| {
        let fields = t.as_object().into_iter().flatten();
        let fields = fields.filter(|(k, v)| *k != "tolerationSeconds" && !v.is_null() && **v != "");
        fields.map(|(k, v)| format!("{k}={v}\n")).collect::<String>()
    };
    let now: BTreeSet<String> = list(new, "/spec/tolerations").iter().map(timeless).collect();
    if !list(old, "/spec/tolerations").iter().all(|t| now.contains(&timeless(t))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(Error::forbidden(at, detail));
    }
}

/// Scheduling gates may only go.
fn gates(faults: &mut Faults, new: &Value, old: &Value, path: &Path) {
    let had: BTreeSet<&str> = list(old, "/spec/schedulingGates").iter().map(|g| text(g, "/name")).collect();
    let added: Vec<&str> = list(new, "/spec/schedulingGates")
        .iter()
        .map(|g| text(g, "/name"))
        .filter(|n| !had.contains(n))
        .collect();
    if !added.is_empty() {
        let detail =
            format!("only deletion is allowed, but found new scheduling gates '{}'", added.join(","));
        faults.push(Error::forbidden(path.child("schedulingGates"), &detail));
    }
}

/// A container that has ended for good may not run again.
pub(super) fn status(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let policy = text(old, "/spec/restartPolicy");
    if policy == "Always" {
        return faults;
    }
    for name in ["containerStatuses", "initContainerStatuses"] {
        let pointer = format!("/status/{name}");
        for (i, was) in list(old, &pointer).iter().enumerate() {
            let ended = has(was, "/state/terminated");
            let failed = int(was, "/state/terminated/exitCode") != 0;
            let sidecar = list(old, "/spec/initContainers")
                .iter()
                .any(|c| c["name"] == was["name"] && c["restartPolicy"] == "Always");
            if !ended || sidecar || (failed && policy == "OnFailure") {
                continue;
            }
            let now = list(new, &pointer).iter().find(|c| c["name"] == was["name"]);
            if now.is_some_and(|c| !has(c, "/state/terminated")) {
                let path = Path::new("status").child(name).index(i).child("state");
                faults.push(Error::forbidden(path, "may not be transitioned to non-terminated state"));
            }
        }
    }
    faults
}

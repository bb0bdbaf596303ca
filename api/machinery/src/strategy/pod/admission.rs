//! What upstream's admission plugins add to a new pod: DefaultTolerationSeconds, Priority, ServiceAccount.
//! They are on by default there, so clients expect their effects.
use crate::strategy::view::{list, text};
use serde_json::{Value, json};

/// How long a pod stays on a node that is not ready or out of reach
/// (kube-apiserver `--default-not-ready-toleration-seconds`).
const TOLERATED_SECONDS: i64 = 300;

pub(super) fn admit(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) else { return };
    if text(spec, "/serviceAccountName").is_empty() {
        spec["serviceAccountName"] = json!("default");
        spec["serviceAccount"] = json!("default");
    }
    tolerate(spec, "node.kubernetes.io/not-ready");
    tolerate(spec, "node.kubernetes.io/unreachable");
    let priority = match text(spec, "/priorityClassName") {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => 0,
    };
    if !spec["priority"].is_i64() {
        spec["priority"] = json!(priority);
    }
    if text(spec, "/preemptionPolicy").is_empty() {
        spec["preemptionPolicy"] = json!("PreemptLowerPriority");
    }
}

fn tolerate(spec: &mut Value, taint: &str) {
    let tolerated = list(spec, "/tolerations").iter().any(|t| {
        matches!(text(t, "/effect"), "" | "NoExecute")
            && (text(t, "/key").is_empty() || text(t, "/key") == taint)
    });
    if tolerated {
        return;
    }
    let toleration = json!({
        "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS
    });
    match spec["tolerations"].as_array_mut() {
        Some(list) => list.push(toleration),
        None => spec["tolerations"] = json!([toleration]),
    }
}

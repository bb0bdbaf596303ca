//! Taints and tolerations: alike for who places pods and who evicts them.
use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration covers a taint: an effect or key that is empty or not there covers all of them.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().filter(|e| !e.is_empty());
    let key = toleration.key.as_deref().filter(|k| !k.is_empty());
    if effect.is_some_and(|e| e != taint.effect) || key.is_some_and(|k| k != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tolerations_cover_taints_by_key_value_effect_and_wildcards() {
        let taint: Taint =
            serde_json::from_value(json!({ "key": "k", "value": "v", "effect": "NoExecute" })).unwrap();
        let covers = |t: Value| tolerates(&serde_json::from_value(t).unwrap(), &taint);
        for good in [
            json!({ "key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute" }),
            json!({ "key": "k", "value": "v" }),
            json!({ "key": "k", "operator": "Exists" }),
            json!({ "operator": "Exists", "effect": "" }),
            json!({ "operator": "Exists", "effect": "NoExecute" }),
        ] {
            assert!(covers(good.clone()), "{good}");
        }
        for bad in [
            json!({ "key": "k", "value": "w" }),
            json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }),
            json!({ "key": "x", "operator": "Exists" }),
            json!({ "key": "k", "operator": "Gt", "value": "1" }),
        ] {
            assert!(!covers(bad.clone()), "{bad}");
        }
    }
}

//! `spec.successPolicy`: an Indexed Job may be done before all of its indexes are. Pure.
use super::indexes;
use client::k8s_openapi::api::batch::v1::{JobSpec, SuccessPolicyRule};
use std::collections::BTreeSet;

/// Which rule the indexes that succeeded meet, as the condition words it; `None` when they meet none.
pub(crate) fn matched_rule(spec: &JobSpec, succeeded: &BTreeSet<i32>) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let completions = spec.completions.unwrap_or(0);
    let rules = spec.success_policy.as_ref()?.rules.iter();
    let index = rules.into_iter().position(|rule| is_met(rule, completions, succeeded))?;
    Some(format!("Matched rules at index {index}"))
}

fn is_met(rule: &SuccessPolicyRule, completions: i32, succeeded: &BTreeSet<i32>) -> bool {
    let enough =
        |n: usize| rule.succeeded_count.is_some_and(|least| n >= usize::try_from(least).unwrap_or(0));
    match &rule.succeeded_indexes {
        None => enough(succeeded.len()),
        Some(text) => {
            let wanted = indexes::parse(text, completions);
            let there = wanted.intersection(succeeded).count();
            if rule.succeeded_count.is_some() { enough(there) } else { there == wanted.len() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_rule_asks_for_certain_indexes_or_for_so_many_of_them() {
        let matched = |rules: Value, done: &[i32]| {
            let spec = json!({ "completions": 5, "template": {}, "successPolicy": { "rules": rules } });
            matched_rule(&serde_json::from_value(spec).unwrap(), &done.iter().copied().collect())
        };
        let at = |i: usize| Some(format!("Matched rules at index {i}"));
        let leader = json!([{ "succeededIndexes": "0" }]);
        assert_eq!(matched(leader.clone(), &[0, 3]), at(0));
        assert_eq!(matched(leader, &[1, 2, 3]), None);
        let some = json!([{ "succeededIndexes": "0,2-4", "succeededCount": 2 }, { "succeededCount": 4 }]);
        assert_eq!(matched(some.clone(), &[1, 2]), None);
        assert_eq!(matched(some.clone(), &[2, 4]), at(0));
        assert_eq!(matched(some, &[0, 1]), None);
        assert_eq!(matched(json!([{ "succeededCount": 0 }]), &[]), None);
        assert_eq!(matched(Value::Array(Vec::new()), &[0]), None);
    }
}

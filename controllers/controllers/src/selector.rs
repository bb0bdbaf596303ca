//! Matching a typed metav1.LabelSelector against typed labels.
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// A set of labels; `None` is the empty set.
pub(crate) type Labels = BTreeMap<String, String>;

/// Whether `labels` match. An empty selector matches nothing here: a controller that owned every pod of a
/// namespace would be a mistake, and validation refuses such selectors in every kind that has one.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let no_labels = Labels::new();
    let labels = labels.unwrap_or(&no_labels);
    if is_empty(selector) {
        return false;
    }
    selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|r| requirement_matches(r, labels))
}

/// Whether the selector has no terms.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether every label of a plain equality selector (a Service's) is there.
pub(crate) fn equality_matches(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn requirement_matches(r: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&r.key);
    let among = |v: &String| r.values.as_ref().is_some_and(|all| all.contains(v));
    match r.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        }
    }

    #[test]
    fn each_operator_means_what_kubernetes_says() {
        let l = labels(&[("app", "web")]);
        for (key, operator, values, want) in [
            ("app", "In", &["web", "db"][..], true),
            ("app", "In", &["db"], false),
            ("tier", "In", &["db"], false),
            ("app", "NotIn", &["db"], true),
            ("app", "NotIn", &["web"], false),
            ("tier", "NotIn", &["db"], true),
            ("app", "Exists", &[], true),
            ("tier", "Exists", &[], false),
            ("tier", "DoesNotExist", &[], true),
            ("app", "DoesNotExist", &[], false),
            ("app", "Bogus", &[], false),
        ] {
            assert_eq!(
                matches(&expression(key, operator, values), Some(&l)),
                want,
                "{key} {operator} {values:?}"
            );
        }
    }

    #[test]
    fn an_empty_selector_owns_nothing() {
        assert!(!matches(&LabelSelector::default(), Some(&labels(&[("a", "b")]))));
    }
}

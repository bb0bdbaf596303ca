//! Typed label selectors against typed labels: alike for everyone who picks objects by their labels.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// A set of labels.
pub type Labels = BTreeMap<String, String>;

/// Whether `labels` (none at all is the empty set) match, by the API's rule: an empty selector matches everything, an
/// operator nobody knows nothing. What a selector that is not there means is the field's own affair.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    equality_matches(selector.match_labels.iter().flatten(), labels)
        && selector.match_expressions.iter().flatten().all(|r| requirement_matches(r, labels))
}

/// Whether the selector has no terms.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether each of `wanted` (a Service's selector) is there.
pub fn equality_matches<'a>(
    wanted: impl IntoIterator<Item = (&'a String, &'a String)>,
    labels: Option<&Labels>,
) -> bool {
    wanted.into_iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn requirement_matches(r: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let value = labels.and_then(|l| l.get(&r.key));
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
        assert!(matches(&LabelSelector::default(), None), "an empty selector takes everything");
        assert!(equality_matches(&labels(&[("app", "web")]), Some(&l)));
        assert!(!equality_matches(&labels(&[("app", "web")]), None));
    }
}

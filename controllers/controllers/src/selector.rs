//! Which objects a controller's selector picks.
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
pub(crate) use client::selector::{Labels, equality_matches, is_empty};

/// Whether `labels` match. An empty selector matches nothing here: a controller that owned every pod of a
/// namespace would be a mistake, and validation refuses such selectors in every kind that has one.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    !is_empty(selector) && client::selector::matches(selector, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_selector_owns_nothing() {
        let labels: Labels = [("a".to_owned(), "b".to_owned())].into();
        assert!(!matches(&LabelSelector::default(), Some(&labels)));
    }
}

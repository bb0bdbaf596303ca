//! What a filter lets pass: the same for every implementation. An empty field matches all.
use crate::types::*;
use std::collections::BTreeMap;

fn labels_match(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl PodSandboxFilter {
    pub fn matches(&self, id: &str, state: PodSandboxState, labels: &BTreeMap<String, String>) -> bool {
        (self.id.is_empty() || self.id == id)
            && self.state.as_ref().is_none_or(|wanted| wanted.state() == state)
            && labels_match(&self.label_selector, labels)
    }
}

impl ContainerFilter {
    pub fn matches(
        &self,
        id: &str,
        sandbox: &str,
        state: ContainerState,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        (self.id.is_empty() || self.id == id)
            && (self.pod_sandbox_id.is_empty() || self.pod_sandbox_id == sandbox)
            && self.state.as_ref().is_none_or(|wanted| wanted.state() == state)
            && labels_match(&self.label_selector, labels)
    }
}

impl ContainerStatsFilter {
    pub fn matches(&self, id: &str, sandbox: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.id.is_empty() || self.id == id)
            && (self.pod_sandbox_id.is_empty() || self.pod_sandbox_id == sandbox)
            && labels_match(&self.label_selector, labels)
    }
}

impl PodSandboxStatsFilter {
    pub fn matches(&self, id: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.id.is_empty() || self.id == id) && labels_match(&self.label_selector, labels)
    }
}

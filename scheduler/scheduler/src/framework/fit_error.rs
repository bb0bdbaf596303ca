//! Why no node fits a pod, as kube-scheduler words it.
use super::Rejection;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// No node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct FitError {
    /// How many nodes there are.
    pub all_nodes: usize,
    /// Said before any node was looked at.
    pub pre_filter: Option<String>,
    /// How many nodes gave which reason.
    pub reasons: BTreeMap<String, usize>,
    /// Said after all nodes were looked at.
    pub post_filter: Option<String>,
    /// The plugins that rejected the pod somewhere.
    pub rejected_by: BTreeSet<&'static str>,
}

impl FitError {
    pub(crate) fn count(&mut self, rejection: &Rejection) {
        self.rejected_by.insert(rejection.plugin);
        for reason in &rejection.reasons {
            *self.reasons.entry(reason.to_string()).or_default() += 1;
        }
    }
}

/// `n Reason, m Other reason`, sorted as text.
pub(crate) fn histogram(reasons: &BTreeMap<String, usize>) -> String {
    let mut counted: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    counted.sort();
    counted.join(", ")
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all_nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.all_nodes)?;
        match &self.pre_filter {
            Some(message) => write!(f, " {message}.")?,
            None if !self.reasons.is_empty() => write!(f, " {}.", histogram(&self.reasons))?,
            None => {}
        }
        match &self.post_filter {
            Some(message) => write!(f, " {message}"),
            None => Ok(()),
        }
    }
}

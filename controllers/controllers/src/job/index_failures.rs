//! `spec.backoffLimitPerIndex`: each index of an Indexed Job has failures, waits and an end of its own. Pure.
//!
//! How often an index failed is written on the pod that replaces the last one that did. So a failed pod is held until
//! there is a replacement to carry the number on.
use super::account::{has_failed, index_of};
use super::failure_policy::{Verdict, judge};
use super::plan::{ended_at, wait_after};
use crate::pod;
use client::k8s_openapi::api::batch::v1::Job;
use client::k8s_openapi::api::core::v1::Pod;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The annotation of a pod that says how often its index failed before.
pub(crate) const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";

/// The last failure of an index that may be tried again.
#[derive(Clone, Debug, PartialEq)]
struct Failure {
    pod: String,
    /// Failures so far, this one among them unless it is ignored.
    count: i32,
    at: Option<Timestamp>,
}

/// What the failed pods of a Job mean for its indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IndexFailures {
    /// Indexes that are not tried again.
    pub(crate) failed: BTreeSet<i32>,
    last: BTreeMap<i32, Failure>,
}

/// Reads the failures of each index; `None` for a Job without a limit for each. `known` are the indexes that have failed
/// for good already.
pub(crate) fn compute_index_failures(
    job: &Job,
    pods: &[&Pod],
    known: BTreeSet<i32>,
) -> Option<IndexFailures> {
    let limit = job.spec.as_ref()?.backoff_limit_per_index?;
    let completions = job.spec.as_ref()?.completions.unwrap_or(0);
    let mut all = IndexFailures { failed: known, last: BTreeMap::new() };
    for p in pods.iter().filter(|p| has_failed(job, p)) {
        let Some(index) = index_of(p).filter(|i| (0..completions).contains(i)) else { continue };
        let before = failures_before(p);
        let count = match judge(job, p) {
            Verdict::Ignore => before,
            Verdict::FailIndex => {
                all.failed.insert(index);
                before.saturating_add(1)
            }
            Verdict::Count | Verdict::FailJob(_) => before.saturating_add(1),
        };
        if count > limit {
            all.failed.insert(index);
        }
        let new = Failure { pod: p.metadata.name.clone().unwrap_or_default(), count, at: ended_at(p) };
        match all.last.get(&index) {
            Some(old) if (old.count, old.at) >= (new.count, new.at) => {}
            _ => {
                all.last.insert(index, new);
            }
        }
    }
    let failed = all.failed.clone();
    all.last.retain(|index, _| !failed.contains(index));
    Some(all)
}

/// How often the pod's index failed before it was made.
fn failures_before(p: &Pod) -> i32 {
    let text = p.metadata.annotations.as_ref().and_then(|a| a.get(FAILURE_COUNT));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

impl IndexFailures {
    /// Failures of an index so far: what its next pod is to say.
    pub(crate) fn count(&self, index: i32) -> i32 {
        self.last.get(&index).map_or(0, |f| f.count)
    }

    /// How long an index has to wait for its next pod; `None` when it need not.
    pub(crate) fn wait(&self, index: i32, now: Timestamp) -> Option<Duration> {
        let failure = self.last.get(&index)?;
        // A failure that is ignored, and had none before it, makes nobody wait.
        let earlier = u32::try_from(failure.count - 1).ok()?;
        pod::left(failure.at?, wait_after(earlier), now)
    }

    /// The failed pods, by name, that no other pod of their index has replaced yet.
    pub(crate) fn held(&self, pods: &[&Pod], completed: &BTreeSet<i32>) -> BTreeSet<String> {
        let replaced: BTreeSet<i32> =
            pods.iter().filter(|p| pod::is_active(p)).filter_map(|p| index_of(p)).collect();
        let last = self.last.iter().filter(|(i, _)| !replaced.contains(i) && !completed.contains(i));
        last.map(|(_, f)| f.pod.clone()).collect()
    }
}

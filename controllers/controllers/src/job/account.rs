//! Counting ended pods exactly once, whatever dies in between.
//!
//! ```text
//!   pod ends, holds the finalizer ─► its uid into uncountedTerminatedPods ─► finalizer taken off
//!                                     (one status write)                        │
//!                 counter + 1, uid out of the list  ◄───────────────────────────┘
//!                 (one status write)
//! ```
//! Invariant: a uid is in the list from before its finalizer goes until its counter has risen; so each ended
//! pod is in exactly one of: finalizer and not listed, listed, counted.
use super::failure_policy::{Verdict, judge};
use super::index_failures::{IndexFailures, compute_index_failures};
use super::indexes;
use crate::pod;
use client::k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use client::k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Uids listed at a time: 500 uids are 20 kB of status (upstream's limit).
const MAX_UNCOUNTED: usize = 500;

/// The books of a Job, as they shall be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Account {
    /// Counted for good.
    pub(crate) succeeded: i32,
    pub(crate) failed: i32,
    pub(crate) uncounted_succeeded: Vec<String>,
    pub(crate) uncounted_failed: Vec<String>,
    /// For an Indexed Job: the indexes that are done.
    pub(crate) completed: Option<BTreeSet<i32>>,
    /// For an Indexed Job with a limit for each index: what failed, and how often.
    pub(crate) failures: Option<IndexFailures>,
    /// Pods to take the finalizer off once this is written, by name.
    pub(crate) release: Vec<String>,
}

impl Account {
    /// Pods that succeeded, counted or not.
    pub(crate) fn all_succeeded(&self) -> i32 {
        match &self.completed {
            Some(done) => done.len() as i32,
            None => self.succeeded + self.uncounted_succeeded.len() as i32,
        }
    }

    pub(crate) fn all_failed(&self) -> i32 {
        self.failed + self.uncounted_failed.len() as i32
    }

    /// How many indexes failed for good.
    pub(crate) fn failed_indexes(&self) -> usize {
        self.failures.as_ref().map_or(0, |f| f.failed.len())
    }

    /// Whether nothing waits to be counted.
    pub(crate) fn is_settled(&self) -> bool {
        self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty() && self.release.is_empty()
    }

    pub(crate) fn write_into(&self, status: &mut JobStatus) {
        let succeeded = match &self.completed {
            Some(done) => done.len() as i32,
            None => self.succeeded,
        };
        status.succeeded = (succeeded > 0).then_some(succeeded);
        status.failed = (self.failed > 0).then_some(self.failed);
        status.completed_indexes =
            self.completed.as_ref().map(indexes::format).filter(|text| !text.is_empty());
        // Upstream shows an empty list too, once there is a limit for each index.
        status.failed_indexes = self.failures.as_ref().map(|f| indexes::format(&f.failed));
        let list = |l: &Vec<String>| (!l.is_empty()).then(|| l.clone());
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(&self.uncounted_succeeded),
            failed: list(&self.uncounted_failed),
        });
    }
}

pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// The completion index of a pod of an Indexed Job.
pub(crate) fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

pub(crate) fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|s| s.completion_mode.as_deref() == Some("Indexed"))
}

/// Whether a pod counts as failed: ended so, or being deleted before it ended.
pub(crate) fn has_failed(job: &Job, p: &Pod) -> bool {
    // Judged by its exit codes, or replaced only then: a pod that is being deleted has to end first.
    let only_failed = job.spec.as_ref().is_some_and(|s| {
        s.pod_replacement_policy.as_deref() == Some("Failed") || s.pod_failure_policy.is_some()
    });
    pod::phase(p) == "Failed" || (!only_failed && pod::is_terminating(p) && pod::phase(p) != "Succeeded")
}

/// Brings the books up to date with the pods. `ending`: no pod is replaced any more.
pub(crate) fn compute_account(job: &Job, pods: &[&Pod], ending: bool) -> Account {
    let old = job.status.clone().unwrap_or_default();
    let listed = old.uncounted_terminated_pods.unwrap_or_default();
    let completions = job.spec.as_ref().and_then(|s| s.completions).unwrap_or(0);
    let tracked: BTreeSet<&str> =
        pods.iter().filter(|p| is_tracked(p)).filter_map(|p| p.metadata.uid.as_deref()).collect();
    let (waiting_succeeded, done_succeeded) = split(listed.succeeded, &tracked);
    let (waiting_failed, done_failed) = split(listed.failed, &tracked);
    let mut a = Account {
        succeeded: old.succeeded.unwrap_or(0) + done_succeeded,
        failed: old.failed.unwrap_or(0) + done_failed,
        uncounted_succeeded: waiting_succeeded,
        uncounted_failed: waiting_failed,
        completed: is_indexed(job)
            .then(|| indexes::parse(old.completed_indexes.as_deref().unwrap_or(""), completions)),
        failures: None,
        release: Vec::new(),
    };
    let known = indexes::parse(old.failed_indexes.as_deref().unwrap_or(""), completions);
    // A pod that is stopped because the Job ends fails no index.
    let judged: &[&Pod] = if ending { &[] } else { pods };
    a.failures = compute_index_failures(job, judged, known);
    let held = match (&a.failures, &a.completed) {
        (Some(failures), Some(done)) => failures.held(pods, done),
        _ => BTreeSet::new(),
    };
    for p in pods.iter().filter(|p| is_tracked(p)) {
        let (Some(uid), Some(name)) = (p.metadata.uid.clone(), p.metadata.name.clone()) else { continue };
        if held.contains(&name) {
            continue;
        }
        let room = a.uncounted_succeeded.len() + a.uncounted_failed.len() < MAX_UNCOUNTED;
        if pod::phase(p) == "Succeeded" {
            match (&mut a.completed, index_of(p)) {
                // The set of indexes is enough not to count one twice.
                (Some(done), Some(i)) if (0..completions).contains(&i) => {
                    done.insert(i);
                    a.release.push(name);
                }
                // An index beyond completions, or none: counts for nothing.
                (Some(_), _) => a.release.push(name),
                (None, _) => enlist(&mut a.uncounted_succeeded, uid, name, room, &mut a.release),
            }
        } else if has_failed(job, p) && judge(job, p) == Verdict::Ignore {
            a.release.push(name);
        } else if has_failed(job, p) {
            enlist(&mut a.uncounted_failed, uid, name, room, &mut a.release);
        }
    }
    a
}

/// The uids whose pods still hold the finalizer, and how many do not.
fn split(listed: Option<Vec<String>>, tracked: &BTreeSet<&str>) -> (Vec<String>, i32) {
    let (waiting, done): (Vec<String>, Vec<String>) =
        listed.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
    (waiting, done.len() as i32)
}

fn enlist(list: &mut Vec<String>, uid: String, name: String, room: bool, release: &mut Vec<String>) {
    if list.contains(&uid) {
        release.push(name);
    } else if room {
        list.push(uid);
        release.push(name);
    }
}

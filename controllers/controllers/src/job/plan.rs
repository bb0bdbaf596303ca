//! What one Job needs next. Pure.
//!
//! ```text
//!   running ─► SuccessCriteriaMet ─► pods gone, all counted ─► Complete ─► ttl ─► deleted
//!        └───► FailureTarget ──────► pods gone, all counted ─► Failed ───► ttl ─► deleted
//! ```
use super::account::{self, Account, compute_account};
use super::failure_policy::{Verdict, judge};
use super::success_policy::matched_rule;
use crate::pod;
use client::k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use client::k8s_openapi::api::core::v1::Pod;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The wait after the first failure; it doubles with each (upstream's DefaultJobPodFailureBackOff).
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait between failures.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_mins(10);
/// The most pods created or deleted in one pass.
const BURST: usize = 500;

/// What the planner sees.
pub(crate) struct World<'a> {
    pub(crate) job: &'a Job,
    /// The pods it controls.
    pub(crate) pods: &'a [&'a Pod],
    pub(crate) now: Timestamp,
}

/// What is to be done, in this order; `release` only after `status` is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Pods to create: the completion index of each, for an Indexed Job.
    pub(crate) create: Vec<Option<i32>>,
    /// How often the indexes of `create` failed so far, if each has a limit of its own.
    pub(crate) failures: BTreeMap<i32, i32>,
    pub(crate) delete: Vec<String>,
    /// Whether deleted pods count as failed; else their finalizer goes first.
    pub(crate) deleted_count_as_failed: bool,
    pub(crate) status: JobStatus,
    /// Pods to take the finalizer off.
    pub(crate) release: Vec<String>,
    /// The Job itself has outlived its ttl.
    pub(crate) delete_job: bool,
    pub(crate) look_again: Option<Duration>,
    pub(crate) why: Why,
}

/// The reason for what a plan does, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    AsWanted,
    TooFew,
    TooMany,
    /// Pods failed lately: the next ones wait.
    BackingOff,
    Suspended,
    /// The Job's end is decided; pods end and are counted.
    Finishing,
    Finished,
    Terminating,
    /// `spec.managedBy` names somebody else.
    NotOurs,
}

/// Decides the next step of a Job.
pub(crate) fn plan_job(world: &World<'_>) -> Plan {
    let old = world.job.status.clone().unwrap_or_default();
    let mut plan = Plan {
        create: Vec::new(),
        failures: BTreeMap::new(),
        delete: Vec::new(),
        deleted_count_as_failed: false,
        status: old.clone(),
        release: Vec::new(),
        delete_job: false,
        look_again: None,
        why: Why::AsWanted,
    };
    let Some(spec) = world.job.spec.as_ref() else { return plan };
    if spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") {
        plan.why = Why::NotOurs;
        return plan;
    }
    if let Some(end) = finished(&old) {
        plan.why = Why::Finished;
        // What is left was counted, or ended after the end and counts for nothing.
        let left = world.pods.iter().filter(|p| account::is_tracked(p));
        plan.release = left.filter_map(|p| p.metadata.name.clone()).collect();
        plan_ttl(world, spec, end, &mut plan);
        return plan;
    }
    let ending = decided(old.conditions.as_deref().unwrap_or_default()).is_some()
        || world.job.metadata.deletion_timestamp.is_some();
    let account = compute_account(world.job, world.pods, ending);
    plan.release = account.release.clone();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let active: Vec<&Pod> = world.pods.iter().copied().filter(|p| pod::is_active(p)).collect();
    if decided(&conditions).is_none()
        && let Some(end) = decide(world, spec, &account, active.len())
    {
        conditions.push(end);
    }
    let mut start = old.start_time.clone();
    if let Some(end) = decided(&conditions).cloned() {
        plan.why = Why::Finishing;
        plan.delete = names(&active);
        plan.deleted_count_as_failed = end.type_ == "FailureTarget";
        let terminating = world.pods.iter().any(|p| !pod::is_terminal(p));
        if !terminating && account.is_settled() {
            let kind = if end.type_ == "FailureTarget" { "Failed" } else { "Complete" };
            conditions.push(condition(
                kind,
                "True",
                end.reason.as_deref().unwrap_or(""),
                end.message.as_deref().unwrap_or(""),
                world.now,
            ));
            plan.status.completion_time = (kind == "Complete").then_some(Time(world.now));
        }
    } else if world.job.metadata.deletion_timestamp.is_some() {
        plan.why = Why::Terminating;
    } else if spec.suspend == Some(true) {
        plan.why = Why::Suspended;
        plan.delete = names(&active);
        start = None;
        set_suspended(&mut conditions, true, world.now);
    } else {
        if conditions.iter().any(|c| c.type_ == "Suspended" && c.status == "True") {
            set_suspended(&mut conditions, false, world.now);
            start = None;
        }
        let since = start.get_or_insert(Time(world.now)).0;
        plan_pods(world, spec, &account, &active, &mut plan);
        plan.look_again = earliest(plan.look_again, deadline_in(spec, since, world.now));
    }
    plan.status.start_time = start;
    plan.status.conditions = (!conditions.is_empty()).then_some(conditions);
    count_pods(world, &active, &mut plan);
    account.write_into(&mut plan.status);
    plan
}

fn count_pods(world: &World<'_>, active: &[&Pod], plan: &mut Plan) {
    let some = |n: usize| i32::try_from(n).ok().filter(|n| *n > 0);
    let staying: Vec<&&Pod> =
        active.iter().filter(|p| p.metadata.name.as_ref().is_none_or(|n| !plan.delete.contains(n))).collect();
    let ending = world.pods.iter().filter(|p| pod::is_terminating(p) && !pod::is_terminal(p)).count();
    plan.status.active = some(staying.len() + plan.create.len());
    plan.status.ready = Some(staying.iter().filter(|p| pod::is_ready(p)).count() as i32);
    plan.status.terminating = Some((ending + active.len() - staying.len()) as i32);
}

fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter().take(BURST).filter_map(|p| p.metadata.name.clone()).collect()
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The condition that ended the Job.
pub(crate) fn finished(status: &JobStatus) -> Option<&JobCondition> {
    let all = status.conditions.as_deref().unwrap_or_default();
    all.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// The condition that says how it will end.
fn decided(conditions: &[JobCondition]) -> Option<&JobCondition> {
    let kind = |c: &&JobCondition| matches!(c.type_.as_str(), "FailureTarget" | "SuccessCriteriaMet");
    conditions.iter().filter(kind).find(|c| c.status == "True")
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn set_suspended(conditions: &mut Vec<JobCondition>, suspended: bool, now: Timestamp) {
    let (status, reason, message) = if suspended {
        ("True", "JobSuspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Job resumed")
    };
    if conditions.iter().any(|c| c.type_ == "Suspended" && c.status == status) {
        return;
    }
    conditions.retain(|c| c.type_ != "Suspended");
    conditions.push(condition("Suspended", status, reason, message, now));
}

/// Whether and how the Job ends now.
fn decide(world: &World<'_>, spec: &JobSpec, account: &Account, active: usize) -> Option<JobCondition> {
    let now = world.now;
    // Only pods that are still to be counted are judged: an old failure was judged when it happened.
    let uncounted = world.pods.iter().filter(|p| account::is_tracked(p));
    let fatal = uncounted.map(|p| judge(world.job, p)).find_map(|v| match v {
        Verdict::FailJob(why) => Some(why),
        Verdict::Count | Verdict::Ignore | Verdict::FailIndex => None,
    });
    if let Some(why) = fatal {
        return Some(condition("FailureTarget", "True", "PodFailurePolicy", &why, now));
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let on_failure =
        spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    if account.all_failed() > limit || (on_failure && restarted_too_often(world.pods, limit)) {
        let text = "Job has reached the specified backoff limit";
        return Some(condition("FailureTarget", "True", "BackoffLimitExceeded", text, now));
    }
    let started = world.job.status.as_ref().and_then(|s| s.start_time.as_ref());
    if spec.suspend != Some(true)
        && let (Some(started), Some(_)) = (started, spec.active_deadline_seconds)
        && deadline_in(spec, started.0, now).is_none()
    {
        let text = "Job was active longer than specified deadline";
        return Some(condition("FailureTarget", "True", "DeadlineExceeded", text, now));
    }
    if let Some(end) = failed_by_indexes(spec, account, now) {
        return Some(end);
    }
    if let Some(why) = account.completed.as_ref().and_then(|done| matched_rule(spec, done)) {
        return Some(condition("SuccessCriteriaMet", "True", "SuccessPolicy", &why, now));
    }
    let succeeded = account.all_succeeded();
    let complete = match spec.completions {
        Some(wanted) => succeeded >= wanted,
        // A work queue: one success says that the work is done, the others end by themselves.
        None => succeeded > 0 && active == 0,
    };
    complete.then(|| {
        let text = "Reached expected number of succeeded pods";
        condition("SuccessCriteriaMet", "True", "CompletionsReached", text, now)
    })
}

/// The end of a Job whose indexes fail one by one.
fn failed_by_indexes(spec: &JobSpec, account: &Account, now: Timestamp) -> Option<JobCondition> {
    let failed = account.failed_indexes();
    let most = spec.max_failed_indexes.and_then(|n| usize::try_from(n).ok());
    if most.is_some_and(|most| failed > most) {
        let text = "Job has exceeded the specified maximal number of failed indexes";
        return Some(condition("FailureTarget", "True", "MaxFailedIndexesExceeded", text, now));
    }
    let ended = failed + usize::try_from(account.all_succeeded()).unwrap_or(0);
    let all = usize::try_from(spec.completions.unwrap_or(0)).unwrap_or(0);
    (failed > 0 && ended >= all)
        .then(|| condition("FailureTarget", "True", "FailedIndexes", "Job has failed indexes", now))
}

/// With restartPolicy OnFailure the kubelet restarts in place: its restarts count as failures.
fn restarted_too_often(pods: &[&Pod], limit: i32) -> bool {
    let restarts: i32 = pods
        .iter()
        .filter(|p| matches!(pod::phase(p), "Running" | "Pending"))
        .flat_map(|p| {
            let s = p.status.as_ref();
            let init = s.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
            s.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten().chain(init)
        })
        .map(|c| c.restart_count)
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// What is left of `activeDeadlineSeconds`; `None` when there is none or it is over.
fn deadline_in(spec: &JobSpec, started: Timestamp, now: Timestamp) -> Option<Duration> {
    pod::left(started, SignedDuration::from_secs(spec.active_deadline_seconds?), now)
}

/// Creates what is missing, deletes what is too much.
fn plan_pods(world: &World<'_>, spec: &JobSpec, account: &Account, active: &[&Pod], plan: &mut Plan) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let succeeded = usize::try_from(account.all_succeeded()).unwrap_or(0);
    let want = match spec.completions {
        Some(n) => {
            let ended = succeeded + account.failed_indexes();
            parallelism.min(usize::try_from(n).unwrap_or(0).saturating_sub(ended))
        }
        None if succeeded > 0 => active.len().min(parallelism),
        None => parallelism,
    };
    if active.len() > want {
        let mut doomed = active.to_vec();
        pod::sort_for_deletion(&mut doomed);
        plan.delete = names(&doomed[..active.len() - want]);
        plan.why = Why::TooMany;
        return;
    }
    // With podReplacementPolicy Failed a terminating pod is not replaced before it has ended.
    let ending =
        if spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some() {
            world.pods.iter().filter(|p| pod::is_terminating(p) && !pod::is_terminal(p)).count()
        } else {
            0
        };
    let missing = (want - active.len()).saturating_sub(ending).min(BURST);
    if missing == 0 {
        return;
    }
    if account.failures.is_none()
        && let Some(wait) = backoff_left(world)
    {
        plan.why = Why::BackingOff;
        plan.look_again = Some(wait);
        return;
    }
    plan.why = Why::TooFew;
    let Some(done) = &account.completed else {
        plan.create = vec![None; missing];
        return;
    };
    let taken: BTreeSet<i32> = active.iter().filter_map(|p| account::index_of(p)).collect();
    let free = (0..spec.completions.unwrap_or(0)).filter(|i| !done.contains(i) && !taken.contains(i));
    let Some(failures) = &account.failures else {
        plan.create = free.take(missing).map(Some).collect();
        return;
    };
    for index in free.filter(|i| !failures.failed.contains(i)) {
        if plan.create.len() == missing {
            break;
        }
        match failures.wait(index, world.now) {
            Some(wait) => plan.look_again = earliest(plan.look_again, Some(wait)),
            None => {
                plan.create.push(Some(index));
                plan.failures.insert(index, failures.count(index));
            }
        }
    }
    if plan.create.is_empty() {
        plan.why = Why::BackingOff;
    }
}

/// How long to wait after the failures since the last success. Read from the pods themselves, so that it
/// outlives this process.
fn backoff_left(world: &World<'_>) -> Option<Duration> {
    let counts = |job: &Job, p: &Pod| account::has_failed(job, p) && judge(job, p) != Verdict::Ignore;
    let ended = |want: fn(&Job, &Pod) -> bool| {
        world.pods.iter().filter(move |p| want(world.job, p)).filter_map(|p| ended_at(p))
    };
    let last_success = ended(|_, p| pod::phase(p) == "Succeeded").max();
    let failures: Vec<Timestamp> = ended(counts).filter(|t| last_success.is_none_or(|s| *t > s)).collect();
    let last = failures.iter().max()?;
    let earlier = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX);
    pod::left(*last, wait_after(earlier), world.now)
}

/// The wait after a failure that so many came before.
pub(crate) fn wait_after(earlier: u32) -> SignedDuration {
    BACKOFF.checked_mul(1 << earlier.min(16)).map_or(MAX_BACKOFF, |w| w.min(MAX_BACKOFF))
}

/// When a pod ended: its last container's end, else when it was asked to go, else its last Ready transition.
pub(crate) fn ended_at(p: &Pod) -> Option<Timestamp> {
    let statuses = p.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let containers = statuses.into_iter().flatten().filter_map(|c| {
        let terminated = c.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|t| t.0)
    });
    containers
        .max()
        .or_else(|| p.metadata.deletion_timestamp.as_ref().map(|t| t.0))
        .or_else(|| pod::condition(p, "Ready")?.last_transition_time.as_ref().map(|t| t.0))
        .or_else(|| p.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

fn plan_ttl(world: &World<'_>, spec: &JobSpec, end: &JobCondition, plan: &mut Plan) {
    let (Some(ttl), None) = (spec.ttl_seconds_after_finished, &world.job.metadata.deletion_timestamp) else {
        return;
    };
    let Some(ended) = &end.last_transition_time else { return };
    match pod::left(ended.0, SignedDuration::from_secs(ttl.into()), world.now) {
        Some(wait) => plan.look_again = Some(wait),
        None => plan.delete_job = true,
    }
}

/// Whether two statuses say the same; missing numbers and lists are empty.
pub(crate) fn same_status(a: &JobStatus, b: &JobStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let uncounted = |s: &JobStatus| {
        let u = s.uncounted_terminated_pods.clone().unwrap_or_default();
        (u.succeeded.unwrap_or_default(), u.failed.unwrap_or_default())
    };
    n(a.active) == n(b.active)
        && n(a.ready) == n(b.ready)
        && n(a.succeeded) == n(b.succeeded)
        && n(a.failed) == n(b.failed)
        && n(a.terminating) == n(b.terminating)
        && a.start_time == b.start_time
        && a.completion_time == b.completion_time
        && a.completed_indexes.as_deref().unwrap_or("") == b.completed_indexes.as_deref().unwrap_or("")
        && a.failed_indexes == b.failed_indexes
        && uncounted(a) == uncounted(b)
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}

//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure in the words
//! that `kubectl rollout status` and `kubectl wait` look for.
use super::bounds::Bounds;
use super::plan::{available, existing, replicas};
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

pub(crate) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE_REASON: &str = "NewReplicaSetAvailable";
const TIMED_OUT_REASON: &str = "ProgressDeadlineExceeded";
const PAUSED_REASON: &str = "DeploymentPaused";

pub(crate) struct Inputs<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) bounds: Bounds,
    /// The ReplicaSets as they shall be.
    pub(crate) all: &'a [ReplicaSet],
    pub(crate) current: Option<usize>,
    /// The current one is only about to be created.
    pub(crate) created: bool,
    /// Whether the rollout itself was looked at, so that Progressing may be judged.
    pub(crate) rolling_out: bool,
    pub(crate) now: Timestamp,
}

/// The counts, with the conditions as they were.
pub(crate) fn count(deployment: &Deployment, all: &[ReplicaSet], current: Option<usize>) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let ready = |rs: &ReplicaSet| rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let available: i32 = all.iter().map(available).sum();
    let wanted: i32 = all.iter().map(replicas).sum();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(all.iter().map(existing).sum()),
        updated_replicas: Some(current.map_or(0, |i| existing(&all[i]))),
        ready_replicas: Some(all.iter().map(ready).sum()),
        available_replicas: Some(available),
        unavailable_replicas: Some((wanted - available).max(0)),
        collision_count: old.collision_count,
        conditions: old.conditions,
        terminating_replicas: old.terminating_replicas,
    }
}

/// Whether every wanted pod is of the present template and available, and no other is left.
pub(crate) fn is_complete(wanted: i32, s: &DeploymentStatus) -> bool {
    s.updated_replicas.unwrap_or(0) == wanted
        && s.replicas.unwrap_or(0) == wanted
        && s.available_replicas.unwrap_or(0) == wanted
}

/// `progressDeadlineSeconds`, if there is one. The largest number means none.
fn deadline(d: &Deployment) -> Option<SignedDuration> {
    let seconds = d.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(seconds.into()))
}

fn find<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Replaces a condition. The same status and reason change nothing; the same status keeps its transition time.
fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = find(conditions, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}

/// Replaces a condition even if it says the same, to note that there was progress.
fn refresh(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = find(conditions, &new.type_)
        && old.status == new.status
    {
        new.last_transition_time = old.last_transition_time.clone();
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}

/// The condition for a ReplicaSet that could not be created.
pub(crate) fn creation_failed(status: &mut DeploymentStatus, name: &str, error: &str, now: Timestamp) {
    let message = format!("Failed to create new replica set {name:?}: {error}");
    set(
        status.conditions.get_or_insert_default(),
        condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now),
    );
}

/// The status that fits the world as planned.
pub(crate) fn compute_status(inputs: &Inputs<'_>) -> DeploymentStatus {
    let Inputs { deployment, bounds, all, current, now, .. } = *inputs;
    let mut status = count(deployment, all, current);
    let mut conditions = status.conditions.take().unwrap_or_default();
    note_pause(deployment, &mut conditions, now);
    let (is, reason, text) = if status.available_replicas.unwrap_or(0) >= bounds.floor() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, condition(AVAILABLE, is, reason, text.into(), now));
    note_current(inputs, &mut conditions);
    if inputs.rolling_out {
        judge_progress(inputs, &status, &mut conditions);
        note_failures(all, &mut conditions);
    }
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    status
}

fn note_pause(d: &Deployment, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let progressing = find(conditions, PROGRESSING);
    let timed_out = progressing.is_some_and(|c| c.reason.as_deref() == Some(TIMED_OUT_REASON));
    if deadline(d).is_none() || timed_out || d.metadata.deletion_timestamp.is_some() {
        return;
    }
    let noted = progressing.is_some_and(|c| c.reason.as_deref() == Some(PAUSED_REASON));
    let paused = d.spec.as_ref().is_some_and(|s| s.paused == Some(true));
    if paused && !noted {
        set(conditions, condition(PROGRESSING, "Unknown", PAUSED_REASON, "Deployment is paused".into(), now));
    } else if !paused && noted {
        let text = "Deployment is resumed".into();
        set(conditions, condition(PROGRESSING, "Unknown", "DeploymentResumed", text, now));
    }
}

fn note_current(inputs: &Inputs<'_>, conditions: &mut Vec<DeploymentCondition>) {
    let Some(name) = current_name(inputs) else { return };
    if deadline(inputs.deployment).is_none() {
        return;
    }
    if inputs.created {
        let text = format!("Created new replica set {name:?}");
        set(conditions, condition(PROGRESSING, "True", "NewReplicaSetCreated", text, inputs.now));
    } else if find(conditions, PROGRESSING).is_none() {
        let text = format!("Found new replica set {name:?}");
        set(conditions, condition(PROGRESSING, "True", "FoundNewReplicaSet", text, inputs.now));
    }
}

fn current_name<'a>(inputs: &Inputs<'a>) -> Option<&'a str> {
    inputs.all.get(inputs.current?)?.metadata.name.as_deref()
}

/// The thing whose progress a message tells: the ReplicaSet, or the Deployment while there is none.
fn subject(inputs: &Inputs<'_>) -> String {
    match current_name(inputs) {
        Some(rs) => format!("ReplicaSet {rs:?}"),
        None => format!("Deployment {:?}", inputs.deployment.metadata.name.as_deref().unwrap_or("")),
    }
}

fn judge_progress(inputs: &Inputs<'_>, new: &DeploymentStatus, conditions: &mut Vec<DeploymentCondition>) {
    if deadline(inputs.deployment).is_none() {
        conditions.retain(|c| c.type_ != PROGRESSING);
        return;
    }
    let was_complete = new.replicas == new.updated_replicas
        && find(conditions, PROGRESSING).is_some_and(|c| c.reason.as_deref() == Some(COMPLETE_REASON));
    if was_complete {
        return;
    }
    let old = inputs.deployment.status.clone().unwrap_or_default();
    if is_complete(inputs.bounds.replicas, new) {
        let text = format!("{} has successfully progressed.", subject(inputs));
        set(conditions, condition(PROGRESSING, "True", COMPLETE_REASON, text, inputs.now));
    } else if has_progressed(&old, new) {
        let text = format!("{} is progressing.", subject(inputs));
        refresh(conditions, condition(PROGRESSING, "True", "ReplicaSetUpdated", text, inputs.now));
    } else if timed_out(inputs.deployment, conditions, inputs.now) {
        let text = format!("{} has timed out progressing.", subject(inputs));
        set(conditions, condition(PROGRESSING, "False", TIMED_OUT_REASON, text, inputs.now));
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(d: &Deployment, conditions: &[DeploymentCondition], now: Timestamp) -> bool {
    let (Some(deadline), Some(c)) = (deadline(d), find(conditions, PROGRESSING)) else { return false };
    match c.reason.as_deref() {
        Some(COMPLETE_REASON) => false,
        Some(TIMED_OUT_REASON) => true,
        _ => c.last_update_time.as_ref().is_some_and(|t| crate::pod::left(t.0, deadline, now).is_none()),
    }
}

/// Why some ReplicaSet cannot make pods, taken over from its own condition.
fn note_failures(all: &[ReplicaSet], conditions: &mut Vec<DeploymentCondition>) {
    let failure = all
        .iter()
        .flat_map(|rs| rs.status.iter().flat_map(|s| s.conditions.iter().flatten()))
        .find(|c| c.type_ == REPLICA_FAILURE);
    match failure {
        None => conditions.retain(|c| c.type_ != REPLICA_FAILURE),
        Some(c) => set(
            conditions,
            DeploymentCondition {
                type_: REPLICA_FAILURE.into(),
                status: c.status.clone(),
                reason: c.reason.clone(),
                message: c.message.clone(),
                last_transition_time: c.last_transition_time.clone(),
                last_update_time: c.last_transition_time.clone(),
            },
        ),
    }
}

/// When the progress deadline may pass, for a rollout that is under way.
pub(crate) fn deadline_in(
    d: &Deployment,
    bounds: Bounds,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    if d.spec.as_ref().is_some_and(|s| s.paused == Some(true)) || is_complete(bounds.replicas, status) {
        return None;
    }
    let c = find(status.conditions.as_deref()?, PROGRESSING)?;
    if matches!(c.reason.as_deref(), Some(COMPLETE_REASON | TIMED_OUT_REASON)) {
        return None;
    }
    // A second more than upstream's own rounding: times are kept in whole seconds.
    let left = crate::pod::left(c.last_update_time.as_ref()?.0, deadline(d)?, now).unwrap_or_default();
    Some(left + Duration::from_secs(1))
}

/// Whether two statuses say the same; missing numbers are zero.
pub(crate) fn same_status(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    a.observed_generation == b.observed_generation
        && n(a.replicas) == n(b.replicas)
        && n(a.updated_replicas) == n(b.updated_replicas)
        && n(a.ready_replicas) == n(b.ready_replicas)
        && n(a.available_replicas) == n(b.available_replicas)
        && n(a.unavailable_replicas) == n(b.unavailable_replicas)
        && a.collision_count == b.collision_count
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}

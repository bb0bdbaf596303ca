//! What deleting an object means: at once, after a grace period, or when its finalizers are gone. Pure.
use jiff::{SignedDuration, Timestamp};
use machinery::meta;
use machinery::resource::{Resource, SubresourceKind};
use machinery::status::Status;
use serde_json::{Value, json};

/// The finalizer that makes the garbage collector delete dependents first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that makes the garbage collector let dependents go.
pub(crate) const ORPHAN: &str = "orphan";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// DeleteOptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DeletePlan {
    /// Take it out of the store.
    Remove,
    /// Store this instead: the object with its deletion noted.
    Mark(Value),
    /// It is on its way already and nothing changes.
    Unchanged,
}

/// Decides what a DELETE does to `old`.
pub(crate) fn plan_delete(
    row: &Resource,
    old: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<DeletePlan, Status> {
    check_preconditions(row, old, options)?;
    let content = has_namespace_content(row, old);
    if content && meta::is_terminating(old) {
        return Err(Status::conflict(
            row,
            meta::name(old),
            "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.",
        ));
    }
    let mut new = old.clone();
    let finalizers = planned_finalizers(row, old, options.propagation);
    if finalizers.is_empty() {
        meta::remove(&mut new, "finalizers");
    } else {
        meta::set(&mut new, "finalizers", finalizers.clone());
    }
    let held = !finalizers.is_empty() || content;
    let grace = row.strategy.graceful_deletion(old, options.grace_period_seconds).map(|s| s.max(0));

    if meta::is_terminating(old) {
        return Ok(plan_again(old, new, grace, options.grace_period_seconds.is_some(), held));
    }
    let grace = grace.unwrap_or(0);
    if grace == 0 && !held {
        return Ok(DeletePlan::Remove);
    }
    mark(&mut new, grace, now);
    if content {
        new["status"]["phase"] = json!("Terminating");
    }
    Ok(DeletePlan::Mark(new))
}

/// A second DELETE of an object that is already going may only hurry it.
fn plan_again(old: &Value, mut new: Value, grace: Option<i64>, asked: bool, held: bool) -> DeletePlan {
    let left = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let wanted = match grace {
        Some(seconds) if asked || left == 0 => seconds.min(left),
        Some(_) => left,
        None => 0,
    };
    if wanted == 0 && !held {
        return DeletePlan::Remove;
    }
    if wanted < left {
        let deadline = meta::string(old, "deletionTimestamp").parse::<Timestamp>().ok();
        if let Some(earlier) =
            deadline.and_then(|d| d.checked_sub(SignedDuration::from_secs(left - wanted)).ok())
        {
            meta::set(&mut new, "deletionTimestamp", meta::time(earlier));
        }
        meta::set(&mut new, "deletionGracePeriodSeconds", wanted);
    }
    if new == *old { DeletePlan::Unchanged } else { DeletePlan::Mark(new) }
}

fn check_preconditions(row: &Resource, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let name = meta::name(old);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != meta::uid(old)) {
        return Err(Status::conflict(
            row,
            name,
            &format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                meta::uid(old)
            ),
        ));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != meta::resource_version(old)) {
        return Err(Status::conflict(
            row,
            name,
            &format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                meta::resource_version(old)
            ),
        ));
    }
    Ok(())
}

fn planned_finalizers(row: &Resource, old: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let old = meta::finalizers(old);
    let had = |f: &str| old.contains(&f);
    let (orphan, foreground) = match propagation {
        Some(Propagation::Background) => (false, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Orphan) => (true, false),
        // Nothing said: what an earlier DELETE or the object's author said, else the kind's own way.
        None if had(ORPHAN) => (true, false),
        None if had(FOREGROUND) => (false, true),
        None => (row.strategy.orphan_by_default(), false),
    };
    let mut new: Vec<String> =
        old.iter().filter(|f| **f != ORPHAN && **f != FOREGROUND).map(|f| (*f).to_owned()).collect();
    if orphan {
        new.push(ORPHAN.to_owned());
    }
    if foreground {
        new.push(FOREGROUND.to_owned());
    }
    new
}

fn mark(new: &mut Value, grace: i64, now: Timestamp) {
    let deadline = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    meta::set(new, "deletionTimestamp", meta::time(deadline));
    meta::set(new, "deletionGracePeriodSeconds", grace);
    if let Some(generation) = new.pointer("/metadata/generation").and_then(Value::as_i64) {
        meta::set(new, "generation", generation + 1);
    }
}

/// Whether the object is a namespace whose content the namespace controller has not removed yet.
fn has_namespace_content(row: &Resource, object: &Value) -> bool {
    row.subresources.iter().any(|s| s.kind == SubresourceKind::Finalize)
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
}

/// Whether an update leaves an object that is being deleted with nothing to wait for: then it goes.
pub(crate) fn is_finished(row: &Resource, object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    meta::is_terminating(object)
        && grace == 0
        && meta::finalizers(object).is_empty()
        && !has_namespace_content(row, object)
}

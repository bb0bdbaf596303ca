//! What becomes of one object, given what became of its owners. Pure.
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::kube::api::PropagationPolicy;

/// What became of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is there.
    Solid,
    /// It is not there: the server said so, or has another object of that name.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Leave it: somebody owns it, or nobody ever did, or it goes already.
    Keep(Why),
    /// Some owner keeps it: only these references go.
    Drop(Vec<String>),
    /// No owner is left.
    Delete {
        policy: PropagationPolicy,
        /// First let it stop blocking its owners: it waits for dependents that wait themselves, and a circle
        /// would wait for ever.
        unblock: bool,
    },
}

/// Why an object is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Owned,
    NeverOwned,
    Terminating,
}

/// What its dependents look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dependents {
    pub(crate) any: bool,
    /// One of them waits for its own dependents.
    pub(crate) any_waiting: bool,
}

/// Decides about the object with the live metadata `meta`; `owners` pairs its references with what became of
/// each owner.
pub(crate) fn plan_collect(
    meta: &ObjectMeta,
    owners: &[(&OwnerReference, Owner)],
    dependents: Dependents,
) -> Action {
    if meta.deletion_timestamp.is_some() {
        return Action::Keep(Why::Terminating);
    }
    if owners.is_empty() {
        return Action::Keep(Why::NeverOwned);
    }
    let has = |state: Owner| owners.iter().any(|(_, o)| *o == state);
    if has(Owner::Solid) {
        let gone: Vec<String> =
            owners.iter().filter(|(_, o)| *o != Owner::Solid).map(|(r, _)| r.uid.clone()).collect();
        return if gone.is_empty() { Action::Keep(Why::Owned) } else { Action::Drop(gone) };
    }
    if has(Owner::Waiting) && dependents.any {
        return Action::Delete { policy: PropagationPolicy::Foreground, unblock: dependents.any_waiting };
    }
    let holds = |f: &str| meta.finalizers.iter().flatten().any(|own| own == f);
    let policy = if holds(super::graph::ORPHAN) {
        PropagationPolicy::Orphan
    } else if holds(super::graph::FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    Action::Delete { policy, unblock: false }
}

/// The references of an object without those to `gone`.
pub(crate) fn without(references: &[OwnerReference], gone: &[String]) -> Vec<OwnerReference> {
    references.iter().filter(|r| !gone.contains(&r.uid)).cloned().collect()
}

/// The references of an object, none of which blocks its owner's deletion.
pub(crate) fn unblocked(references: &[OwnerReference]) -> Vec<OwnerReference> {
    let mut all = references.to_vec();
    for r in &mut all {
        if r.block_owner_deletion == Some(true) {
            r.block_owner_deletion = Some(false);
        }
    }
    all
}

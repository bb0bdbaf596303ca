//! Who controls what: ControllerRefs, and the decision to adopt or let go.
//!
//! Invariant: an object has at most one controller; nothing that another controller owns is ever touched.
use crate::selector;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};

/// The owner reference with `controller: true`.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

/// Whether `uid` controls the object.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|r| r.uid == uid)
}

/// The reference that a controller puts on what it makes.
pub(crate) fn controller_ref(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about one object that might be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours and matches.
    Owned,
    /// It matches and nobody controls it: make it ours, after reading the owner afresh.
    Adopt,
    /// It is ours and no longer matches: let it go.
    Release,
    /// Not ours.
    Ignore,
}

/// Decides about one candidate. `owner` is the controller object, `selector` its selector.
pub(crate) fn plan_claim(owner: &ObjectMeta, selector: &LabelSelector, candidate: &ObjectMeta) -> Claim {
    let matches = selector::matches(selector, candidate.labels.as_ref());
    match controller_of(candidate) {
        Some(r) if Some(&r.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Owned,
        // A terminating owner releases nothing: the garbage collector needs the references.
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.deletion_timestamp.is_some() || !matches => Claim::Ignore,
        None if candidate.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(uid: &str, app: &str, controller: Option<&str>, terminating: bool) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            labels: Some([("app".to_owned(), app.to_owned())].into()),
            owner_references: controller.map(|c| {
                vec![OwnerReference { uid: c.into(), controller: Some(true), ..OwnerReference::default() }]
            }),
            deletion_timestamp: terminating.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn claims_follow_selector_controller_and_deletion() {
        let selector = LabelSelector {
            match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
            match_expressions: None,
        };
        for (owner_terminating, app, controller, terminating, want) in [
            (false, "web", None, false, Claim::Adopt),
            (false, "web", Some("me"), false, Claim::Owned),
            (false, "web", Some("you"), false, Claim::Ignore),
            (false, "db", Some("me"), false, Claim::Release),
            (false, "db", None, false, Claim::Ignore),
            (false, "web", None, true, Claim::Ignore),
            (false, "web", Some("me"), true, Claim::Owned),
            (true, "web", None, false, Claim::Ignore),
            (true, "web", Some("me"), false, Claim::Owned),
            (true, "db", Some("me"), false, Claim::Ignore),
        ] {
            let owner = meta("me", "-", None, owner_terminating);
            let candidate = meta("pod", app, controller, terminating);
            assert_eq!(
                plan_claim(&owner, &selector, &candidate),
                want,
                "owner terminating {owner_terminating}, {app}, {controller:?}, terminating {terminating}"
            );
        }
    }
}

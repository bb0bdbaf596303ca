use super::plan::{Remains, compute_status, deletion_order, finalized, is_ours_to_empty};
use crate::discovery::Served;
use client::k8s_openapi::api::core::v1::{Namespace, NamespaceSpec};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use jiff::{SignedDuration, Timestamp};

fn terminating(finalizers: &[&str]) -> Namespace {
    Namespace {
        metadata: ObjectMeta {
            deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        },
        spec: Some(NamespaceSpec { finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()) }),
        status: None,
    }
}

#[test]
fn only_a_terminating_namespace_with_our_finalizer_is_emptied() {
    assert!(is_ours_to_empty(&terminating(&["kubernetes"])));
    assert!(!is_ours_to_empty(&terminating(&["someone/else"])));
    let mut live = terminating(&["kubernetes"]);
    live.metadata.deletion_timestamp = None;
    assert!(!is_ours_to_empty(&live));
    let left = finalized(&terminating(&["kubernetes", "someone/else"]));
    assert_eq!(left.spec.unwrap().finalizers.unwrap(), ["someone/else"]);
}

#[test]
fn the_status_names_what_is_left_and_by_what_it_is_held() {
    let remains = Remains {
        objects: [("pods.".to_owned(), 2)].into(),
        finalizers: [("a.example/b".to_owned(), 1)].into(),
        ..Remains::default()
    };
    assert!(!remains.is_clean());
    let t0 = Timestamp::UNIX_EPOCH;
    let mut ns = terminating(&["kubernetes"]);
    let s = compute_status(&ns, &remains, t0);
    assert_eq!(s.phase.as_deref(), Some("Terminating"));
    let text = |s: &client::k8s_openapi::api::core::v1::NamespaceStatus, kind: &str| {
        let c = s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap().clone();
        (c.status, c.message.unwrap())
    };
    assert_eq!(
        text(&s, "NamespaceContentRemaining"),
        ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
    );
    assert!(text(&s, "NamespaceFinalizersRemaining").1.ends_with("a.example/b in 1 resource instances"));
    ns.status = Some(s.clone());
    assert_eq!(compute_status(&ns, &remains, t0 + SignedDuration::from_secs(9)), s, "no news, no write");
    let clean = compute_status(&ns, &Remains::default(), t0);
    assert_eq!(
        text(&clean, "NamespaceContentRemaining"),
        ("False".into(), "All content successfully removed".into())
    );
}

#[test]
fn a_failed_discovery_keeps_the_namespace() {
    let remains = Remains { discovery_failed: Some("down".into()), ..Remains::default() };
    assert!(!remains.is_clean());
}

#[test]
fn pods_go_before_what_confines_and_configures_them() {
    let kind = |group: &str, plural: &str, verbs: &[&str]| Served {
        resource: client::kube::api::ApiResource {
            group: group.into(),
            version: "v1".into(),
            api_version: format!("{group}/v1"),
            kind: plural.into(),
            plural: plural.into(),
        },
        namespaced: true,
        verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
    };
    let all = ["list", "delete"];
    let kinds = [
        kind("", "configmaps", &all),
        kind("", "bindings", &["create"]),
        kind("", "pods", &all),
        kind("metrics.k8s.io", "pods", &["list"]),
        kind("networking.k8s.io", "networkpolicies", &all),
    ];
    let order: Vec<&str> = deletion_order(&kinds).iter().map(|s| s.resource.plural.as_str()).collect();
    assert_eq!(order, ["pods", "configmaps", "networkpolicies"]);
}

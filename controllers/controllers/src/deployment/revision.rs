//! Revisions: which ReplicaSet is the current one, what it is called, and the annotations `kubectl rollout
//! history` and `undo` read.
use super::bounds::Bounds;
use client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use client::k8s_openapi::api::core::v1::PodTemplateSpec;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// The longest revision history kept in an annotation, in bytes (upstream's limit).
const MAX_HISTORY_BYTES: usize = 2000;

/// Annotations of a Deployment that are its own and never copied to a ReplicaSet.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// A short name for a pod template, safe in a label and a name. `collisions` makes it another one.
/// Nothing depends on two versions of this program agreeing: the current ReplicaSet is found by comparing
/// templates, so that one adopted from elsewhere with another hash is kept.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hasher = Sha256::new();
    // A template came out of JSON; a failure to go back would only make the hash less distinct.
    hasher.update(serde_json::to_vec(template).unwrap_or_default());
    if let Some(n) = collisions {
        hasher.update(n.to_be_bytes());
    }
    let digest = hasher.finalize();
    digest.iter().take(10).map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char).collect()
}

/// Whether two templates are the same but for the hash label.
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    a.spec == b.spec && without_hash(a) == without_hash(b)
}

fn without_hash(t: &PodTemplateSpec) -> ObjectMeta {
    let mut meta = t.metadata.clone().unwrap_or_default();
    meta.creation_timestamp = None;
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.filter(|l| !l.is_empty());
    meta.annotations = meta.annotations.filter(|a| !a.is_empty());
    meta
}

/// The index of the ReplicaSet with the Deployment's template: the oldest, should there be several, so that
/// everyone picks the same.
pub(crate) fn find_current(deployment: &Deployment, all: &[ReplicaSet]) -> Option<usize> {
    let template = &deployment.spec.as_ref()?.template;
    (0..all.len())
        .filter(|i| {
            let own = all[*i].spec.as_ref().and_then(|s| s.template.as_ref());
            own.is_some_and(|t| same_template(t, template))
        })
        .min_by(|a, b| age_key(&all[*a]).cmp(&age_key(&all[*b])))
}

/// Oldest first, then by name.
pub(crate) fn age_key(rs: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    (rs.metadata.creation_timestamp.as_ref().map(|t| t.0), rs.metadata.name.as_deref().unwrap_or(""))
}

/// The revision annotation; 0 if missing or unreadable.
pub(crate) fn revision_of(rs: &ReplicaSet) -> i64 {
    annotation(rs, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

pub(crate) fn annotation<'a>(rs: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    rs.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Brings the annotations of the current ReplicaSet up to date: the Deployment's own, the revision, and the
/// revisions it was before.
pub(crate) fn annotate_current(deployment: &Deployment, rs: &mut ReplicaSet, revision: i64) {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    for (k, v) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&k.as_str()) {
            annotations.insert(k.clone(), v.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number: i64 = old.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    if old_number >= revision {
        return;
    }
    annotations.insert(REVISION.into(), revision.to_string());
    if let Some(old) = old.filter(|o| !o.is_empty()) {
        let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
        let mut all: Vec<&str> = history.split(',').filter(|s| !s.is_empty()).collect();
        all.push(&old);
        while all.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_HISTORY_BYTES {
            all.remove(0);
        }
        annotations.insert(REVISION_HISTORY.into(), all.join(","));
    }
}

/// Notes on the ReplicaSet what the Deployment wanted when it was sized: proportional scaling reads it.
pub(crate) fn annotate_size(rs: &mut ReplicaSet, bounds: Bounds) {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED_REPLICAS.into(), bounds.replicas.to_string());
    annotations.insert(MAX_REPLICAS.into(), bounds.ceiling().to_string());
}

/// The ReplicaSet for the Deployment's present template, with `replicas` pods.
pub(crate) fn new_replica_set(
    deployment: &Deployment,
    bounds: Bounds,
    revision: i64,
    replicas: i32,
) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let name = deployment.metadata.name.as_deref()?;
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let labels: BTreeMap<String, String> = meta.labels.clone().unwrap_or_default();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut rs = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![crate::owner::controller_ref(
                "apps/v1",
                "Deployment",
                &deployment.metadata,
            )]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate_current(deployment, &mut rs, revision);
    annotate_size(&mut rs, bounds);
    Some(rs)
}

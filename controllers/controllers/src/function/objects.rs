//! What a Function and its Revisions are made of, and whether it is there as wanted. Pure.
use super::names::{FUNCTION, REVISION, revision_name};
use crate::owner;
use client::dhow::v1alpha1::{API_VERSION, Function, Revision, RevisionSpec};
use client::k8s_openapi::Metadata;
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use client::k8s_openapi::api::core::v1::{
    Container, ContainerPort, PodSpec, PodTemplateSpec, Probe, Service, ServicePort, ServiceSpec,
    TCPSocketAction,
};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use machinery::interface::IMPORTS_ANNOTATION;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What this controller last wrote, shortened: tells a changed wish from the server's defaults.
const WRITTEN: &str = "dhow.dev/written";
/// On a Revision: the part of the Function it was made of, shortened, as this controller saw it. Read back, the same
/// part may look different: the server has filled in its defaults.
const MADE_OF: &str = "dhow.dev/made-of";
/// On pods: what the node keeps to.
const EGRESS: &str = "dhow.dev/egress";
const TIMEOUT: &str = "dhow.dev/timeout";
const CONCURRENCY: &str = "dhow.dev/concurrency";
const CONFIG: &str = "config.dhow.dev/function";
const KEYVALUE: &str = "keyvalue.dhow.dev/function";
/// Its name stands in the two annotations above.
const CONTAINER: &str = "function";
/// The port of a function's Services.
pub(crate) const PORT_NAME: &str = "http";

/// What is to be done about one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Step<K> {
    #[default]
    Nothing,
    Create(K),
    Update(K),
    /// Somebody else's object has the name.
    Taken,
}

/// The revision with this number, of the function as it is now.
pub(super) fn wanted_revision(f: &Function, number: u64) -> Revision {
    let function = f.metadata.name.as_deref().unwrap_or("");
    let spec = f.spec.revision_spec();
    Revision {
        metadata: ObjectMeta {
            name: Some(revision_name(function, number)),
            namespace: f.metadata.namespace.clone(),
            labels: Some([(FUNCTION.to_owned(), function.to_owned())].into()),
            annotations: Some([(MADE_OF.to_owned(), digest(&spec))].into()),
            owner_references: Some(vec![owner::controller_ref(API_VERSION, "Function", &f.metadata)]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Whether the revision runs what the function wants.
pub(super) fn runs(revision: &Revision, wanted: &RevisionSpec) -> bool {
    let made_of = revision.metadata.annotations.as_ref().and_then(|a| a.get(MADE_OF));
    revision.spec == *wanted || made_of == Some(&digest(wanted))
}

/// Labels of everything made for a revision.
fn labels(r: &Revision) -> BTreeMap<String, String> {
    let mut labels = r.metadata.labels.clone().unwrap_or_default();
    labels.retain(|k, _| k == FUNCTION);
    labels.insert(REVISION.to_owned(), r.metadata.name.clone().unwrap_or_default());
    labels
}

fn metadata(r: &Revision) -> ObjectMeta {
    ObjectMeta {
        name: r.metadata.name.clone(),
        namespace: r.metadata.namespace.clone(),
        labels: Some(labels(r)),
        owner_references: Some(vec![owner::controller_ref(API_VERSION, "Revision", &r.metadata)]),
        ..ObjectMeta::default()
    }
}

fn probe(port: i32, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(port), host: None }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// What the node is told about the pods.
fn annotations(spec: &RevisionSpec) -> Option<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (key, list) in [
        (EGRESS, &spec.egress),
        (CONFIG, &spec.config),
        (KEYVALUE, &spec.keyvalue),
        (IMPORTS_ANNOTATION, &spec.imports),
    ] {
        if !list.is_empty() {
            all.insert(key.to_owned(), list.join(","));
        }
    }
    if let Some(seconds) = spec.timeout_seconds {
        all.insert(TIMEOUT.to_owned(), format!("{seconds}s"));
    }
    if let Some(requests) = spec.concurrency {
        all.insert(CONCURRENCY.to_owned(), requests.to_string());
    }
    (!all.is_empty()).then_some(all)
}

/// The Deployment that runs a revision.
pub(super) fn wanted_deployment(r: &Revision, replicas: i32) -> Deployment {
    let spec = &r.spec;
    let port = spec.port_or_default();
    let container = Container {
        name: CONTAINER.into(),
        image: Some(spec.image.clone()),
        args: some(&spec.args),
        env: some(&spec.env),
        env_from: some(&spec.env_from),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.into()),
            container_port: port,
            ..ContainerPort::default()
        }]),
        // Looked at every second until it first answers (two minutes at most), then seldom: ten thousand idle
        // functions are a thousand connections a second, not ten thousand.
        startup_probe: Some(probe(port, 1, 120)),
        readiness_probe: Some(probe(port, 10, 3)),
        resources: spec.resources.clone(),
        volume_mounts: some(&spec.volume_mounts),
        ..Container::default()
    };
    Deployment {
        metadata: metadata(r),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: Some(labels(r)), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(r)),
                    annotations: annotations(spec),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    containers: vec![container],
                    volumes: some(&spec.volumes),
                    image_pull_secrets: some(&spec.image_pull_secrets),
                    ..PodSpec::default()
                }),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The port is the program's own: one under 1024 could not be bound without root.
fn ports(r: &Revision) -> Option<Vec<ServicePort>> {
    let port = r.spec.port_or_default();
    Some(vec![ServicePort {
        name: Some(PORT_NAME.into()),
        port,
        target_port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }])
}

/// The Service of one revision. It has no address of its own: the gateway goes to the pods, and ten old revisions
/// of every function would use the addresses up.
pub(super) fn wanted_revision_service(r: &Revision) -> Service {
    Service {
        metadata: metadata(r),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(labels(r)),
            ports: ports(r),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service of the function's name, which leads to one revision: a Service has no shares.
pub(super) fn wanted_service(f: &Function, r: &Revision) -> Service {
    Service {
        metadata: ObjectMeta {
            name: f.metadata.name.clone(),
            namespace: f.metadata.namespace.clone(),
            labels: Some([(FUNCTION.to_owned(), f.metadata.name.clone().unwrap_or_default())].into()),
            owner_references: Some(vec![owner::controller_ref(API_VERSION, "Function", &f.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec { selector: Some(labels(r)), ports: ports(r), ..ServiceSpec::default() }),
        status: None,
    }
}

/// The revision a function's Service leads to.
pub(super) fn pinned_to(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.selector.as_ref()?.get(REVISION).map(String::as_str)
}

/// What is to be done to have `wanted`, owned by `uid`.
pub(super) fn step_of_deployment(
    old: Option<&Deployment>,
    wanted: Deployment,
    uid: &str,
) -> Step<Deployment> {
    let wanted = mark(wanted);
    match old {
        None => Step::Create(wanted),
        Some(old) if !owner::is_controlled_by(&old.metadata, uid) => Step::Taken,
        Some(old) if is_as_wanted(old, &wanted) => Step::Nothing,
        Some(old) => Step::Update(Deployment {
            metadata: merged(&old.metadata, &wanted.metadata),
            spec: wanted.spec,
            status: old.status.clone(),
        }),
    }
}

/// As [`step_of_deployment`].
pub(super) fn step_of_service(old: Option<&Service>, wanted: Service, uid: &str) -> Step<Service> {
    let wanted = mark(wanted);
    match old {
        None => Step::Create(wanted),
        Some(old) if !owner::is_controlled_by(&old.metadata, uid) => Step::Taken,
        Some(old) if is_as_wanted(old, &wanted) => Step::Nothing,
        Some(old) => Step::Update(Service {
            metadata: merged(&old.metadata, &wanted.metadata),
            spec: Some(keep_allocated(old.spec.clone().unwrap_or_default(), wanted.spec.unwrap_or_default())),
            status: old.status.clone(),
        }),
    }
}

/// What the server gave to a Service stays.
fn keep_allocated(old: ServiceSpec, wanted: ServiceSpec) -> ServiceSpec {
    ServiceSpec { selector: wanted.selector, ports: wanted.ports, ..old }
}

/// Notes on an object what it is written as.
fn mark<K: Serialize + Metadata<Ty = ObjectMeta>>(mut object: K) -> K {
    let digest = digest(&object);
    object.metadata_mut().annotations.get_or_insert_default().insert(WRITTEN.to_owned(), digest);
    object
}

fn digest<T: Serialize>(value: &T) -> String {
    // Objects of these kinds always become JSON; without it the mark would only be coarser.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(text)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether an object still says all that is wanted, and was written for the same wish: the first finds what
/// somebody changed, the second what the wish no longer has.
fn is_as_wanted<K: Serialize + Metadata<Ty = ObjectMeta>>(old: &K, wanted: &K) -> bool {
    let mark = |k: &K| k.metadata().annotations.as_ref().and_then(|a| a.get(WRITTEN)).cloned();
    let spec = |k: &K| serde_json::to_value(k).ok().and_then(|mut v| v.get_mut("spec").map(Value::take));
    mark(old) == mark(wanted)
        && match (spec(old), spec(wanted)) {
            (Some(old), Some(wanted)) => contains(&old, &wanted),
            _ => false,
        }
}

/// Whether all of `part` is in `whole`; lists must be equally long.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(w), Value::Object(p)) => {
            p.iter().all(|(k, v)| w.get(k).is_some_and(|own| contains(own, v)))
        }
        (Value::Array(w), Value::Array(p)) => {
            w.len() == p.len() && w.iter().zip(p).all(|(w, p)| contains(w, p))
        }
        // `{}` in a request may be left out of the answer.
        (w, p) => w == p,
    }
}

fn merged(old: &ObjectMeta, wanted: &ObjectMeta) -> ObjectMeta {
    let mut meta = old.clone();
    meta.labels.get_or_insert_default().extend(wanted.labels.clone().unwrap_or_default());
    meta.annotations.get_or_insert_default().extend(wanted.annotations.clone().unwrap_or_default());
    meta
}

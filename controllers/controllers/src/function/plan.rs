//! What a Function is made of, and what is said of it. Pure.
use crate::owner;
use client::dhow::v1alpha1::{Function, FunctionStatus};
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use client::k8s_openapi::api::core::v1::{
    Container, ContainerPort, PodSpec, PodTemplateSpec, Probe, Service, ServicePort, ServiceSpec,
    TCPSocketAction,
};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta, Time};
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// On everything made for a Function, and on its pods: its name.
pub(crate) const FUNCTION: &str = "dhow.dev/function";
/// What this controller last wrote, shortened: tells a changed wish from the server's defaults.
const WRITTEN: &str = "dhow.dev/written";
const CONTAINER: &str = "function";
const API_VERSION: &str = "dhow.dev/v1alpha1";

/// What the planner sees.
pub(crate) struct World<'a> {
    pub(crate) function: &'a Function,
    pub(crate) deployment: Option<&'a Deployment>,
    pub(crate) service: Option<&'a Service>,
    pub(crate) gateway_port: u16,
    pub(crate) now: Timestamp,
}

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step<K> {
    Nothing,
    Create(K),
    Update(K),
    /// Somebody else's object has the name.
    Taken,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) deployment: Step<Deployment>,
    pub(crate) service: Step<Service>,
    /// `None` if what is written says the same.
    pub(crate) status: Option<FunctionStatus>,
}

/// Decides about a Function.
pub(crate) fn plan_function(world: &World<'_>) -> Plan {
    let f = world.function;
    if f.metadata.deletion_timestamp.is_some() {
        return Plan { deployment: Step::Nothing, service: Step::Nothing, status: None };
    }
    let uid = f.metadata.uid.as_deref().unwrap_or("");
    let wanted = mark(wanted_deployment(f));
    let deployment = match world.deployment {
        None => Step::Create(wanted),
        Some(old) if !owner::is_controlled_by(&old.metadata, uid) => Step::Taken,
        Some(old) if is_as_wanted(old, &wanted, &old.metadata, &wanted.metadata) => Step::Nothing,
        Some(old) => Step::Update(Deployment {
            metadata: merged(&old.metadata, &wanted.metadata),
            spec: wanted.spec,
            status: old.status.clone(),
        }),
    };
    let wanted = mark(wanted_service(f));
    let service = match world.service {
        None => Step::Create(wanted),
        Some(old) if !owner::is_controlled_by(&old.metadata, uid) => Step::Taken,
        Some(old) if is_as_wanted(old, &wanted, &old.metadata, &wanted.metadata) => Step::Nothing,
        Some(old) => Step::Update(Service {
            metadata: merged(&old.metadata, &wanted.metadata),
            spec: Some(keep_allocated(old.spec.clone().unwrap_or_default(), wanted.spec.unwrap_or_default())),
            status: old.status.clone(),
        }),
    };
    let status = compute_status(world, &deployment, &service);
    let status = (f.status.as_ref() != Some(&status)).then_some(status);
    Plan { deployment, service, status }
}

fn labels(f: &Function) -> BTreeMap<String, String> {
    [(FUNCTION.to_owned(), f.metadata.name.clone().unwrap_or_default())].into()
}

fn metadata(f: &Function) -> ObjectMeta {
    ObjectMeta {
        name: f.metadata.name.clone(),
        namespace: f.metadata.namespace.clone(),
        labels: Some(labels(f)),
        owner_references: Some(vec![owner::controller_ref(API_VERSION, "Function", &f.metadata)]),
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

fn wanted_deployment(f: &Function) -> Deployment {
    let port = f.spec.port_or_default();
    let container = Container {
        name: CONTAINER.into(),
        image: Some(f.spec.image.clone()),
        args: (!f.spec.args.is_empty()).then(|| f.spec.args.clone()),
        env: (!f.spec.env.is_empty()).then(|| f.spec.env.clone()),
        ports: Some(vec![ContainerPort {
            name: Some("http".into()),
            container_port: port,
            ..ContainerPort::default()
        }]),
        // Looked at every second until it first answers (two minutes at most), then seldom: ten thousand idle
        // functions are a thousand connections a second, not ten thousand.
        startup_probe: Some(probe(port, 1, 120)),
        readiness_probe: Some(probe(port, 10, 3)),
        resources: f.spec.resources.clone(),
        ..Container::default()
    };
    Deployment {
        metadata: metadata(f),
        spec: Some(DeploymentSpec {
            replicas: Some(f.spec.replicas_or_default()),
            selector: LabelSelector { match_labels: Some(labels(f)), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels(f)), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    containers: vec![container],
                    image_pull_secrets: (!f.spec.image_pull_secrets.is_empty())
                        .then(|| f.spec.image_pull_secrets.clone()),
                    ..PodSpec::default()
                }),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The Service has the Function's own port: one under 1024 could not be bound without root.
fn wanted_service(f: &Function) -> Service {
    let port = f.spec.port_or_default();
    Service {
        metadata: metadata(f),
        spec: Some(ServiceSpec {
            selector: Some(labels(f)),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port,
                target_port: Some(IntOrString::Int(port)),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// What the server gave to a Service stays.
fn keep_allocated(old: ServiceSpec, wanted: ServiceSpec) -> ServiceSpec {
    ServiceSpec { selector: wanted.selector, ports: wanted.ports, ..old }
}

/// Notes on an object what it is written as.
fn mark<K: serde::Serialize + client::k8s_openapi::Metadata<Ty = ObjectMeta>>(mut object: K) -> K {
    // Objects of these kinds always become JSON; without it the mark would only be coarser.
    let text = serde_json::to_vec(&object).unwrap_or_default();
    let digest = hex(&Sha256::digest(text)[..8]);
    object.metadata_mut().annotations.get_or_insert_default().insert(WRITTEN.to_owned(), digest);
    object
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether an object still says all that is wanted, and was written for the same wish: the first finds what
/// somebody changed, the second what the wish no longer has.
fn is_as_wanted<K: serde::Serialize>(
    old: &K,
    wanted: &K,
    old_meta: &ObjectMeta,
    wanted_meta: &ObjectMeta,
) -> bool {
    let mark = |m: &ObjectMeta| m.annotations.as_ref().and_then(|a| a.get(WRITTEN)).cloned();
    let spec = |k: &K| serde_json::to_value(k).ok().and_then(|mut v| v.get_mut("spec").map(Value::take));
    mark(old_meta) == mark(wanted_meta)
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

/// Where the gateway serves a Function.
pub(crate) fn url(f: &Function, gateway_port: u16) -> String {
    let name = f.metadata.name.as_deref().unwrap_or("");
    let namespace = f.metadata.namespace.as_deref().unwrap_or("");
    let host =
        if matches!(namespace, "" | "default") { name.to_owned() } else { format!("{name}.{namespace}") };
    if gateway_port == 80 {
        format!("http://{host}.localhost")
    } else {
        format!("http://{host}.localhost:{gateway_port}")
    }
}

fn compute_status(
    world: &World<'_>,
    deployment: &Step<Deployment>,
    service: &Step<Service>,
) -> FunctionStatus {
    let f = world.function;
    let wanted = f.spec.replicas_or_default();
    let d = world.deployment.filter(|_| *deployment != Step::Taken).and_then(|d| d.status.as_ref());
    let n = |v: Option<i32>| v.unwrap_or(0);
    let ready = n(d.and_then(|s| s.ready_replicas));
    let current = *deployment == Step::Nothing
        && world.deployment.is_some_and(|own| {
            own.status.as_ref().and_then(|s| s.observed_generation) >= own.metadata.generation
        });
    let rolled_out = current
        && d.is_some_and(|s| {
            n(s.updated_replicas) == wanted && n(s.available_replicas) == wanted && n(s.replicas) == wanted
        });
    let name = f.metadata.name.as_deref().unwrap_or("");
    let (is, reason, message) = if *deployment == Step::Taken || *service == Step::Taken {
        let kind = if *deployment == Step::Taken { "Deployment" } else { "Service" };
        (
            "False",
            "NameTaken",
            format!(
                "a {kind} called {name:?} exists and is not this function's: delete or rename one of them"
            ),
        )
    } else if wanted == 0 {
        ("False", "ScaledToZero", "the function has no replicas".to_owned())
    } else if rolled_out {
        ("True", "Deployed", format!("{ready} of {wanted} replicas are ready"))
    } else if let Some(text) = d.and_then(stuck) {
        ("False", "DeploymentFailed", text)
    } else {
        ("False", "Deploying", format!("{ready} of {wanted} replicas are ready"))
    };
    let old = f.status.clone().unwrap_or_default();
    let known = old.conditions.iter().find(|c| c.type_ == "Ready");
    let since = known.filter(|c| c.status == is).map(|c| c.last_transition_time.clone());
    FunctionStatus {
        observed_generation: f.metadata.generation,
        replicas: n(d.and_then(|s| s.replicas)),
        ready_replicas: ready,
        url: Some(url(f, world.gateway_port)),
        conditions: vec![Condition {
            type_: "Ready".into(),
            status: is.into(),
            reason: reason.into(),
            message,
            observed_generation: f.metadata.generation,
            last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(world.now))),
        }],
        ..FunctionStatus::default()
    }
}

/// As the server keeps times: what was written must be equal to what is read.
fn whole_seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

/// Why the Deployment does not get on, if it says so.
fn stuck(s: &client::k8s_openapi::api::apps::v1::DeploymentStatus) -> Option<String> {
    let all = s.conditions.as_deref().unwrap_or_default();
    let failed = |c: &&client::k8s_openapi::api::apps::v1::DeploymentCondition| {
        (c.type_ == "ReplicaFailure" && c.status == "True")
            || (c.type_ == "Progressing" && c.status == "False")
    };
    all.iter().find(failed).and_then(|c| c.message.clone())
}

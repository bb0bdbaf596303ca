//! What is said of a Function and of its Revisions. Pure.
use super::names::FUNCTION;
use super::plan::{Pods, World};
use super::traffic::Decision;
use super::trouble::Trouble;
use client::dhow::v1alpha1::{Function, FunctionStatus, Revision, RevisionStatus, TriggerStatus};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use jiff::Timestamp;
use std::time::Duration;

const READY: &str = "Ready";
const ACTIVE: &str = "Active";
/// Of a function with queue triggers.
const TRIGGERS_READY: &str = "TriggersReady";

/// How a revision stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stand {
    pub(super) name: String,
    /// How many pods it is to have.
    pub(super) replicas: i32,
    pub(super) pods: Pods,
    /// Somebody else's object has its name.
    pub(super) taken: bool,
    /// Why its pods do not run.
    pub(super) trouble: Option<Trouble>,
}

/// A condition's status, reason and message.
type Said = (&'static str, &'static str, String);

fn condition(
    old: &[Condition],
    kind: &str,
    said: Said,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let (status, reason, message) = said;
    let since = old.iter().find(|c| c.type_ == kind && c.status == status);
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: since
            .map_or_else(|| Time(whole_seconds(now)), |c| c.last_transition_time.clone()),
    }
}

/// As the server keeps times: what was written must be equal to what is read.
fn whole_seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

fn find<'a>(r: &'a Revision, kind: &str) -> Option<&'a Condition> {
    r.status.as_ref()?.conditions.iter().find(|c| c.type_ == kind)
}

/// Since when the revision has had traffic.
pub(super) fn active_since(r: &Revision) -> Option<Timestamp> {
    find(r, ACTIVE).filter(|c| c.status == "True").map(|c| c.last_transition_time.0)
}

/// When the last request that was sent to the revision has ended: `drain` after it lost its traffic. `None` if it
/// has traffic or never had.
pub(super) fn drained_at(r: &Revision, active: bool, drain: Duration, now: Timestamp) -> Option<Timestamp> {
    let known = find(r, ACTIVE).filter(|_| !active)?;
    // It is losing it at this moment: the condition is written after this.
    let since = if known.status == "True" { now } else { known.last_transition_time.0 };
    since.checked_add(drain).ok()
}

/// What is said of a revision. `active`: it has traffic.
pub(super) fn compute_revision_status(
    r: &Revision,
    stand: &Stand,
    active: bool,
    now: Timestamp,
) -> RevisionStatus {
    let old = r.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = if stand.taken {
        ("False", "NameTaken", taken(&stand.name))
    } else if stand.replicas == 0 {
        ("False", "Idle", "it has no traffic and no pods".to_owned())
    } else if stand.pods.available >= stand.replicas {
        ("True", "Deployed", progress(stand))
    } else if let Some(trouble) = &stand.trouble {
        ("False", if trouble.lasting { "Failed" } else { "Deploying" }, trouble.text.clone())
    } else {
        ("False", "Deploying", progress(stand))
    };
    let mut conditions = vec![condition(old, READY, ready, None, now)];
    if active {
        let said = ("True", "Serving", "requests are sent to it".to_owned());
        conditions.push(condition(old, ACTIVE, said, None, now));
    } else if find(r, ACTIVE).is_some() {
        // Only what had traffic has lost it: from then on the drain time is counted.
        let said = ("False", "NoTraffic", "no requests are sent to it".to_owned());
        conditions.push(condition(old, ACTIVE, said, None, now));
    }
    RevisionStatus {
        replicas: stand.pods.replicas,
        ready_replicas: stand.pods.ready.min(stand.pods.replicas),
        conditions,
    }
}

fn progress(stand: &Stand) -> String {
    format!("{} of {} replicas are ready", stand.pods.ready.min(stand.replicas), stand.replicas)
}

fn taken(name: &str) -> String {
    format!("a Deployment or Service called {name:?} exists and is not this revision's: delete or rename it")
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

/// What is said of a function. `service_taken`: somebody else's Service has its name.
pub(super) fn compute_status(
    world: &World<'_>,
    decision: &Decision,
    latest_ready: Option<String>,
    stand: &[Stand],
    service_taken: bool,
) -> FunctionStatus {
    let f = world.function;
    let old = f.status.clone().unwrap_or_default();
    let newest = stand.last();
    let primary = decision.primary().and_then(|name| stand.iter().find(|s| s.name == name)).or(newest);
    let said = if service_taken {
        let name = f.metadata.name.as_deref().unwrap_or("");
        let text = format!(
            "a Service called {name:?} exists and is not this function's: delete or rename one of them"
        );
        ("False", "NameTaken", text)
    } else {
        ready(world, decision, latest_ready.as_deref(), stand)
    };
    let mut triggers = old.triggers;
    triggers.retain(|t| f.spec.triggers.iter().any(|wanted| wanted.name == t.name));
    let name = f.metadata.name.clone().unwrap_or_default();
    let generation = f.metadata.generation;
    let mut conditions = vec![condition(&old.conditions, READY, said, generation, world.now)];
    if let Some(said) = triggers_ready(f, &triggers) {
        conditions.push(condition(&old.conditions, TRIGGERS_READY, said, generation, world.now));
    }
    FunctionStatus {
        observed_generation: f.metadata.generation,
        replicas: primary.map_or(0, |s| s.pods.replicas),
        ready_replicas: primary.map_or(0, |s| s.pods.ready.min(s.pods.replicas)),
        selector: Some(format!("{FUNCTION}={name}")),
        url: Some(url(f, world.gateway_port)),
        latest_created_revision: newest.map(|s| s.name.clone()),
        latest_ready_revision: latest_ready,
        traffic: decision.traffic.clone(),
        triggers,
        conditions,
    }
}

/// Whether the function's queues are read; `None` if it has none. One that has said nothing yet is one that is not.
fn triggers_ready(f: &Function, status: &[TriggerStatus]) -> Option<Said> {
    let queues: Vec<&str> =
        f.spec.triggers.iter().filter(|t| t.queue.is_some()).map(|t| t.name.as_str()).collect();
    let state = |name: &&str| {
        let own = status.iter().find(|t| t.name == **name)?;
        own.conditions.iter().find(|c| c.type_ == READY).map(|c| (c.status == "True", c.message.as_str()))
    };
    let idle = queues.iter().find(|name| state(name).is_none_or(|(is_ready, _)| !is_ready));
    match idle {
        _ if queues.is_empty() => None,
        None => Some(("True", "Consuming", "the messages of all queues are delivered".to_owned())),
        Some(name) => {
            let why = state(name).map_or("it has not begun", |(_, why)| why);
            Some(("False", "QueueNotRead", format!("trigger {name}: {why}")))
        }
    }
}

/// Who serves, for the end of a sentence.
fn serving(decision: &Decision) -> String {
    let mut names: Vec<&str> = decision.traffic.iter().map(|t| t.revision.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        "nothing is served yet".to_owned()
    } else {
        format!("{} serves", names.join(" and "))
    }
}

fn reason(trouble: &Trouble) -> &'static str {
    if trouble.lasting { "RevisionFailed" } else { "Deploying" }
}

fn ready(world: &World<'_>, decision: &Decision, latest_ready: Option<&str>, stand: &[Stand]) -> Said {
    let wanted = world.function.spec.replicas_or_default();
    if wanted == 0 {
        return ("False", "ScaledToZero", "the function has no replicas".to_owned());
    }
    if let [first, ..] = &decision.missing[..] {
        let text = format!("spec.traffic names {first}, which does not exist; {}", serving(decision));
        return ("False", "RevisionMissing", text);
    }
    let find = |name: &str| stand.iter().find(|s| s.name == name);
    // Revisions that shall have traffic and cannot; the newest is one of them while it has never been ready.
    let mut late: Vec<&Stand> = decision.waiting_for.iter().filter_map(|name| find(name)).collect();
    let newest = stand.last().filter(|s| decision.follows_latest && latest_ready != Some(s.name.as_str()));
    late.extend(newest.filter(|s| !decision.waiting_for.contains(&s.name)));
    if let Some(s) = late.iter().find(|s| s.taken) {
        return ("False", "NameTaken", taken(&s.name));
    }
    if let Some((s, trouble)) = late.iter().find_map(|s| Some((s, s.trouble.as_ref()?))) {
        let text = format!("{} does not get ready: {}; {}", s.name, trouble.text, serving(decision));
        return ("False", reason(trouble), text);
    }
    if let Some(s) = late.first() {
        return ("False", "Deploying", format!("{}: {}; {}", s.name, progress(s), serving(decision)));
    }
    let served: Vec<&Stand> = decision.traffic.iter().filter_map(|t| find(&t.revision)).collect();
    match served.iter().find(|s| !s.pods.complete) {
        Some(s) => match &s.trouble {
            Some(trouble) => ("False", reason(trouble), format!("{}: {}", s.name, trouble.text)),
            None => ("False", "Deploying", format!("{}: {}", s.name, progress(s))),
        },
        None if served.is_empty() => ("False", "Deploying", serving(decision)),
        None => ("True", "Deployed", format!("{wanted} of {wanted} replicas are ready")),
    }
}

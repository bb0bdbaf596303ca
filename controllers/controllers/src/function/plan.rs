//! What is to be done about a Function that has a revision of its present form. Pure.
//!
//! ```text
//!   revisions, their Deployments and endpoints ─► traffic ─► who needs pods ─► Deployments, Services
//!                                                    └─────► status, conditions, who may be forgotten
//! ```
//! A revision that lost its traffic keeps its pods for a drain time, counted from its condition `Active`, which is
//! written after the traffic has moved.
use super::names::revision_number;
use super::objects::{
    Step, pinned_to, runs, step_of_deployment, step_of_service, wanted_deployment, wanted_revision_service,
    wanted_service,
};
use super::status::{self, compute_revision_status, compute_status};
use super::traffic::{Candidate, Decision, compute_traffic};
use super::trouble::Trouble;
use crate::owner;
use client::dhow::v1alpha1::{Function, FunctionStatus, LATEST, Revision, RevisionStatus};
use client::k8s_openapi::api::apps::v1::Deployment;
use client::k8s_openapi::api::core::v1::Service;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// Beside the longest request, what gateways and proxies may take to see that traffic has moved.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// A revision and what there is of it.
pub(super) struct Observed<'a> {
    pub(super) revision: &'a Revision,
    pub(super) deployment: Option<&'a Deployment>,
    pub(super) service: Option<&'a Service>,
    /// Whether its Service leads to a ready pod.
    pub(super) has_endpoints: bool,
    /// Why its pods do not run, if one says so.
    pub(super) trouble: Option<Trouble>,
}

impl Observed<'_> {
    pub(super) fn name(&self) -> &str {
        self.revision.metadata.name.as_deref().unwrap_or("")
    }
    fn uid(&self) -> &str {
        self.revision.metadata.uid.as_deref().unwrap_or("")
    }
}

/// What the planner sees.
pub(super) struct World<'a> {
    pub(super) function: &'a Function,
    /// The revisions it controls, those being deleted left out, in the order of their numbers.
    pub(super) revisions: Vec<Observed<'a>>,
    /// The Deployment of the function's own name: before there were revisions, it ran the pods.
    pub(super) deployment: Option<&'a Deployment>,
    /// The Service of the function's name.
    pub(super) service: Option<&'a Service>,
    pub(super) gateway_port: u16,
    pub(super) now: Timestamp,
}

/// What is to be done about one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RevisionPlan {
    pub(super) name: String,
    pub(super) deployment: Step<Deployment>,
    pub(super) service: Step<Service>,
    /// `None` if what is written says the same.
    pub(super) status: Option<RevisionStatus>,
    /// It is old and has been without traffic for long: it may go.
    pub(super) forget: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) revisions: Vec<RevisionPlan>,
    pub(super) service: Step<Service>,
    /// `None` if what is written says the same.
    pub(super) status: Option<FunctionStatus>,
    /// The Deployment from before there were revisions is no longer needed.
    pub(super) delete_deployment: bool,
    /// When something is to be done though nothing changes.
    pub(super) again: Option<Duration>,
}

/// The number of a revision of this function.
pub(super) fn number(f: &Function, r: &Revision) -> Option<u64> {
    revision_number(f.metadata.name.as_deref()?, r.metadata.name.as_deref()?)
}

/// Whether a new revision must be made. `revisions` are in the order of their numbers.
pub(super) fn needs_revision(f: &Function, revisions: &[&Revision]) -> bool {
    f.metadata.deletion_timestamp.is_none()
        && revisions.last().is_none_or(|newest| !runs(newest, &f.spec.revision_spec()))
}

/// How the pods of a revision stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pods {
    pub(super) replicas: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    /// All that are wanted are there and none that is not.
    pub(super) complete: bool,
}

/// `as_wanted`: the Deployment has this form, with this number of replicas.
fn pods(deployment: Option<&Deployment>, as_wanted: bool, wanted: i32) -> Pods {
    let Some(d) = deployment else { return Pods::default() };
    let Some(s) = d.status.as_ref() else { return Pods::default() };
    let n = |v: Option<i32>| v.unwrap_or(0);
    let observed = s.observed_generation >= d.metadata.generation;
    Pods {
        replicas: n(s.replicas),
        ready: n(s.ready_replicas),
        available: n(s.available_replicas),
        complete: as_wanted
            && observed
            && n(s.updated_replicas) == wanted
            && n(s.available_replicas) == wanted
            && n(s.replicas) == wanted,
    }
}

/// Whether the pods of a revision that never had traffic, or is to have some, are all there: more than wanted is no
/// hindrance.
fn all_available(d: Option<&Deployment>, wanted: i32) -> bool {
    let Some((d, s)) = d.and_then(|d| Some((d, d.status.as_ref()?))) else { return false };
    let n = |v: Option<i32>| v.unwrap_or(0);
    wanted > 0
        && s.observed_generation >= d.metadata.generation
        && d.spec.as_ref().and_then(|s| s.replicas) >= Some(wanted)
        && n(s.updated_replicas) >= wanted
        && n(s.available_replicas) >= wanted
}

/// Decides about a Function.
pub(super) fn plan_function(world: &World<'_>) -> Plan {
    let f = world.function;
    if f.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let old = f.status.clone().unwrap_or_default();
    let wanted = f.spec.replicas_or_default();
    let candidates: Vec<Candidate> = world.revisions.iter().filter_map(|o| candidate(f, o, wanted)).collect();
    let latest_ready = newest_ready(&candidates, old.latest_ready_revision.as_deref());
    let decision = compute_traffic(&f.spec.traffic, &candidates, latest_ready.as_deref(), &old.traffic);
    let newest = world.revisions.last().map(Observed::name);

    let mut plan = Plan::default();
    let drain = f.spec.timeout_or_default() + DRAIN_MARGIN;
    let mut stand = Vec::new();
    for o in &world.revisions {
        let name = o.name();
        let untried = newest == Some(name) && latest_ready.as_deref() != Some(name);
        let drained = status::drained_at(o.revision, decision.sends_to(name), drain, world.now);
        let draining = drained.is_some_and(|at| at > world.now);
        let needs_pods = decision.sends_to(name) || decision.wants(name) || untried || draining;
        let replicas = if needs_pods { wanted } else { 0 };
        if let Some(at) = drained.filter(|_| draining && wanted > 0) {
            plan.again = sooner(plan.again, at.duration_since(world.now));
        }
        // What has no pods and shall have none needs no objects either.
        let deployment = match o.deployment {
            None if replicas == 0 => Step::Nothing,
            old => step_of_deployment(old, wanted_deployment(o.revision, replicas), o.uid()),
        };
        let service = match o.service {
            None if replicas == 0 => Step::Nothing,
            old => step_of_service(old, wanted_revision_service(o.revision), o.uid()),
        };
        let own = o.deployment.filter(|_| deployment != Step::Taken);
        let pods = pods(own, deployment == Step::Nothing, replicas);
        let taken = deployment == Step::Taken || service == Step::Taken;
        stand.push(status::Stand { name: name.to_owned(), replicas, pods, taken, trouble: trouble(o, own) });
        let status =
            compute_revision_status(o.revision, &stand[stand.len() - 1], decision.sends_to(name), world.now);
        let status = (o.revision.status.as_ref() != Some(&status)).then_some(status);
        plan.revisions.push(RevisionPlan {
            name: name.to_owned(),
            deployment,
            service,
            status,
            forget: false,
        });
    }
    forget_old(world, &decision, latest_ready.as_deref(), &stand, &mut plan.revisions);
    plan.service = plan_service(world, &decision);
    plan_old_deployment(world, &decision, drain, &mut plan);
    let status = compute_status(world, &decision, latest_ready, &stand, plan.service == Step::Taken);
    plan.status = (f.status.as_ref() != Some(&status)).then_some(status);
    plan
}

fn candidate(f: &Function, o: &Observed<'_>, wanted: i32) -> Option<Candidate> {
    let own = o.deployment.filter(|d| owner::is_controlled_by(&d.metadata, o.uid()));
    let available = own.and_then(|d| d.status.as_ref()).and_then(|s| s.available_replicas).unwrap_or(0);
    Some(Candidate {
        name: o.name().to_owned(),
        number: number(f, o.revision)?,
        may_enter: o.has_endpoints && all_available(own, wanted),
        may_stay: available > 0 && wanted > 0,
    })
}

/// The newest revision that was ever ready, as far as it is still there.
fn newest_ready(candidates: &[Candidate], known: Option<&str>) -> Option<String> {
    let ready = candidates.iter().filter(|c| c.may_enter || known == Some(c.name.as_str()));
    ready.max_by_key(|c| c.number).map(|c| c.name.clone())
}

/// Why the revision does not get on, if something says so.
fn trouble(o: &Observed<'_>, own: Option<&Deployment>) -> Option<Trouble> {
    o.trouble.clone().or_else(|| {
        let conditions = own?.status.as_ref()?.conditions.as_deref()?;
        let failed = conditions.iter().find(|c| {
            (c.type_ == "ReplicaFailure" && c.status == "True")
                || (c.type_ == "Progressing" && c.status == "False")
        });
        Some(Trouble { text: failed?.message.clone()?, lasting: true })
    })
}

fn sooner(known: Option<Duration>, other: SignedDuration) -> Option<Duration> {
    let other = Duration::try_from(other).unwrap_or(Duration::ZERO);
    Some(known.map_or(other, |known| known.min(other)))
}

/// Marks revisions that nobody will go back to: without pods, and more of them than the limit keeps.
fn forget_old(
    world: &World<'_>,
    decision: &Decision,
    latest_ready: Option<&str>,
    stand: &[status::Stand],
    plans: &mut [RevisionPlan],
) {
    let f = world.function;
    let newest = world.revisions.last().map(Observed::name);
    let kept = |name: &str| {
        newest == Some(name)
            || latest_ready == Some(name)
            || decision.sends_to(name)
            || decision.wants(name)
            || f.spec.traffic.iter().any(|t| t.revision == name && t.revision != LATEST)
    };
    let idle: Vec<usize> = (0..plans.len())
        .filter(|i| stand[*i].replicas == 0 && stand[*i].pods.replicas == 0 && !kept(&plans[*i].name))
        .collect();
    let too_many = idle.len().saturating_sub(f.spec.revision_history_limit_or_default());
    for i in idle.into_iter().take(too_many) {
        plans[i].forget = true;
    }
}

/// The Service of the function's name leads to the revision with the largest share; before there is traffic, to
/// where it led, and first of all to the newest.
fn plan_service(world: &World<'_>, decision: &Decision) -> Step<Service> {
    let f = world.function;
    let uid = f.metadata.uid.as_deref().unwrap_or("");
    let find = |name: &str| world.revisions.iter().find(|o| o.name() == name);
    let own = world.service.filter(|s| owner::is_controlled_by(&s.metadata, uid));
    let target = match decision.primary() {
        Some(name) => find(name),
        None => match own.map(pinned_to) {
            Some(Some(name)) => find(name).or(world.revisions.last()),
            // It still leads to the pods from before there were revisions.
            Some(None) if world.deployment.is_some_and(|d| owner::is_controlled_by(&d.metadata, uid)) => {
                return Step::Nothing;
            }
            _ => world.revisions.last(),
        },
    };
    match target {
        Some(o) => step_of_service(world.service, wanted_service(f, o.revision), uid),
        None => Step::Nothing,
    }
}

/// The Deployment from before there were revisions goes once a revision has had the traffic for the drain time.
fn plan_old_deployment(world: &World<'_>, decision: &Decision, drain: Duration, plan: &mut Plan) {
    let f = world.function;
    let uid = f.metadata.uid.as_deref().unwrap_or("");
    let ours = |d: &&Deployment| {
        owner::is_controlled_by(&d.metadata, uid) && d.metadata.deletion_timestamp.is_none()
    };
    if world.deployment.filter(ours).is_none() {
        return;
    }
    if f.spec.replicas_or_default() == 0 {
        plan.delete_deployment = true;
        return;
    }
    let serving = world.revisions.iter().filter(|o| decision.sends_to(o.name()));
    let since = serving.filter_map(|o| status::active_since(o.revision)).min();
    let Some(at) = since.and_then(|t| t.checked_add(drain).ok()) else { return };
    if at <= world.now {
        plan.delete_deployment = true;
    } else {
        plan.again = sooner(plan.again, at.duration_since(world.now));
    }
}

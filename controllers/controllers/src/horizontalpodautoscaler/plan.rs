//! What an autoscaler does now: the replicas wanted, its status, and what it tells.
use super::behavior::{History, normalize};
use super::replicas::{Proposal, Question, Readiness, Target, Tolerance, compute_replicas, requests};
use super::samples::{Of, PodMetrics, REQUESTS, millis, samples};
use crate::AutoscalerConfig;
use client::k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, PodsMetricStatus, ResourceMetricStatus,
};
use client::k8s_openapi::api::core::v1::Pod;
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::{SignedDuration, Timestamp};

/// What is scaled, as its scale subresource says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scale {
    /// Wanted.
    pub(super) replicas: i32,
    /// There now.
    pub(super) present: i32,
}

/// Everything a pass looks at.
pub(super) struct World<'a> {
    pub(super) autoscaler: &'a HorizontalPodAutoscaler,
    pub(super) scale: &'a Scale,
    /// The pods of the scale's selector.
    pub(super) pods: &'a [&'a Pod],
    /// What they use; the error is the API's.
    pub(super) metrics: &'a Result<Vec<PodMetrics>, String>,
    pub(super) config: &'a AutoscalerConfig,
    pub(super) now: Timestamp,
}

/// A change of the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rescale {
    pub(super) replicas: i32,
    pub(super) reason: String,
}

/// What to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rescale: Option<Rescale>,
    /// The status if the rescale, should there be one, is not considered yet.
    pub(super) status: HorizontalPodAutoscalerStatus,
    /// Warnings to tell: reason and message.
    pub(super) warnings: Vec<(&'static str, String)>,
}

/// The status of an autoscaler that cannot even find out what is scaled.
pub(super) fn unable(
    autoscaler: &HorizontalPodAutoscaler,
    reason: &str,
    message: String,
    now: Timestamp,
) -> HorizontalPodAutoscalerStatus {
    let mut status = autoscaler.status.clone().unwrap_or_default();
    set(&mut status, "AbleToScale", false, reason, &message, now);
    status
}

/// The status of an autoscaler whose target tells no pods.
pub(super) fn inactive(
    autoscaler: &HorizontalPodAutoscaler,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> HorizontalPodAutoscalerStatus {
    let mut status = autoscaler.status.clone().unwrap_or_default();
    set(&mut status, "ScalingActive", false, reason, message, now);
    status
}

/// Decides. `history` is what was recommended and done before; it is brought up to date.
pub(super) fn plan_autoscaler(world: &World<'_>, history: &mut History) -> Plan {
    let (spec, now) = (&world.autoscaler.spec, world.now);
    let current = world.scale.replicas;
    let mut status = world.autoscaler.status.clone().unwrap_or_default();
    let message = "the HPA controller was able to get the target's current scale";
    set(&mut status, "AbleToScale", true, "SucceededGetScale", message, now);
    history.prune(now);
    if history.recommendations.is_empty() {
        history.recommendations.push((now, current));
    }
    status.current_replicas = Some(current);
    let least = spec.min_replicas.unwrap_or(1);
    let at_once = |replicas: i32, reason: &str| Some(Rescale { replicas, reason: reason.to_owned() });
    let mut plan = Plan { rescale: None, status, warnings: Vec::new() };
    if current == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        set(&mut plan.status, "ScalingActive", false, "ScalingDisabled", message, now);
        plan.status.current_metrics = None;
        plan.status.desired_replicas = 0;
        return plan;
    }
    if current > spec.max_replicas {
        plan.rescale = at_once(spec.max_replicas, "Current number of replicas above Spec.MaxReplicas");
    } else if current < least {
        plan.rescale = at_once(least, "Current number of replicas below Spec.MinReplicas");
    } else {
        match propose(world, &mut plan) {
            None => return plan,
            Some((desired, metric)) => {
                let reason = if desired > current {
                    format!("{metric} above target")
                } else {
                    "All metrics below target".to_owned()
                };
                let downscale = signed(world.config.downscale_stabilization);
                let normalized = normalize(spec, current, desired, history, downscale, now);
                for (kind, (verdict, why, message)) in
                    [("AbleToScale", normalized.able), ("ScalingLimited", normalized.limited)]
                {
                    set(&mut plan.status, kind, verdict, why, message, now);
                }
                if normalized.replicas != current {
                    plan.rescale = Some(Rescale { replicas: normalized.replicas, reason });
                }
            }
        }
    }
    plan.status.desired_replicas = plan.rescale.as_ref().map_or(current, |r| r.replicas);
    plan
}

/// The status after the rescale was done, or was not.
pub(super) fn rescaled(
    mut status: HorizontalPodAutoscalerStatus,
    result: Result<i32, &str>,
    before: i32,
    now: Timestamp,
) -> HorizontalPodAutoscalerStatus {
    match result {
        Ok(replicas) => {
            let message = format!("the HPA controller was able to update the target scale to {replicas}");
            set(&mut status, "AbleToScale", true, "SucceededRescale", &message, now);
            status.last_scale_time = Some(Time(whole(now)));
        }
        Err(error) => {
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            set(&mut status, "AbleToScale", false, "FailedUpdateScale", &message, now);
            status.desired_replicas = before;
        }
    }
    status
}

/// The most pods any metric asks for, and the metric. `None`: not enough is known, and the plan says so.
fn propose(world: &World<'_>, plan: &mut Plan) -> Option<(i32, String)> {
    let specs = world.autoscaler.spec.metrics.as_deref().unwrap_or_default();
    let mut best: Option<(i32, String)> = None;
    let mut failures: Vec<(&'static str, String)> = Vec::new();
    let mut statuses = Vec::with_capacity(specs.len());
    for spec in specs {
        match metric(world, spec) {
            Ok((proposal, name, status)) => {
                statuses.push(status);
                if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                    best = Some((proposal.replicas, name));
                }
            }
            Err(failure) => {
                // Its place is kept: statuses are read beside the metrics.
                statuses.push(MetricStatus::default());
                failures.push(failure);
            }
        }
    }
    let shrinks = best.as_ref().is_none_or(|(most, _)| *most < world.scale.replicas);
    let first = failures.first().cloned();
    plan.warnings.extend(failures.iter().cloned());
    if let Some((reason, error)) = first.filter(|_| best.is_none() || shrinks) {
        // A metric that is not known may be the one that forbids to shrink.
        let message = format!("the HPA was unable to compute the replica count: {error}");
        set(&mut plan.status, "ScalingActive", false, reason, &message, world.now);
        let (bad, all) = (failures.len(), specs.len());
        plan.warnings.push((
            "FailedComputeMetricsReplicas",
            format!("invalid metrics ({bad} invalid out of {all}), first error is: {error}"),
        ));
        return None;
    }
    let (replicas, name) = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    set(&mut plan.status, "ScalingActive", true, "ValidMetricFound", &message, world.now);
    plan.status.current_metrics = Some(statuses);
    Some((replicas, name))
}

type Failure = (&'static str, String);

/// What one metric asks for, its name in messages, and its status; or the condition's reason and what is wrong.
fn metric(world: &World<'_>, spec: &MetricSpec) -> Result<(Proposal, String, MetricStatus), Failure> {
    let mut status = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
    match spec.type_.as_str() {
        "Resource" => {
            let Some(source) = &spec.resource else { return Err(invalid_source(&spec.type_)) };
            let failed = |e| ("FailedGetResourceMetric", e);
            let proposal = resource(world, &source.name, None, &source.target).map_err(failed)?;
            let current = current(&proposal);
            status.resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
            Ok((proposal, named(&format!("{} resource", source.name), &source.target), status))
        }
        "ContainerResource" => {
            let Some(source) = &spec.container_resource else { return Err(invalid_source(&spec.type_)) };
            let failed = |e| ("FailedGetContainerResourceMetric", e);
            let proposal =
                resource(world, &source.name, Some(&source.container), &source.target).map_err(failed)?;
            status.container_resource = Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: current(&proposal),
            });
            Ok((proposal, named(&format!("{} container resource", source.name), &source.target), status))
        }
        "Pods" => {
            let Some(source) = &spec.pods else { return Err(invalid_source(&spec.type_)) };
            let failed = |e: String| {
                let text = format!("unable to get metric {}: {e}", source.metric.name);
                ("FailedGetPodsMetric", format!("failed to get pods metric value: {text}"))
            };
            if source.metric.name != REQUESTS {
                return Err(failed(format!(
                    "unable to fetch metrics from custom metrics API: there is none; of pods {REQUESTS} is known"
                )));
            }
            let metrics = world.metrics.as_ref().map_err(|e| failed(e.clone()))?;
            let values = samples(metrics, Of::Requests).map_err(failed)?;
            let target = source.target.average_value.as_ref().and_then(millis).filter(|v| *v > 0);
            let target = target.ok_or_else(|| failed("the target has no averageValue".to_owned()))?;
            let question = question(world, values, false, Target::Average(target));
            let proposal = compute_replicas(question).map_err(|e| ("FailedGetPodsMetric", e))?;
            let current = current(&proposal);
            status.pods = Some(PodsMetricStatus { metric: source.metric.clone(), current });
            Ok((proposal, format!("pods metric {}", source.metric.name), status))
        }
        "Object" => Err((
            "FailedGetObjectMetric",
            "failed to get object metric value: unable to fetch metrics from custom metrics API: there is none"
                .to_owned(),
        )),
        "External" => Err((
            "FailedGetExternalMetric",
            "failed to get external metric: unable to fetch metrics from external metrics API: there is none"
                .to_owned(),
        )),
        other => Err(invalid_source(other)),
    }
}

fn invalid_source(kind: &str) -> Failure {
    ("InvalidMetricSourceType", format!("unknown metric source type {kind:?}"))
}

fn named(what: &str, target: &MetricTarget) -> String {
    match target.average_value {
        Some(_) => what.to_owned(),
        None => format!("{what} utilization (percentage of request)"),
    }
}

fn current(proposal: &Proposal) -> MetricValueStatus {
    let average = machinery::quantity::Quantity::from_millis(proposal.average);
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(Quantity(average.to_string())),
        value: None,
    }
}

/// What a resource metric of pods, or of one of their containers, asks for.
fn resource(
    world: &World<'_>,
    name: &str,
    container: Option<&str>,
    target: &MetricTarget,
) -> Result<Proposal, String> {
    let failed = |e: String| format!("failed to get {name} utilization: {e}");
    let of = container.map_or(Of::Pod(name), |container| Of::Container(container, name));
    let fetched = world.metrics.as_ref().map_err(Clone::clone).and_then(|metrics| samples(metrics, of));
    let values = fetched.map_err(|e| failed(format!("unable to get metrics for resource {name}: {e}")))?;
    let is_cpu = name == "cpu";
    if let Some(average) = target.average_value.as_ref().and_then(millis).filter(|v| *v > 0) {
        return compute_replicas(question(world, values, is_cpu, Target::Average(average))).map_err(failed);
    }
    let Some(percent) = target.average_utilization.filter(|p| *p > 0) else {
        return Err(
            "invalid resource metric source: neither an average utilization target nor an average value \
                    (usage) target was set"
                .to_owned(),
        );
    };
    let requests = requests(world.pods, name, container).map_err(failed)?;
    let target = Target::Utilization(percent.into(), &requests);
    compute_replicas(question(world, values, is_cpu, target)).map_err(failed)
}

fn question<'a>(
    world: &World<'a>,
    samples: super::samples::Samples,
    is_cpu: bool,
    target: Target<'a>,
) -> Question<'a> {
    Question {
        current: world.scale.replicas,
        pods: world.pods,
        samples,
        is_cpu,
        target,
        tolerance: tolerance(&world.autoscaler.spec, world.config.tolerance),
        readiness: Readiness {
            cpu_initialization: signed(world.config.cpu_initialization_period),
            initial_delay: signed(world.config.initial_readiness_delay),
        },
        now: world.now,
    }
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec, default: f64) -> Tolerance {
    let behavior = spec.behavior.as_ref();
    let of = |rules: Option<&client::k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        let given = rules.and_then(|r| r.tolerance.as_ref()).and_then(millis);
        given.map_or(default, |m| m as f64 / 1000.0)
    };
    Tolerance {
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
    }
}

fn signed(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Times in objects have whole seconds.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Sets a condition; its time changes with its status only.
fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let value = if holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let found = conditions.iter().position(|c| c.type_ == kind);
    let index = found.unwrap_or_else(|| {
        let fresh = HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() };
        conditions.push(fresh);
        conditions.len() - 1
    });
    let condition = &mut conditions[index];
    if condition.status != value {
        condition.last_transition_time = Some(Time(whole(now)));
    }
    condition.status = value.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

//! How many pods a metric asks for. Upstream's algorithm (podautoscaler `ReplicaCalculator`), in thousandths.
//!
//! Pods of which nothing is known, or that are not ready yet, are thought of as what holds the change back: with
//! what they would use if the change were wrong.
use super::samples::{Sample, Samples};
use crate::pod;
use client::k8s_openapi::api::core::v1::Pod;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// What is wanted of a metric.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// Percent of what the pods request: by pod name, in thousandths.
    Utilization(i64, &'a BTreeMap<String, i64>),
    /// Thousandths on average over the pods.
    Average(i64),
}

/// By how much a metric may differ from its target before anything is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// When a pod's CPU may be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`
    pub(super) cpu_initialization: SignedDuration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`
    pub(super) initial_delay: SignedDuration,
}

/// What a metric asks for, and what it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Percent of the requests, for such a target.
    pub(super) utilization: Option<i32>,
    /// Thousandths on average.
    pub(super) average: i64,
}

/// Everything a proposal depends on.
pub(super) struct Question<'a> {
    pub(super) current: i32,
    pub(super) pods: &'a [&'a Pod],
    pub(super) samples: Samples,
    /// Whether the metric is CPU time, of which a starting pod uses more than it ever will again.
    pub(super) is_cpu: bool,
    pub(super) target: Target<'a>,
    pub(super) tolerance: Tolerance,
    pub(super) readiness: Readiness,
    pub(super) now: Timestamp,
}

/// Answers a question, or says why it cannot be answered, in upstream's words.
pub(super) fn compute_replicas(question: Question<'_>) -> Result<Proposal, String> {
    let Question { current, pods, mut samples, target, tolerance, now, .. } = question;
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, &samples, question.is_cpu, question.readiness, now);
    samples.retain(|name, _| !groups.unready.contains(name) && !groups.ignored.contains(name));
    if samples.is_empty() {
        return Err("did not receive metrics for any ready pods".to_owned());
    }
    let (ratio, utilization, average) = usage_ratio(&samples, target)?;
    let proposal = |replicas| Proposal { replicas, utilization, average };
    let counts_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !counts_unready && groups.missing.is_empty() {
        if tolerance.covers(ratio) {
            return Ok(proposal(current));
        }
        return Ok(proposal(ceil(ratio * f64::from(groups.ready))));
    }
    let mut pretend = |names: &BTreeSet<String>, value: &dyn Fn(&str) -> i64| {
        for name in names {
            let sample = Sample { value: value(name), timestamp: now, window: Default::default() };
            samples.insert(name.clone(), sample);
        }
    };
    if ratio < 1.0 {
        // To scale down, whoever is not heard of uses all it may.
        pretend(&groups.missing, &|name| match target {
            Target::Utilization(percent, requests) => {
                requests.get(name).copied().unwrap_or(0).saturating_mul(percent.max(100)) / 100
            }
            Target::Average(value) => value,
        });
    } else {
        pretend(&groups.missing, &|_| 0);
    }
    if counts_unready {
        pretend(&groups.unready, &|_| 0);
    }
    let (again, _, _) = usage_ratio(&samples, target)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerance.covers(again) || turned {
        return Ok(proposal(current));
    }
    let replicas = ceil(again * samples.len() as f64);
    if (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current) {
        return Ok(proposal(current));
    }
    Ok(proposal(replicas))
}

/// Rounded up, and to what an i32 holds.
fn ceil(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// The metric against its target, in percent of the requests for such a target, and on average.
fn usage_ratio(samples: &Samples, target: Target<'_>) -> Result<(f64, Option<i32>, i64), String> {
    match target {
        Target::Average(target) => {
            let total: i128 = samples.values().map(|s| i128::from(s.value)).sum();
            let average = (total / samples.len().max(1) as i128) as i64;
            Ok((average as f64 / target as f64, None, average))
        }
        Target::Utilization(target, requests) => {
            let known = samples.iter().filter_map(|(name, s)| Some((s.value, *requests.get(name)?)));
            let (mut used, mut requested, mut count) = (0_i128, 0_i128, 0_i128);
            for (value, request) in known {
                used += i128::from(value);
                requested += i128::from(request);
                count += 1;
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let percent = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            Ok((f64::from(percent) / target as f64, Some(percent), (used / count) as i64))
        }
    }
}

#[derive(Default)]
struct Groups {
    ready: i32,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[&Pod], samples: &Samples, is_cpu: bool, readiness: Readiness, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() || pod::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pod::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample) if is_cpu && !has_settled(pod, sample, readiness, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether what a pod uses is what it will go on using.
fn has_settled(pod: &Pod, sample: &Sample, readiness: Readiness, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
    let started = status.and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(started)) = (ready, started) else { return false };
    let changed = ready.last_transition_time.as_ref().map_or(started, |t| t.0);
    let window = SignedDuration::try_from(sample.window).unwrap_or(SignedDuration::MAX);
    let after = |t: Timestamp, d: SignedDuration| t.saturating_add(d).unwrap_or(Timestamp::MAX);
    if after(started, readiness.cpu_initialization) > now {
        ready.status != "False" && sample.timestamp >= after(changed, window)
    } else {
        !(ready.status == "False" && after(started, readiness.initial_delay) > changed)
    }
}

/// What each pod requests of a resource, in thousandths: of one container, or of all.
pub(super) fn requests(
    pods: &[&Pod],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &pod.spec else { continue };
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let wanted = spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|w| w == c.name));
        let mut sum = 0_i64;
        for c in wanted {
            let quantity = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
            let Some(request) = quantity.and_then(super::samples::millis) else {
                return Err(format!("missing request for {resource} in container {} of Pod {name}", c.name));
            };
            sum = sum.saturating_add(request);
        }
        all.insert(name, sum);
    }
    Ok(all)
}

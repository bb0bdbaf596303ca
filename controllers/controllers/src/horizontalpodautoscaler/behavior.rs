//! How fast the number of pods may change: stabilization windows, policies, the least and the most.
//!
//! Upstream's rules (podautoscaler `normalizeDesiredReplicas` and `…WithBehaviors`); what they remember is handed in
//! and given back.
use client::k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerSpec};
use jiff::{SignedDuration, Timestamp};

/// Without a behavior the number of pods may double at once, or become this many.
const SCALE_UP_LEAST: i32 = 4;

/// What is remembered of one autoscaler. It is forgotten with the process: a new one begins as careful as with a new
/// autoscaler.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct History {
    /// What was recommended, and when.
    pub(super) recommendations: Vec<(Timestamp, i32)>,
    /// Pods added, and removed.
    pub(super) ups: Vec<(Timestamp, i32)>,
    pub(super) downs: Vec<(Timestamp, i32)>,
}

/// The longest any rule looks back (the limit of `stabilizationWindowSeconds`): what is older is dropped, so that at
/// one pass a second at most 3,600 entries are kept.
const LONGEST: SignedDuration = SignedDuration::from_secs(3600);

impl History {
    /// Notes that the number of pods was changed.
    pub(super) fn rescaled(&mut self, now: Timestamp, from: i32, to: i32) {
        if to > from { self.ups.push((now, to - from)) } else { self.downs.push((now, from - to)) }
    }

    /// Forgets what no rule can ask for any more.
    pub(super) fn prune(&mut self, now: Timestamp) {
        for list in [&mut self.recommendations, &mut self.ups, &mut self.downs] {
            list.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
        }
    }
}

/// A condition's status, reason and message.
pub(super) type Verdict = (bool, &'static str, &'static str);

/// The number of pods that may be, and what AbleToScale and ScalingLimited say of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    pub(super) able: Verdict,
    pub(super) limited: Verdict,
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const READY: Verdict = (true, "ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Verdict = (
    true,
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Verdict = (
    true,
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

/// What is to be made of `desired`. `downscale` is `--horizontal-pod-autoscaler-downscale-stabilization`.
pub(super) fn normalize(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    desired: i32,
    history: &mut History,
    downscale: SignedDuration,
    now: Timestamp,
) -> Normalized {
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let behavior = spec.behavior.as_ref();
    let rules = behavior.and_then(|b| Some((b.scale_up.as_ref()?, b.scale_down.as_ref()?)));
    let (stabilized, able) = match rules {
        None => stabilize_down(desired, history, downscale, now),
        Some((up, down)) => stabilize(
            current,
            desired,
            history,
            window(up, SignedDuration::ZERO),
            window(down, downscale),
            now,
        ),
    };
    history.recommendations.push((now, desired));
    let (replicas, reason) = match rules {
        None => limit(current, stabilized, least, most),
        Some((up, down)) => limit_by_rules(current, stabilized, (least, most), history, (up, down), now),
    };
    Normalized { replicas, able, limited: (replicas != stabilized, reason.0, reason.1) }
}

fn window(rules: &HPAScalingRules, default: SignedDuration) -> SignedDuration {
    rules.stabilization_window_seconds.map_or(default, |s| SignedDuration::from_secs(s.into()))
}

/// The highest recommendation of the window.
fn stabilize_down(
    desired: i32,
    history: &History,
    downscale: SignedDuration,
    now: Timestamp,
) -> (i32, Verdict) {
    let recent = history.recommendations.iter().filter(|(at, _)| now.duration_since(*at) <= downscale);
    let highest = recent.map(|(_, n)| *n).fold(desired, i32::max);
    (highest, if highest == desired { READY } else { DOWN_STABILIZED })
}

/// Up no further than the lowest recommendation of one window, down no further than the highest of the other.
fn stabilize(
    current: i32,
    desired: i32,
    history: &History,
    up: SignedDuration,
    down: SignedDuration,
    now: Timestamp,
) -> (i32, Verdict) {
    let within = |window: SignedDuration| {
        history
            .recommendations
            .iter()
            .filter(move |(at, _)| now.duration_since(*at) < window)
            .map(|(_, n)| *n)
    };
    let (lowest, highest) = (within(up).fold(desired, i32::min), within(down).fold(desired, i32::max));
    let stabilized = current.max(lowest).min(highest);
    let verdict = match () {
        () if stabilized == desired => READY,
        () if desired >= current => UP_STABILIZED,
        () => DOWN_STABILIZED,
    };
    (stabilized, verdict)
}

type Reason = (&'static str, &'static str);

fn limit(current: i32, desired: i32, least: i32, most: i32) -> (i32, Reason) {
    let up = current.saturating_mul(2).max(SCALE_UP_LEAST);
    let (most, why) = if most > up { (up, UP_LIMIT) } else { (most, TOO_MANY) };
    match desired {
        n if n < least => (least, TOO_FEW),
        n if n > most => (most, why),
        n => (n, WITHIN),
    }
}

fn limit_by_rules(
    current: i32,
    desired: i32,
    (least, most): (i32, i32),
    history: &History,
    (up, down): (&HPAScalingRules, &HPAScalingRules),
    now: Timestamp,
) -> (i32, Reason) {
    if desired > current {
        let allowed = up_limit(current, history, up, now).max(current);
        let (most, why) = if most > allowed { (allowed, UP_LIMIT) } else { (most, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < current {
        let allowed = down_limit(current, history, down, now).min(current);
        let (least, why) = if least < allowed { (allowed, DOWN_LIMIT) } else { (least, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

/// How many pods there were at the beginning of a policy's period.
fn at_start(current: i32, history: &History, period_seconds: i32, now: Timestamp) -> i32 {
    let period = SignedDuration::from_secs(period_seconds.into());
    let within = |list: &[(Timestamp, i32)]| -> i32 {
        list.iter().filter(|(at, _)| now.duration_since(*at) < period).map(|(_, n)| *n).sum()
    };
    current.saturating_sub(within(&history.ups)).saturating_add(within(&history.downs))
}

fn up_limit(current: i32, history: &History, rules: &HPAScalingRules, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = at_start(current, history, policy.period_seconds, now);
        match policy.type_.as_str() {
            // Rounded up, or one pod would never become two.
            "Percent" => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            _ => start.saturating_add(policy.value),
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.min().unwrap_or(current),
        _ => proposals.max().unwrap_or(current),
    }
}

fn down_limit(current: i32, history: &History, rules: &HPAScalingRules, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = at_start(current, history, policy.period_seconds, now);
        match policy.type_.as_str() {
            "Percent" => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            _ => start.saturating_sub(policy.value),
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        // The policy that takes fewest away.
        Some("Min") => proposals.max().unwrap_or(current),
        _ => proposals.min().unwrap_or(current),
    }
}

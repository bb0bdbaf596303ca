//! Probes: when to ask a container how it is, and what its answers mean.
//!
//! The state machine here is pure; [`attempt`] asks one question; [`task`] is the loop of one probe.
//!
//! Unlike upstream, the first answers are asked for in quick succession (10 ms, 20 ms, … up to the period) until
//! the first success: a wasm container serves within milliseconds, and waiting a whole period to see it would be
//! most of its start-up time. What fails in that first period is not counted: `failureThreshold` failures, one a
//! period, are needed as ever.
pub mod attempt;
pub mod grpc;
pub mod task;
mod tls;

#[cfg(test)]
mod attempt_tests;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use attempt::{Question, Target};
use client::k8s_openapi::api::core::v1 as core;
use std::time::Duration;

/// Who asks containers how they are: [`Sockets`], or a test that has no network.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Asks once.
    async fn ask(&self, question: &Question, target: &Target, timeout: Duration) -> Outcome;
}

/// Asks over the node's network, and commands through the runtime.
pub struct Sockets;

#[async_trait]
impl Prober for Sockets {
    async fn ask(&self, question: &Question, target: &Target, timeout: Duration) -> Outcome {
        attempt::ask(question, target, timeout).await
    }
}

/// The three questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events word it: `Readiness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What is known of one container; `None` is "no verdict yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

impl ProbeResults {
    /// Takes in a verdict; says whether it changed anything.
    pub fn set(&mut self, kind: Kind, ok: bool) -> bool {
        let slot = match kind {
            Kind::Startup => &mut self.startup,
            Kind::Liveness => &mut self.liveness,
            Kind::Readiness => &mut self.readiness,
        };
        slot.replace(ok) != Some(ok)
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The text is what the event shows.
    Failure(String),
    /// The question could not be asked; the answer counts for nothing.
    Unknown(String),
}

/// The numbers of a probe, defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl Timing {
    /// The numbers of `probe` (defaults: period 10 s, timeout 1 s, success 1, failure 3).
    pub fn of(probe: &core::Probe) -> Self {
        let secs = |v: Option<i32>, default: u64| {
            Duration::from_secs(v.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
        };
        let count = |v: Option<i32>, default: u32| {
            v.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            initial_delay: secs(probe.initial_delay_seconds, 0),
            period: secs(probe.period_seconds, 10),
            timeout: secs(probe.timeout_seconds, 1),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
        }
    }
}

/// The first quick retry.
const QUICK: Duration = Duration::from_millis(10);

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The verdict, if it changed.
    pub verdict: Option<bool>,
    /// Whether the failure counted, and so is worth an event.
    pub counted_failure: bool,
    /// When to ask again; `None`: never again for this container.
    pub again_in: Option<Duration>,
}

/// Where one probe of one container stands.
#[derive(Clone, Debug)]
pub struct ProbeState {
    kind: Kind,
    timing: Timing,
    verdict: Option<bool>,
    last: Option<bool>,
    run: u32,
    ever_succeeded: bool,
    quick: Duration,
}

impl ProbeState {
    pub fn new(kind: Kind, timing: Timing) -> Self {
        Self { kind, timing, verdict: None, last: None, run: 0, ever_succeeded: false, quick: QUICK }
    }

    /// How long after the container's start to ask first.
    pub fn first_in(&self, since_start: Duration) -> Duration {
        self.timing.initial_delay.saturating_sub(since_start)
    }

    /// Takes in an answer that came `since_first` after the first question.
    pub fn step(&mut self, outcome: &Outcome, since_first: Duration) -> Step {
        let period = self.timing.period;
        let again = Some(period);
        let ok = match outcome {
            Outcome::Unknown(_) => return Step { verdict: None, counted_failure: false, again_in: again },
            Outcome::Success => true,
            Outcome::Failure(_) => false,
        };
        if !ok && !self.ever_succeeded && since_first < period {
            let wait = self.quick.min(period - since_first).max(Duration::from_millis(1));
            self.quick = (self.quick * 2).min(period);
            return Step { verdict: None, counted_failure: false, again_in: Some(wait) };
        }
        self.ever_succeeded |= ok;
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let threshold = if ok { self.timing.success_threshold } else { self.timing.failure_threshold };
        let verdict = (self.run >= threshold && self.verdict != Some(ok)).then_some(ok);
        if let Some(v) = verdict {
            self.verdict = Some(v);
        }
        let over = match (self.kind, self.verdict) {
            (Kind::Startup, Some(_)) => true,
            // It is going to be stopped: nothing more to ask.
            (Kind::Liveness, Some(false)) => true,
            _ => false,
        };
        Step { verdict, counted_failure: !ok, again_in: if over { None } else { again } }
    }
}

/// The probes a container has that should be running now.
pub fn wanted(c: &core::Container, results: ProbeResults) -> Vec<(Kind, &core::Probe)> {
    let mut all = Vec::new();
    match &c.startup_probe {
        Some(p) if results.startup != Some(true) => {
            all.push((Kind::Startup, p));
            return all;
        }
        _ => {}
    }
    all.extend(c.liveness_probe.as_ref().map(|p| (Kind::Liveness, p)));
    all.extend(c.readiness_probe.as_ref().map(|p| (Kind::Readiness, p)));
    all
}

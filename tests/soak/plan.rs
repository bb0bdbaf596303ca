//! What is done to the cluster, and when: a seed makes always the same sequence. Pure.
use crate::rng::Rng;
use std::fmt;
use std::time::Duration;

/// One thing that is done. Functions and hostile guests are named by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A new revision takes over.
    Deploy(usize),
    /// An older revision gets all requests.
    Rollback(usize),
    /// Two revisions share the requests, the older one with so many of a hundred.
    Split(usize, u32),
    /// It gets so many pods.
    Scale(usize, u32),
    /// It is deleted and made anew.
    Replace(usize),
    ReplaceHostile(usize),
    KillRuntime,
    KillKubelet,
    /// Both at the same moment.
    KillBoth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Since the beginning of the storm.
    pub(crate) at: Duration,
    pub(crate) action: Action,
}

/// How much there is, and for how long it is stormed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Innocent functions; the first `steady` of them are never changed.
    pub(crate) functions: usize,
    pub(crate) steady: usize,
    pub(crate) hostile: usize,
    pub(crate) length: Duration,
}

/// Between two changes on average: some 2,500 in half an hour, each of which makes pods come and go. Two cores carry
/// it beside the load.
const CHANGE: Duration = Duration::from_millis(700);
/// Between two kills of the runtime: often enough for four in a form of a minute and a half, and 20 in one of 30.
const KILL_SHORTEST: Duration = Duration::from_secs(20);
const KILL_LONGEST: Duration = Duration::from_secs(90);

/// What happens, in order of time. Nothing is killed in the last tenth: what was begun must be able to end.
pub(crate) fn plan(seed: u64, shape: &Shape) -> Vec<Step> {
    let mut steps = changes(&Rng::new(seed, "changes"), shape);
    steps.extend(kills(&Rng::new(seed, "kills"), shape));
    steps.sort_by_key(|step| step.at);
    steps
}

fn changes(rng: &Rng, shape: &Shape) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = Duration::ZERO;
    let changing = shape.functions - shape.steady;
    loop {
        at += rng.millis(0, 2 * CHANGE.as_millis() as u64);
        if at >= shape.length || changing == 0 {
            return steps;
        }
        let one = shape.steady + rng.below(changing as u64) as usize;
        let action = match rng.below(100) {
            0..45 => Action::Deploy(one),
            45..65 => Action::Rollback(one),
            65..75 => Action::Split(one, rng.between(10, 90) as u32),
            75..85 => Action::Scale(one, rng.between(1, 2) as u32),
            85..93 => Action::Replace(one),
            _ if shape.hostile == 0 => Action::Deploy(one),
            _ => Action::ReplaceHostile(rng.below(shape.hostile as u64) as usize),
        };
        steps.push(Step { at, action });
    }
}

fn kills(rng: &Rng, shape: &Shape) -> Vec<Step> {
    let mut steps = Vec::new();
    let every = (shape.length / 5).clamp(KILL_SHORTEST, KILL_LONGEST).as_millis() as u64;
    let last = shape.length * 9 / 10;
    let mut at = Duration::from_millis(every / 2);
    while at < last {
        let action = if rng.chance(250) { Action::KillBoth } else { Action::KillRuntime };
        steps.push(Step { at, action });
        // The kubelet dies between two deaths of the runtime, sometimes while this one comes back.
        let later = at + rng.millis(every / 50, every * 3 / 4);
        if later < last {
            steps.push(Step { at: later, action: Action::KillKubelet });
        }
        at += rng.millis(every * 3 / 4, every * 5 / 4);
    }
    steps
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.1} s  ", self.at.as_secs_f64())?;
        match self.action {
            Action::Deploy(n) => write!(f, "deploy {n}"),
            Action::Rollback(n) => write!(f, "roll back {n}"),
            Action::Split(n, percent) => write!(f, "split {n}: {percent} % to an older revision"),
            Action::Scale(n, replicas) => write!(f, "scale {n} to {replicas}"),
            Action::Replace(n) => write!(f, "replace {n}"),
            Action::ReplaceHostile(n) => write!(f, "replace hostile guest {n}"),
            Action::KillRuntime => f.write_str("KILL the runtime"),
            Action::KillKubelet => f.write_str("KILL the kubelet"),
            Action::KillBoth => f.write_str("KILL the runtime and the kubelet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { functions: 100, steady: 10, hostile: 8, length: Duration::from_secs(90) };

    #[test]
    fn a_seed_makes_the_same_plan_and_another_seed_another() {
        assert_eq!(plan(1, &SHAPE), plan(1, &SHAPE));
        assert_ne!(plan(1, &SHAPE), plan(2, &SHAPE));
    }

    #[test]
    fn a_plan_is_in_order_leaves_the_steady_alone_and_kills_both() {
        for seed in 0..50 {
            let steps = plan(seed, &SHAPE);
            assert!(steps.is_sorted_by_key(|step| step.at) && steps.len() > 60, "{}", steps.len());
            let runtime =
                steps.iter().filter(|s| matches!(s.action, Action::KillRuntime | Action::KillBoth)).count();
            let kubelet =
                steps.iter().filter(|s| matches!(s.action, Action::KillKubelet | Action::KillBoth)).count();
            assert!((3..=6).contains(&runtime) && kubelet >= 2, "seed {seed}: {runtime}, {kubelet}");
            for step in steps {
                match step.action {
                    Action::Deploy(n)
                    | Action::Rollback(n)
                    | Action::Split(n, _)
                    | Action::Scale(n, _)
                    | Action::Replace(n) => assert!((10..100).contains(&n)),
                    Action::ReplaceHostile(n) => assert!(n < 8),
                    Action::KillRuntime | Action::KillKubelet | Action::KillBoth => {
                        assert!(step.at < SHAPE.length * 9 / 10);
                    }
                }
            }
        }
    }
}

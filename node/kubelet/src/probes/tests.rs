use super::*;

fn timing(success: u32, failure: u32) -> Timing {
    Timing {
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        success_threshold: success,
        failure_threshold: failure,
    }
}

fn no() -> Outcome {
    Outcome::Failure("no".into())
}

/// Runs answers one after the other, as the task would, and gives (time in ms, verdict) for every change.
fn play(kind: Kind, timing: Timing, answer: impl Fn(u64) -> Outcome, until_ms: u64) -> Vec<(u64, bool)> {
    let mut state = ProbeState::new(kind, timing);
    let mut now = Duration::ZERO;
    let mut out = Vec::new();
    while now < Duration::from_millis(until_ms) {
        let step = state.step(&answer(now.as_millis() as u64), now);
        out.extend(step.verdict.map(|v| (now.as_millis() as u64, v)));
        match step.again_in {
            Some(d) => now += d,
            None => break,
        }
    }
    out
}

#[test]
fn a_container_that_serves_after_35_ms_is_ready_before_a_period_is_over() {
    let out = play(Kind::Readiness, timing(1, 3), |t| if t < 35 { no() } else { Outcome::Success }, 60_000);
    assert_eq!(out, [(70, true)]);
}

#[test]
fn failures_of_the_first_period_do_not_count() {
    let out = play(Kind::Startup, timing(1, 3), |_| no(), 120_000);
    // One failure at each of 10 s, 20 s, 30 s.
    assert_eq!(out, [(30_000, false)]);
}

#[test]
fn readiness_is_lost_after_three_failures_and_won_back_by_one_success() {
    let fails = |t: u64| (20_000..60_000).contains(&t);
    let out =
        play(Kind::Readiness, timing(1, 3), |t| if fails(t) { no() } else { Outcome::Success }, 100_000);
    assert_eq!(out, [(0, true), (40_000, false), (60_000, true)]);
}

#[test]
fn liveness_that_failed_is_not_asked_again() {
    let out =
        play(Kind::Liveness, timing(1, 1), |t| if t < 20_000 { Outcome::Success } else { no() }, 900_000);
    assert_eq!(out, [(0, true), (20_000, false)]);
}

#[test]
fn a_success_threshold_counts_one_success_a_period() {
    assert_eq!(play(Kind::Readiness, timing(3, 1), |_| Outcome::Success, 60_000), [(20_000, true)]);
}

#[test]
fn a_question_that_could_not_be_asked_changes_nothing() {
    assert_eq!(play(Kind::Liveness, timing(1, 1), |_| Outcome::Unknown("down".into()), 100_000), []);
}

#[test]
fn liveness_and_readiness_wait_for_the_startup_probe() {
    let p = core::Probe::default();
    let c = core::Container {
        startup_probe: Some(p.clone()),
        liveness_probe: Some(p.clone()),
        readiness_probe: Some(p),
        ..Default::default()
    };
    let kinds = |r| wanted(&c, r).into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    assert_eq!(kinds(ProbeResults::default()), [Kind::Startup]);
    let started = ProbeResults { startup: Some(true), ..Default::default() };
    assert_eq!(kinds(started), [Kind::Liveness, Kind::Readiness]);
}

//! When a cron trigger calls: what is due, and when to look again. Pure.
//!
//! As upstream's CronJob: of several missed times only the last is made up for, none later than the starting
//! deadline allows.
use client::dhow::v1alpha1::{ConcurrencyPolicy, CronTrigger};
use jiff::{SignedDuration, Timestamp};
use machinery::cron::{Schedule, time_zone};

/// What is to be done about a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The planned time of the call that is to be made now.
    pub(super) call: Option<Timestamp>,
    /// Calls under way are ended first.
    pub(super) end_others: bool,
    /// When the schedule comes next.
    pub(super) next: Option<Timestamp>,
}

/// What is known of a trigger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The planned time of the last call.
    pub(super) last: Option<Timestamp>,
    /// Since when there is the trigger.
    pub(super) since: Timestamp,
    /// Calls under way.
    pub(super) active: usize,
}

/// Decides. The error says why the schedule cannot be read; the server refuses such ones.
pub(super) fn plan_trigger(trigger: &CronTrigger, known: Known, now: Timestamp) -> Result<Plan, String> {
    let schedule = Schedule::parse(&trigger.schedule)?;
    let zone = time_zone(trigger.time_zone.as_deref().unwrap_or(""))?;
    let mut earliest = known.last.unwrap_or(known.since);
    if let Some(seconds) = trigger.starting_deadline_seconds {
        let bound = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        earliest = earliest.max(bound);
    }
    let next_after = |t: Timestamp| schedule.next_after(t, &zone);
    let due = most_recent(&next_after, earliest, now);
    let busy = known.active > 0;
    let call = due.filter(|_| !(busy && trigger.concurrency_policy == ConcurrencyPolicy::Forbid));
    Ok(Plan {
        call,
        end_others: call.is_some() && busy && trigger.concurrency_policy == ConcurrencyPolicy::Replace,
        next: next_after(now),
    })
}

/// The last time after `earliest` and not after `now`. Looks back in steps that double, so that a year of missed
/// minutes costs no more than one.
fn most_recent(
    next_after: &impl Fn(Timestamp) -> Option<Timestamp>,
    earliest: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut back = SignedDuration::from_mins(1);
    loop {
        let from = now.checked_sub(back).unwrap_or(Timestamp::MIN).max(earliest);
        if let Some(mut found) = next_after(from).filter(|t| *t <= now) {
            while let Some(later) = next_after(found).filter(|t| *t <= now) {
                found = later;
            }
            return Some(found);
        }
        if from <= earliest {
            return None;
        }
        back = back.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-{text}Z").parse().unwrap()
    }

    fn plan(
        policy: ConcurrencyPolicy,
        deadline: Option<i64>,
        last: Option<&str>,
        active: usize,
        now: &str,
    ) -> Plan {
        let trigger = CronTrigger {
            schedule: "*/10 * * * *".into(),
            concurrency_policy: policy,
            starting_deadline_seconds: deadline,
            ..CronTrigger::default()
        };
        let known = Known { last: last.map(at), since: at("01T00:05:00"), active };
        plan_trigger(&trigger, known, at(now)).unwrap()
    }

    #[test]
    fn a_call_is_made_at_its_time_and_once() {
        let allow = ConcurrencyPolicy::Allow;
        let p = plan(allow, None, None, 0, "01T00:09:59");
        assert_eq!((p.call, p.next), (None, Some(at("01T00:10:00"))));
        let p = plan(allow, None, None, 0, "01T00:10:00");
        assert_eq!((p.call, p.next), (Some(at("01T00:10:00")), Some(at("01T00:20:00"))));
        let p = plan(allow, None, Some("01T00:10:00"), 0, "01T00:10:01");
        assert_eq!(p.call, None);
    }

    #[test]
    fn of_missed_times_the_last_is_made_up_for_unless_it_is_too_late() {
        let allow = ConcurrencyPolicy::Allow;
        assert_eq!(plan(allow, None, None, 0, "31T12:34:56").call, Some(at("31T12:30:00")));
        assert_eq!(plan(allow, Some(297), None, 0, "31T12:34:56").call, Some(at("31T12:30:00")));
        assert_eq!(plan(allow, Some(100), None, 0, "31T12:34:56").call, None);
        assert_eq!(plan(allow, Some(i64::MAX), None, 0, "01T00:10:30").call, Some(at("01T00:10:00")));
    }

    #[test]
    fn the_policy_says_what_becomes_of_a_call_that_meets_another() {
        let now = "01T00:20:00";
        let last = Some("01T00:10:00");
        let due = Some(at(now));
        for (policy, active, want) in [
            (ConcurrencyPolicy::Allow, 1, (due, false)),
            (ConcurrencyPolicy::Forbid, 1, (None, false)),
            (ConcurrencyPolicy::Forbid, 0, (due, false)),
            (ConcurrencyPolicy::Replace, 1, (due, true)),
            (ConcurrencyPolicy::Replace, 0, (due, false)),
        ] {
            let p = plan(policy, None, last, active, now);
            assert_eq!((p.call, p.end_others), want, "{policy:?} {active}");
        }
        // What Forbid left out is made up for when the other has ended.
        let p = plan(ConcurrencyPolicy::Forbid, None, last, 0, "01T00:23:00");
        assert_eq!(p.call, Some(at("01T00:20:00")));
    }

    #[test]
    fn nonsense_is_no_plan() {
        let trigger = CronTrigger { schedule: "x".into(), ..CronTrigger::default() };
        let known = Known { last: None, since: at("01T00:00:00"), active: 0 };
        assert!(plan_trigger(&trigger, known, at("01T00:00:00")).is_err());
    }
}

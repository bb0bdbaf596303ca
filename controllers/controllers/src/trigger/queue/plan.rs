//! Which messages are delivered again, which are given up, and which triggers may consume at all. Pure.
use std::collections::BTreeMap;
use std::time::Duration;

/// Triggers of the cluster that consume at a time. Each holds two connections, and up to 3 MiB of messages under
/// way (`consumer::MAX_BYTES` and one more message): 768 MiB if all of them were full at once.
pub(super) const MAX_CONSUMERS: usize = 256;
/// Of one namespace: a quarter, so that no namespace takes them all.
pub(super) const MAX_CONSUMERS_PER_NAMESPACE: usize = 64;
/// Messages given up in one look at the pending ones: each is a round trip.
const MAX_GIVEN_UP: usize = 64;

/// A message that was given out and is not acknowledged, as `XPENDING` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) id: String,
    pub(super) consumer: String,
    /// Since it was last given out, or put off.
    pub(super) idle: Duration,
    /// How many times it was given out.
    pub(super) deliveries: u64,
}

/// How a trigger wants its messages to be treated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) consumer: &'a str,
    pub(super) max_attempts: u64,
    pub(super) backoff: Duration,
    pub(super) visibility: Duration,
}

/// What is to be done about pending messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Delivered again, with how long each has been idle at least: should it be less, somebody else was quicker.
    pub(super) claim: Vec<(String, Duration)>,
    /// Given up, with the attempts that were made.
    pub(super) give_up: Vec<(String, u64)>,
    /// When the next of them is due.
    pub(super) next: Option<Duration>,
}

/// How long a message waits after so many deliveries.
pub(super) fn compute_backoff(rules: Rules<'_>, deliveries: u64) -> Duration {
    let doublings = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(u32::MAX).min(31);
    rules.backoff.saturating_mul(1 << doublings).min(rules.visibility)
}

/// Decides about `pending`, of which those that are `under_way` are left alone; `room`: as many may be delivered.
///
/// A message of this consumer is due when its backoff is over, another's when its visibility timeout is. One that had
/// all its attempts and is still here was lost with the process that delivered it the last time, or with another
/// consumer.
pub(super) fn plan_pending(
    pending: &[Pending],
    under_way: impl Fn(&str) -> bool,
    room: usize,
    rules: Rules<'_>,
) -> Plan {
    let mut plan = Plan::default();
    for p in pending.iter().filter(|p| !under_way(&p.id)) {
        let wait = match p.consumer == rules.consumer {
            true => compute_backoff(rules, p.deliveries),
            false => rules.visibility,
        };
        let left = wait.saturating_sub(p.idle);
        if left > Duration::ZERO {
            plan.next = Some(plan.next.map_or(left, |next| next.min(left)));
        } else if p.deliveries >= rules.max_attempts {
            if plan.give_up.len() < MAX_GIVEN_UP {
                plan.give_up.push((p.id.clone(), p.deliveries));
            }
        } else if plan.claim.len() < room {
            plan.claim.push((p.id.clone(), wait));
        }
    }
    plan
}

/// Whether one more trigger of `namespace` may consume, beside those that do (of each namespace so many); the error
/// says why not.
pub(super) fn plan_start(consuming: &BTreeMap<String, usize>, namespace: &str) -> Result<(), String> {
    let own = consuming.get(namespace).copied().unwrap_or(0);
    let all: usize = consuming.values().sum();
    if own >= MAX_CONSUMERS_PER_NAMESPACE {
        return Err(format!(
            "{own} queue triggers of this namespace consume already, as many as may; remove one, or move this function \
             to another namespace"
        ));
    }
    if all >= MAX_CONSUMERS {
        return Err(format!(
            "{all} queue triggers of this cluster consume already, as many as may; remove one"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<'_> = Rules {
        consumer: "me",
        max_attempts: 3,
        backoff: Duration::from_secs(1),
        visibility: Duration::from_secs(60),
    };

    fn pending(id: &str, consumer: &str, idle_ms: u64, deliveries: u64) -> Pending {
        Pending { id: id.into(), consumer: consumer.into(), idle: Duration::from_millis(idle_ms), deliveries }
    }

    fn plan(all: &[Pending], room: usize) -> (Vec<String>, Vec<String>, Option<u64>) {
        let p = plan_pending(all, |id| id == "busy", room, RULES);
        (
            p.claim.into_iter().map(|(id, _)| id).collect(),
            p.give_up.into_iter().map(|(id, n)| format!("{id} {n}")).collect(),
            p.next.map(|d| d.as_millis() as u64),
        )
    }

    #[test]
    fn own_messages_wait_for_their_backoff_and_others_for_the_visibility_timeout() {
        let own = [pending("a", "me", 999, 1), pending("b", "me", 1000, 1), pending("c", "me", 1000, 2)];
        assert_eq!(plan(&own, 9), (vec!["b".into()], vec![], Some(1)));
        let others = [pending("a", "you", 59_000, 1), pending("b", "you", 60_000, 2)];
        assert_eq!(plan(&others, 9), (vec!["b".into()], vec![], Some(1000)));
    }

    #[test]
    fn what_is_under_way_is_left_alone_and_no_more_is_claimed_than_there_is_room_for() {
        let all =
            [pending("busy", "me", 99_000, 1), pending("a", "me", 9000, 0), pending("b", "me", 9000, 1)];
        assert_eq!(plan(&all, 1), (vec!["a".into()], vec![], None));
        assert_eq!(plan(&all, 0).0, Vec::<String>::new());
    }

    #[test]
    fn a_message_that_had_all_its_attempts_is_given_up_when_nobody_can_be_at_it_any_more() {
        let all = [pending("a", "me", 3999, 3), pending("b", "me", 4000, 3), pending("c", "you", 60_000, 7)];
        assert_eq!(plan(&all, 0), (vec![], vec!["b 3".into(), "c 7".into()], Some(1)));
        let many: Vec<_> = (0..100).map(|n| pending(&n.to_string(), "me", 9000, 3)).collect();
        assert_eq!(plan(&many, 0).1.len(), MAX_GIVEN_UP);
    }

    #[test]
    fn the_backoff_doubles_and_ends_at_the_visibility_timeout() {
        let seconds: Vec<u64> = (0..9).map(|n| compute_backoff(RULES, n).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(compute_backoff(RULES, u64::MAX).as_secs(), 60);
    }

    #[test]
    fn no_namespace_has_all_consumers() {
        let mut consuming = BTreeMap::from([("a".to_owned(), MAX_CONSUMERS_PER_NAMESPACE)]);
        assert!(plan_start(&consuming, "a").unwrap_err().contains("of this namespace"));
        assert_eq!(plan_start(&consuming, "b"), Ok(()));
        for n in ["b", "c", "d"] {
            consuming.insert(n.to_owned(), MAX_CONSUMERS_PER_NAMESPACE);
        }
        assert!(plan_start(&consuming, "e").unwrap_err().contains("of this cluster"));
    }
}

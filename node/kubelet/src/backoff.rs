//! How long to wait before trying again what has failed (client-go `util/flowcontrol` as the kubelet uses it).
//!
//! The first failure is followed by a try at once (for a container) or after [`INITIAL`]; each further one
//! doubles the wait up to [`MAX`]; whatever went well for twice that long starts over.
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// The first wait (kubelet `--container-restart-backoff` base and image pull base: 10 s).
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait (kubelet `MaxContainerBackOff`: 300 s).
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
    /// The failure itself, where nothing else remembers it.
    failed_at: Option<Timestamp>,
}

/// Waits by key: a container's name, an image's reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entries: BTreeMap<String, Entry>,
}

impl Backoff {
    /// Until when `key` must wait, given that it failed at `failed_at`; `None` when it may go now.
    pub fn until(&self, key: &str, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entries.get(key)?;
        if failed_at.duration_since(entry.updated) > MAX + MAX {
            return None;
        }
        let until = failed_at.saturating_add(entry.delay).ok()?;
        (now < until).then_some(until)
    }

    /// The wait now in force for `key`; zero when there is none.
    pub fn delay(&self, key: &str) -> SignedDuration {
        self.entries.get(key).map_or(SignedDuration::ZERO, |e| e.delay)
    }

    /// Notes that `key`, which failed at `failed_at`, is tried again now: the next wait is longer.
    pub fn next(&mut self, key: &str, failed_at: Timestamp, now: Timestamp) {
        match self.entries.get_mut(key) {
            Some(e) if failed_at.duration_since(e.updated) <= MAX + MAX => {
                e.delay = (e.delay + e.delay).min(MAX);
                e.updated = now;
            }
            _ => {
                self.entries.insert(key.to_owned(), Entry { delay: INITIAL, updated: now, failed_at: None });
            }
        }
    }

    /// Notes that `key` failed now; [`failed_until`](Self::failed_until) says when to try again.
    pub fn fail(&mut self, key: &str, now: Timestamp) {
        self.next(key, now, now);
        if let Some(e) = self.entries.get_mut(key) {
            e.failed_at = Some(now);
        }
    }

    /// Notes that `key` failed now and is to be tried again after `delay`, however often it failed.
    pub fn fail_for(&mut self, key: &str, now: Timestamp, delay: SignedDuration) {
        self.entries.insert(key.to_owned(), Entry { delay, updated: now, failed_at: Some(now) });
    }

    /// Until when `key` must wait after its last [`fail`](Self::fail); `None` when it may go now.
    pub fn failed_until(&self, key: &str, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entries.get(key)?;
        let until = entry.failed_at?.saturating_add(entry.delay).ok()?;
        (now < until).then_some(until)
    }

    /// Forgets `key`: it went well.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A duration as Go prints whole seconds: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(d: SignedDuration) -> String {
    let s = d.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + s).unwrap()
    }

    #[test]
    fn the_first_restart_is_at_once_and_each_further_one_waits_twice_as_long_up_to_five_minutes() {
        let mut b = Backoff::default();
        assert_eq!(b.until("c", at(0), at(0)), None);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            b.next("c", at(now), at(now));
            // It runs for a second and fails again.
            now += 1;
            let until = b.until("c", at(now), at(now)).expect("it waits");
            waits.push(until.duration_since(at(now)).as_secs());
            now = until.as_second() - 1_000_000;
            assert_eq!(b.until("c", at(now), until), b.until("c", at(now), until));
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_start_the_waits_over() {
        let mut b = Backoff::default();
        for t in [0, 20, 60] {
            b.next("c", at(t), at(t));
        }
        assert_eq!(b.delay("c").as_secs(), 40);
        assert_eq!(b.until("c", at(60 + 601), at(60 + 601)), None);
        b.next("c", at(60 + 601), at(60 + 601));
        assert_eq!(b.delay("c").as_secs(), 10);
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        let all: Vec<String> =
            [10, 40, 160, 300, 3700].iter().map(|s| go_duration(SignedDuration::from_secs(*s))).collect();
        assert_eq!(all, ["10s", "40s", "2m40s", "5m0s", "1h1m40s"]);
    }
}

//! What a controller did and its informer has not shown yet.
//!
//! Invariant: no controller counts pods while one that it made or deleted is missing from, or still in, its
//! informer. Otherwise a slow watch would make it create the same pods twice. Nothing is lost with the process:
//! whoever starts afresh lists afresh.
use client::ObjectKey;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;

/// A pod that did not show after this long was made and gone between two looks. A watch that lags longer than
/// this has broken, and its informer has listed again.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

#[derive(Default)]
struct Pending {
    created: HashMap<String, Timestamp>,
    deleted: HashMap<String, Timestamp>,
}

/// Pending creations and deletions, by controller object. At most a burst of uids for each.
#[derive(Default)]
pub(crate) struct Expectations {
    by_key: Mutex<HashMap<ObjectKey, Pending>>,
}

/// How the informer sees a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Not,
    Active,
    /// Ended or terminating.
    Inactive,
}

impl Expectations {
    pub(crate) fn created(&self, key: &ObjectKey, uid: &str, now: Timestamp) {
        self.by_key.lock().entry(key.clone()).or_default().created.insert(uid.to_owned(), now);
    }

    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str, now: Timestamp) {
        self.by_key.lock().entry(key.clone()).or_default().deleted.insert(uid.to_owned(), now);
    }

    /// The informer told of the pod's deletion.
    pub(crate) fn observed_gone(&self, key: &ObjectKey, uid: &str) {
        if let Some(p) = self.by_key.lock().get_mut(key) {
            p.created.remove(uid);
            p.deleted.remove(uid);
        }
    }

    /// Forgets a controller object that is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.by_key.lock().remove(key);
    }

    /// Whether the informer has caught up, so that its pods may be counted.
    pub(crate) fn fulfilled(&self, key: &ObjectKey, now: Timestamp, seen: impl Fn(&str) -> Seen) -> bool {
        let mut all = self.by_key.lock();
        let Some(p) = all.get_mut(key) else { return true };
        let waiting = |since: &Timestamp| now.duration_since(*since) < PATIENCE;
        p.created.retain(|uid, since| seen(uid) == Seen::Not && waiting(since));
        p.deleted.retain(|uid, since| seen(uid) == Seen::Active && waiting(since));
        let done = p.created.is_empty() && p.deleted.is_empty();
        if done {
            all.remove(key);
        }
        done
    }
}

/// The versions of objects that this controller wrote and has to see before it decides anew: what it decided on
/// may be gone from elsewhere already. One number for each object between a write and its echo.
#[derive(Default)]
pub(crate) struct Written {
    by_key: Mutex<HashMap<ObjectKey, u64>>,
}

impl Written {
    /// The server answered a write with this resourceVersion.
    pub(crate) fn wrote(&self, key: &ObjectKey, version: Option<&str>) {
        if let Some(version) = version.and_then(|v| v.parse().ok()) {
            self.by_key.lock().insert(key.clone(), version);
        }
    }

    /// Whether an object of this version is as new as what was written last.
    pub(crate) fn is_shown(&self, key: &ObjectKey, version: Option<&str>) -> bool {
        let mut all = self.by_key.lock();
        let Some(written) = all.get(key) else { return true };
        let shown = version.and_then(|v| v.parse::<u64>().ok()).is_none_or(|v| v >= *written);
        if shown {
            all.remove(key);
        }
        shown
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.by_key.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_counted_only_when_the_informer_shows_what_was_done() {
        let e = Expectations::default();
        let key = ObjectKey::new("default", "web");
        let t0 = Timestamp::UNIX_EPOCH;
        assert!(e.fulfilled(&key, t0, |_| Seen::Not));
        e.created(&key, "a", t0);
        assert!(!e.fulfilled(&key, t0, |_| Seen::Not));
        assert!(e.fulfilled(&key, t0, |_| Seen::Active));
        e.deleted(&key, "a", t0);
        assert!(!e.fulfilled(&key, t0, |_| Seen::Active));
        assert!(e.fulfilled(&key, t0, |_| Seen::Inactive));
    }

    #[test]
    fn an_object_counts_only_once_it_is_as_new_as_what_was_written() {
        let w = Written::default();
        let key = ObjectKey::new("default", "sums");
        assert!(w.is_shown(&key, Some("3")));
        w.wrote(&key, Some("7"));
        assert!(!w.is_shown(&key, Some("6")));
        assert!(w.is_shown(&key, Some("7")));
        assert!(w.is_shown(&key, Some("6")), "what was seen is not waited for again");
    }

    #[test]
    fn a_pod_that_came_and_went_unseen_is_waited_for_a_minute_at_most() {
        let e = Expectations::default();
        let key = ObjectKey::new("default", "web");
        let t0 = Timestamp::UNIX_EPOCH;
        e.created(&key, "a", t0);
        assert!(!e.fulfilled(&key, t0 + SignedDuration::from_secs(59), |_| Seen::Not));
        assert!(e.fulfilled(&key, t0 + SignedDuration::from_secs(60), |_| Seen::Not));
        e.created(&key, "b", t0);
        e.observed_gone(&key, "b");
        assert!(e.fulfilled(&key, t0, |_| Seen::Not));
    }
}

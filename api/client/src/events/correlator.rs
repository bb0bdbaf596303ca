//! Whether an event is new, a repetition, or one too many: client-go's event correlation, as a pure step.
use k8s_openapi::api::core::v1::ObjectReference;
use std::collections::{BTreeMap, HashMap};

/// What someone has to say about an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) about: ObjectReference,
    pub(super) event_type: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

/// What to do with it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Create an event with this message.
    Create { message: String },
    /// Raise the count of the event `name`.
    Repeat { name: String, count: i32, message: String },
    /// Say nothing: this object has had its share.
    Drop,
}

/// Objects and events remembered (client-go's cache size). An entry is a few hundred bytes.
const REMEMBERED: usize = 4096;
/// More than so many different messages for one reason within [`SIMILAR_WINDOW`] seconds become one event.
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: i64 = 600;
/// An object may have so many events at once, and one more every [`REFILL`] seconds.
const BURST: f64 = 25.0;
const REFILL: f64 = 300.0;

type About = (String, String, String, String, String, String);

fn about(r: &ObjectReference) -> About {
    let s = |o: &Option<String>| o.clone().unwrap_or_default();
    (s(&r.api_version), s(&r.kind), s(&r.namespace), s(&r.name), s(&r.uid), s(&r.field_path))
}

type Group = (About, &'static str, String);

#[derive(Default)]
struct Similar {
    messages: std::collections::BTreeSet<String>,
    last: i64,
}

struct Bucket {
    tokens: f64,
    filled: i64,
}

#[derive(Clone)]
struct Seen {
    name: String,
    count: i32,
}

/// Remembers what was said. Time comes in as seconds.
#[derive(Default)]
pub(super) struct Correlator {
    buckets: Recent<About, Bucket>,
    similar: Recent<Group, Similar>,
    seen: Recent<(Group, String), Seen>,
}

impl Correlator {
    /// What to do with `said` at `now`.
    pub(super) fn judge(&mut self, said: &Said, now: i64) -> Verdict {
        let object = about(&said.about);
        let bucket = self.buckets.entry(object.clone(), || Bucket { tokens: BURST, filled: now });
        bucket.tokens = (bucket.tokens + (now - bucket.filled).max(0) as f64 / REFILL).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return Verdict::Drop;
        }
        bucket.tokens -= 1.0;

        let (key, message) = self.key(said, object, now);
        match self.seen.get(&key) {
            Some(seen) => {
                seen.count = seen.count.saturating_add(1);
                Verdict::Repeat { name: seen.name.clone(), count: seen.count, message }
            }
            None => Verdict::Create { message },
        }
    }

    /// The event for `said` was created under `name`.
    pub(super) fn created(&mut self, said: &Said, message: &str, name: String) {
        self.seen.entry(written_as(said, message), || Seen { name, count: 1 });
    }

    /// The event for `said` is not there any more: the next one is created anew.
    pub(super) fn gone(&mut self, said: &Said, message: &str) {
        self.seen.remove(&written_as(said, message));
    }

    /// Under which key `said` is counted, and the message it gets. Combined events share the empty message.
    fn key(&mut self, said: &Said, object: About, now: i64) -> ((Group, String), String) {
        let group = (object, said.event_type, said.reason.clone());
        let similar = self.similar.entry(group.clone(), Similar::default);
        if now - similar.last > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < SIMILAR || similar.messages.contains(&said.message) {
            similar.messages.insert(said.message.clone());
            return ((group, said.message.clone()), said.message.clone());
        }
        ((group, String::new()), format!("(combined from similar events): {}", said.message))
    }
}

/// The key of `said`, written with `message`: with another than its own it was combined.
fn written_as(said: &Said, message: &str) -> (Group, String) {
    let group = (about(&said.about), said.event_type, said.reason.clone());
    let text = if message == said.message { said.message.clone() } else { String::new() };
    (group, text)
}

/// A map that forgets what was not used for longest.
struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
    clock: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), clock: 0 }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Recent<K, V> {
    fn get(&mut self, key: &K) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(key)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, key.clone());
        Some(value)
    }

    fn remove(&mut self, key: &K) {
        if let Some((used, _)) = self.entries.remove(key) {
            self.by_use.remove(&used);
        }
    }

    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if let Some((used, _)) = self.entries.get(&key) {
            self.by_use.remove(used);
        } else if self.entries.len() >= REMEMBERED
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.by_use.insert(self.clock, key.clone());
        let clock = self.clock;
        let entry = self.entries.entry(key).or_insert_with(|| (clock, make()));
        entry.0 = clock;
        &mut entry.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pod: &str, message: &str) -> Said {
        Said {
            about: ObjectReference { kind: Some("Pod".into()), name: Some(pod.into()), ..Default::default() },
            event_type: "Warning",
            reason: "BackOff".into(),
            message: message.into(),
        }
    }

    #[test]
    fn the_same_words_again_raise_the_count() {
        let mut c = Correlator::default();
        let s = said("a", "m");
        assert_eq!(c.judge(&s, 0), Verdict::Create { message: "m".into() });
        c.created(&s, "m", "a.1".into());
        let repeat = |count| Verdict::Repeat { name: "a.1".into(), count, message: "m".into() };
        assert_eq!(c.judge(&s, 1), repeat(2));
        assert_eq!(c.judge(&s, 2), repeat(3));
        assert_eq!(c.judge(&said("b", "m"), 2), Verdict::Create { message: "m".into() });
        c.gone(&s, "m");
        assert_eq!(c.judge(&s, 3), Verdict::Create { message: "m".into() });
    }

    #[test]
    fn many_similar_events_become_one() {
        let mut c = Correlator::default();
        for i in 0..10 {
            let s = said("a", &format!("m{i}"));
            assert_eq!(c.judge(&s, 0), Verdict::Create { message: format!("m{i}") });
            c.created(&s, &format!("m{i}"), format!("a.{i}"));
        }
        let s = said("a", "m10");
        let combined = "(combined from similar events): m10".to_owned();
        assert_eq!(c.judge(&s, 0), Verdict::Create { message: combined.clone() });
        c.created(&s, &combined, "a.c".into());
        assert_eq!(
            c.judge(&said("a", "m11"), 1),
            Verdict::Repeat {
                name: "a.c".into(),
                count: 2,
                message: "(combined from similar events): m11".into()
            }
        );
        assert!(matches!(c.judge(&said("a", "m12"), 2000), Verdict::Create { message } if message == "m12"));
    }

    #[test]
    fn an_object_that_says_too_much_is_silenced_until_time_has_passed() {
        let mut c = Correlator::default();
        let dropped = (0..30).filter(|_| c.judge(&said("a", "m"), 0) == Verdict::Drop).count();
        assert_eq!(dropped, 5);
        assert_ne!(c.judge(&said("b", "m"), 0), Verdict::Drop);
        assert_eq!(c.judge(&said("a", "m"), 299), Verdict::Drop);
        assert_ne!(c.judge(&said("a", "m"), 600), Verdict::Drop);
    }

    #[test]
    fn memory_stays_bounded() {
        let mut c = Correlator::default();
        for i in 0..2 * REMEMBERED {
            let s = said(&format!("p{i}"), "m");
            c.judge(&s, 0);
            c.created(&s, "m", format!("e{i}"));
        }
        assert_eq!(c.buckets.entries.len(), REMEMBERED);
        assert_eq!(c.seen.entries.len(), REMEMBERED);
        assert_eq!(c.seen.by_use.len(), REMEMBERED);
    }
}

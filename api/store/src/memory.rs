//! A store in memory, for tests and the simulator: same contract, nothing durable, no thread.
use crate::history::{self, Undo};
use crate::hub::Hub;
use crate::{Clock, Committed, Error, Event, Events, Expect, Kv, Op, Page, Retention, Revision, Store};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;

#[derive(Default)]
struct State {
    head: Revision,
    compacted: Revision,
    current: BTreeMap<String, (Kv, Option<u64>)>,
    expiries: BTreeSet<(u64, String)>,
    log: VecDeque<Undo>,
    log_bytes: u64,
}

/// See the module's text. Keys past their TTL go at the first access after it.
pub struct MemoryStore {
    state: Mutex<State>,
    hub: Hub,
    clock: Clock,
    retention: Retention,
}

impl MemoryStore {
    pub fn new(clock: Clock, retention: Retention) -> Self {
        Self { state: Mutex::default(), hub: Hub::starting_at(0), clock, retention }
    }

    /// The state with everything gone whose time has come.
    fn settled(&self) -> parking_lot::MutexGuard<'_, State> {
        let now = (self.clock)();
        let mut state = self.state.lock();
        while let Some((at, key)) = state.expiries.first().cloned()
            && at <= now
        {
            let event = state.apply(&key, &Op::Delete, now, &self.retention).1;
            self.hub.publish(&[event]);
        }
        state
    }
}

impl State {
    fn apply(&mut self, key: &str, op: &Op, now: u64, retention: &Retention) -> (Committed, Event) {
        self.head += 1;
        let revision = self.head;
        let previous = self.current.remove(key).map(|(kv, expiry)| {
            if let Some(at) = expiry {
                self.expiries.remove(&(at, key.to_owned()));
            }
            kv
        });
        let event = match op {
            Op::Put { value, ttl } => {
                let kv = Kv {
                    key: key.to_owned(),
                    value: value.clone(),
                    create_revision: previous.as_ref().map_or(revision, |p| p.create_revision),
                    mod_revision: revision,
                    version: previous.as_ref().map_or(1, |p| p.version + 1),
                };
                let expiry = ttl.map(|t| now + t.as_millis() as u64);
                if let Some(at) = expiry {
                    self.expiries.insert((at, key.to_owned()));
                }
                self.current.insert(key.to_owned(), (kv.clone(), expiry));
                Event::Put { kv, previous: previous.clone() }
            }
            Op::Delete => Event::Delete { key: key.to_owned(), revision, previous: previous.clone() },
        };
        self.log_bytes += previous.as_ref().map_or(0, |p| p.value.len() as u64);
        self.log.push_back(Undo { revision, key: key.to_owned(), previous: previous.clone() });
        while self.log.len() as u64 > retention.revisions || self.log_bytes > retention.bytes {
            self.forget_oldest();
        }
        (Committed { revision, previous }, event)
    }

    fn forget_oldest(&mut self) {
        if let Some(undo) = self.log.pop_front() {
            self.log_bytes -= undo.previous.as_ref().map_or(0, |p| p.value.len() as u64);
            self.compacted = undo.revision;
        }
    }

    fn check_revision(&self, asked: Revision) -> Result<(), Error> {
        crate::check_revision(asked, self.head, self.compacted)
    }

    fn backwards(&self) -> impl Iterator<Item = Result<Undo, Infallible>> + '_ {
        self.log.iter().rev().cloned().map(Ok)
    }

    /// What changed keys of `prefix` held at `at`.
    fn overlay(&self, prefix: &str, at: Revision) -> BTreeMap<String, Option<Kv>> {
        match history::overlay(self.backwards(), prefix, at) {
            Ok(overlay) => overlay,
            Err(never) => match never {},
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn head(&self) -> Result<Revision, Error> {
        Ok(self.settled().head)
    }

    async fn compacted(&self) -> Result<Revision, Error> {
        Ok(self.settled().compacted)
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Kv>, Revision), Error> {
        let state = self.settled();
        let now = state.current.get(key).map(|(kv, _)| kv.clone());
        let Some(at) = at else { return Ok((now, state.head)) };
        state.check_revision(at)?;
        let then = state.overlay(key, at).remove(key).unwrap_or(now);
        Ok((then, at))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let state = self.settled();
        let revision = at.unwrap_or(state.head);
        state.check_revision(revision)?;
        let mut keys: BTreeMap<&str, &Kv> = state
            .current
            .range(prefix.to_owned()..)
            .take_while(|(k, _)| k.starts_with(prefix))
            .map(|(k, (kv, _))| (k.as_str(), kv))
            .collect();
        let overlay = state.overlay(prefix, revision);
        for (key, then) in &overlay {
            match then {
                Some(kv) => keys.insert(key, kv),
                None => keys.remove(key.as_str()),
            };
        }
        let mut rest =
            keys.into_iter().filter(|(k, _)| start_after.is_none_or(|s| *k > s)).map(|(_, kv)| kv.clone());
        let kvs: Vec<Kv> = rest.by_ref().take(if limit == 0 { usize::MAX } else { limit }).collect();
        Ok(Page { kvs, remaining: rest.count() as u64, revision })
    }

    async fn commit(&self, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        crate::check_size(&op)?;
        let mut state = self.settled();
        let current = state.current.get(key).map(|(kv, _)| kv);
        crate::check_expectation(current, expect, &op)?;
        let (committed, event) = state.apply(key, &op, (self.clock)(), &self.retention);
        self.hub.publish(&[event]);
        Ok(committed)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events, Error> {
        let state = self.settled();
        state.check_revision(after)?;
        let (published, live) = self.hub.subscribe(prefix);
        let current = |key: &str| Ok(state.current.get(key).map(|(kv, _)| kv.clone()));
        let replayed = match history::replay(state.backwards(), current, prefix, after, published) {
            Ok(events) => events,
            Err(never) => match never {},
        };
        Ok(self.hub.stream(replayed, live, published.max(after)))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut state = self.settled();
        if revision > state.head {
            return Err(Error::FutureRevision { asked: revision, head: state.head });
        }
        while state.log.front().is_some_and(|undo| undo.revision <= revision) {
            state.forget_oldest();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    #[tokio::test]
    async fn the_memory_store_passes_the_suite() {
        suite::run(|hands| MemoryStore::new(hands.clock(), Retention::default())).await;
    }

    #[tokio::test]
    async fn a_faulty_store_without_faults_passes_the_suite() {
        suite::run(|hands| {
            let inner = std::sync::Arc::new(MemoryStore::new(hands.clock(), Retention::default()));
            crate::FaultyStore::around(inner, crate::Faults::default(), 1)
        })
        .await;
    }
}

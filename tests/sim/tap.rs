//! Stands directly on the real store and tells the observer of every commit before it is answered.
use crate::observer::Observer;
use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::StreamExt;
use parking_lot::Mutex;
use std::sync::Arc;
use store::{Committed, Error, Events, Expect, Intercept, Op, Revision, Store};

pub struct Tap {
    inner: Arc<dyn Store>,
    observer: Arc<Observer>,
    events: Mutex<Events>,
}

impl Tap {
    /// A tap on a store that is empty.
    pub async fn new(inner: Arc<dyn Store>, observer: Arc<Observer>) -> Self {
        let events = inner.watch("", 0).await.expect("an empty store can be watched");
        Self { inner, observer, events: Mutex::new(events) }
    }

    /// Takes in what happened, also what the store did by itself.
    pub fn observe(&self) {
        let mut events = self.events.lock();
        while let Some(Some(event)) = events.next().now_or_never() {
            match event {
                Ok(event) => self.observer.saw(&event),
                Err(e) => return self.observer.journal.broke("the store's own watch goes on", e),
            }
        }
    }

    /// Makes the store forget what was before `revision`.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    /// Compares what the store holds with what its events told.
    pub async fn compare(&self) {
        self.observe();
        let page = match self.inner.list("", None, 0, None).await {
            Ok(page) => page,
            Err(e) => return self.observer.journal.broke("the store can be read", e),
        };
        self.observe();
        let differs = self.observer.with(|state| {
            if page.revision != state.head {
                return Some(format!("the store is at {}, its events at {}", page.revision, state.head));
            }
            if let Some(kv) = page
                .kvs
                .iter()
                .find(|kv| state.objects.get(&kv.key).is_none_or(|o| o.revision != kv.mod_revision))
            {
                return Some(format!("{} is at revision {}, which no event told", kv.key, kv.mod_revision));
            }
            (page.kvs.len() != state.objects.len()).then(|| {
                let lost = state.objects.keys().find(|k| !page.kvs.iter().any(|kv| kv.key == **k));
                format!("{lost:?} was committed, never deleted, and is gone")
            })
        });
        if let Some(how) = differs {
            self.observer.journal.broke("what was written is there", how);
        }
    }
}

#[async_trait]
impl Intercept for Tap {
    async fn commit(&self, inner: &dyn Store, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        let committed = inner.commit(key, expect, op).await;
        self.observe();
        committed
    }
}

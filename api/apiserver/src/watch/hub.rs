//! The hub of a resource: follows the store once and keeps the newest events for every watcher.
use super::event::Event;
use crate::object;
use futures::StreamExt;
use machinery::resource::{self, Resource};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use store::{Revision, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events kept for watchers that are a little behind. At 1 000 changes a second of one resource that is one
/// second: who is further behind reads the store's history.
const MAX_EVENTS: usize = 1_000;
/// And no more than this many bytes of them: with all of the table's resources busy, 17 times 2 MiB.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// A store that failed is asked again after this long; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// One hub for each resource that was ever watched.
pub(crate) struct Hubs {
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    hubs: Mutex<HashMap<(&'static str, &'static str), Arc<Hub>>>,
}

impl Hubs {
    pub(crate) fn new(store: Arc<dyn Store>, shutdown: CancellationToken, tasks: TaskTracker) -> Self {
        Self { store, shutdown, tasks, hubs: Mutex::default() }
    }

    /// The hub of a row's storage; started when it is first asked for.
    pub(crate) fn get(&self, row: &'static Resource) -> Arc<Hub> {
        let mut hubs = self.hubs.lock();
        hubs.entry(row.storage)
            .or_insert_with(|| {
                let (group, plural) = row.storage;
                let stored = resource::all().iter().find(|r| r.group == group && r.plural == plural);
                let hub = Arc::new(Hub::new(stored.unwrap_or(row)));
                self.tasks.spawn(hub.clone().run(self.store.clone(), self.shutdown.clone()));
                hub
            })
            .clone()
    }
}

pub(crate) struct Hub {
    pub(crate) row: &'static Resource,
    prefix: String,
    ring: Mutex<Ring>,
    /// The revision up to which everything has arrived; watchers wait on it.
    current: watch::Sender<Revision>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every change after this revision is in `events`.
    after: Revision,
    /// Whether the ring follows the store yet.
    live: bool,
}

/// What a watcher finds.
pub(crate) enum Pulled {
    /// It is older than the ring: the store must be read.
    Behind,
    Events(Vec<Arc<Event>>),
    /// Nothing after its revision; everything up to this one has been seen.
    Nothing(Revision),
}

impl Hub {
    fn new(row: &'static Resource) -> Self {
        Self { row, prefix: object::prefix(row), ring: Mutex::default(), current: watch::Sender::new(0) }
    }

    /// A receiver that changes when there is something new.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.current.subscribe()
    }

    pub(crate) fn current(&self) -> Revision {
        *self.current.borrow()
    }

    /// Up to `max` events after `after`. Nothing while the hub is not live yet.
    pub(crate) fn pull(&self, after: Revision, max: usize) -> Pulled {
        let ring = self.ring.lock();
        if !ring.live {
            return Pulled::Nothing(after);
        }
        if after < ring.after {
            return Pulled::Behind;
        }
        let from = ring.events.partition_point(|e| e.revision <= after);
        let events: Vec<_> = ring.events.range(from..).take(max).cloned().collect();
        if events.is_empty() { Pulled::Nothing(self.current()) } else { Pulled::Events(events) }
    }

    /// Whether a watcher at `revision` can follow the ring.
    pub(crate) fn covers(&self, revision: Revision) -> bool {
        let ring = self.ring.lock();
        ring.live && revision >= ring.after
    }

    async fn run(self: Arc<Self>, store: Arc<dyn Store>, shutdown: CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let before = self.current();
            let failure = tokio::select! {
                () = shutdown.cancelled() => return,
                failure = self.follow(&*store) => failure,
            };
            if self.current() > before {
                backoff = MIN_BACKOFF;
            }
            tracing::debug!(
                prefix = self.prefix,
                error = failure.to_string(),
                "the store's watch ended; starting it again"
            );
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Follows the store until its watch fails.
    async fn follow(&self, store: &dyn Store) -> store::Error {
        let live = self.ring.lock().live;
        let start = if live { Ok(self.current()) } else { store.head().await };
        let watched = match start {
            Ok(after) => store.watch(&self.prefix, after).await.map(|stream| (stream, after)),
            Err(e) => Err(e),
        };
        let (mut stream, after) = match watched {
            Ok(watched) => watched,
            Err(e @ (store::Error::Compacted { .. } | store::Error::FutureRevision { .. })) => {
                // What lies between is lost to the ring; watchers find out from the store whether it is lost to them.
                *self.ring.lock() = Ring::default();
                return e;
            }
            Err(e) => return e,
        };
        if !live {
            let mut ring = self.ring.lock();
            ring.after = after;
            ring.live = true;
            drop(ring);
            self.current.send_replace(after);
        }
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => self.publish(event),
                Err(e) => return e,
            }
        }
        store::Error::Unavailable("the store's watch ended".to_owned())
    }

    fn publish(&self, event: store::Event) {
        let revision = match &event {
            store::Event::Progress(revision) => *revision,
            store::Event::Put { kv, .. } => kv.mod_revision,
            store::Event::Delete { revision, .. } => *revision,
        };
        if let Some(event) = Event::new(self.row, event) {
            let mut ring = self.ring.lock();
            ring.bytes += event.weight();
            ring.events.push_back(Arc::new(event));
            while ring.events.len() > MAX_EVENTS || (ring.bytes > MAX_BYTES && ring.events.len() > 1) {
                if let Some(gone) = ring.events.pop_front() {
                    ring.bytes -= gone.weight();
                    ring.after = gone.revision;
                }
            }
        }
        self.current.send_if_modified(|current| {
            let newer = revision > *current;
            *current = revision.max(*current);
            newer
        });
    }
}

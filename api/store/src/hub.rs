//! Hands committed changes to watchers, in revision order, without ever waiting for one of them.
use crate::history::Replay;
use crate::{Error, Event, Events, Revision};
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events a watcher may lie behind before it is dropped. The watch cache drains in memory at > 100,000 events/s,
/// so at 20,000 commits/s it may stall for a fifth of a second.
const WATCHER_BUFFER: usize = 4096;

/// How often a quiet watch is told how far the store has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Inner {
    published: Revision,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Event>,
}

#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<Inner>>);

impl Event {
    pub(crate) fn key(&self) -> &str {
        match self {
            Event::Put { kv, .. } => &kv.key,
            Event::Delete { key, .. } => key,
            Event::Progress(_) => "",
        }
    }

    /// The revision this event happened at.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { kv, .. } => kv.mod_revision,
            Event::Delete { revision, .. } | Event::Progress(revision) => *revision,
        }
    }
}

impl Hub {
    pub(crate) fn starting_at(head: Revision) -> Self {
        Self(Arc::new(Mutex::new(Inner { published: head, watchers: Vec::new() })))
    }

    /// Publishes events, which must follow in revision order on everything published before. A watcher whose
    /// buffer is full is dropped: it learns of it at the end of its buffer.
    pub(crate) fn publish(&self, events: &[Event]) {
        let mut inner = self.0.lock();
        for event in events {
            inner
                .watchers
                .retain(|w| !event.key().starts_with(&w.prefix) || w.sender.try_send(event.clone()).is_ok());
            inner.published = event.revision();
        }
        inner.watchers.retain(|w| !w.sender.is_closed());
    }

    /// Registers a watcher; live events start after the returned revision.
    pub(crate) fn subscribe(&self, prefix: &str) -> (Revision, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(WATCHER_BUFFER);
        let mut inner = self.0.lock();
        inner.watchers.push(Watcher { prefix: prefix.to_owned(), sender });
        (inner.published, receiver)
    }

    fn published(&self) -> Revision {
        self.0.lock().published
    }

    /// The stream of a watch: what was replayed, then what is live after `after`; or the end, if there is more of the past
    /// than was replayed.
    pub(crate) fn stream(&self, replay: Replay, live: mpsc::Receiver<Event>, after: Revision) -> Events {
        let replayed = stream::iter(replay.events.into_iter().map(Ok));
        if replay.cut {
            return replayed.chain(stream::once(std::future::ready(Err(Error::Lagged)))).boxed();
        }
        let state = Live { hub: self.clone(), live, delivered: after, ended: false };
        replayed.chain(stream::unfold(state, Live::next)).boxed()
    }
}

struct Live {
    hub: Hub,
    live: mpsc::Receiver<Event>,
    delivered: Revision,
    ended: bool,
}

impl Live {
    async fn next(mut self) -> Option<(Result<Event, Error>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            let event = match tokio::time::timeout(PROGRESS_INTERVAL, self.live.recv()).await {
                Ok(event) => event,
                // Read how far the hub is before looking once more: what it published up to there is in the
                // channel by then, so an empty channel means that all of it was delivered.
                Err(_) => {
                    let published = self.hub.published();
                    match self.live.try_recv() {
                        Ok(event) => Some(event),
                        Err(mpsc::error::TryRecvError::Disconnected) => None,
                        Err(mpsc::error::TryRecvError::Empty) if published > self.delivered => {
                            self.delivered = published;
                            return Some((Ok(Event::Progress(published)), self));
                        }
                        Err(mpsc::error::TryRecvError::Empty) => continue,
                    }
                }
            };
            match event {
                Some(event) if event.revision() <= self.delivered => continue,
                Some(event) => {
                    self.delivered = event.revision();
                    return Some((Ok(event), self));
                }
                None => {
                    self.ended = true;
                    return Some((Err(Error::Lagged), self));
                }
            }
        }
    }
}

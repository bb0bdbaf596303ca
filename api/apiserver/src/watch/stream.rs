//! One watcher: initial state, history, live events, bookmarks, and its end.
use super::event::{Event, frame};
use super::hub::{Hub, Pulled};
use crate::body::{Body, BoxError};
use crate::error::from_store;
use crate::negotiate::{Output, Shape};
use crate::object;
use crate::query::ListOptions;
use crate::registry::Request;
use crate::respond::{self, Answer};
use crate::selection::Selection;
use crate::server::Server;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use machinery::resource::Resource;
use machinery::status::Status;
use machinery::table;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use store::Revision;
use tokio::sync::{OwnedSemaphorePermit, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Objects of the initial state read at a time, and events taken from the ring at a time.
const BATCH: usize = 500;
/// Upstream sends bookmarks about once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Marks the bookmark that ends the initial state of `sendInitialEvents`.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Answers a watch request. `place` is given back when the stream ends.
pub(crate) async fn watch(request: &Request<'_>, place: OwnedSemaphorePermit) -> Result<Answer, Status> {
    let options = ListOptions::parse(request.query, true)?;
    let selection = Selection::parse(request.row, &request.target.namespace, request.query)?;
    let server = request.server;
    if let Some(asked) = options.version.filter(|v| *v > 0) {
        let hub = server.hubs.get(request.row);
        if asked > hub.current() {
            let head = server.store.head().await.map_err(from_store)?;
            if asked > head {
                return Err(Status::too_large_resource_version(asked, head));
            }
        }
    }
    let initial = match (options.send_initial_events, options.version) {
        (Some(send), _) => send,
        (None, version) => version.unwrap_or(0) == 0,
    };
    let phase = if initial {
        Phase::Initial { at: None, start_after: None, mark_end: options.send_initial_events == Some(true) }
    } else {
        match options.version.filter(|v| *v > 0) {
            Some(after) => Phase::Follow { after },
            // sendInitialEvents=false without a version: from now on.
            None => Phase::Follow { after: server.store.head().await.map_err(from_store)? },
        }
    };
    let now = Instant::now();
    let timeout = match options.timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => {
            let least = server.limits.min_watch_timeout;
            let spread = u64::try_from(least.as_millis()).unwrap_or(u64::MAX).max(1);
            least + Duration::from_millis(server.ambient.random() % spread)
        }
    };
    let hub = server.hubs.get(request.row);
    let watcher = Watcher {
        changes: hub.subscribe(),
        hub,
        server: server.clone(),
        row: request.row,
        namespace: request.target.namespace.clone(),
        selection,
        output: request.output,
        phase,
        // A century is as good as for ever, and does not overflow the timer.
        deadline: now + timeout.min(Duration::from_secs(100 * 365 * 24 * 3600)),
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY,
        columns_sent: false,
        end: request.end.clone(),
        _place: place,
    };
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), watcher))
    });
    let mut answer = respond::bytes(StatusCode::OK, "application/json", Body::empty());
    *answer.body_mut() = Body::stream(StreamBody::new(stream));
    Ok(answer)
}

enum Phase {
    /// Sending the state as of a revision, page by page.
    Initial {
        at: Option<Revision>,
        start_after: Option<String>,
        mark_end: bool,
    },
    /// Reading the store's own history until the ring covers it.
    CatchUp {
        after: Revision,
        stream: store::Events,
    },
    /// Following the ring.
    Follow {
        after: Revision,
    },
    Over,
}

struct Watcher {
    server: Arc<Server>,
    hub: Arc<Hub>,
    changes: channel::Receiver<Revision>,
    row: &'static Resource,
    namespace: String,
    selection: Selection,
    output: Output,
    phase: Phase,
    deadline: Instant,
    bookmarks: bool,
    next_bookmark: Instant,
    columns_sent: bool,
    end: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.is_empty() {
            if self.end.is_cancelled() {
                return None;
            }
            let phase = std::mem::replace(&mut self.phase, Phase::Over);
            let stepped = match phase {
                Phase::Over => return None,
                Phase::Initial { at, start_after, mark_end } => {
                    self.initial(&mut out, at, start_after, mark_end).await
                }
                Phase::CatchUp { after, stream } => self.catch_up(&mut out, after, stream).await,
                Phase::Follow { after } => self.follow(&mut out, after).await,
            };
            match stepped {
                Ok(phase) => self.phase = phase,
                // A watch that has begun can only tell of an error in an event.
                Err(status) => {
                    let object = serde_json::to_vec(&status.to_value()).unwrap_or_default();
                    out.extend_from_slice(&frame("ERROR", &object));
                }
            }
        }
        Some(out.freeze())
    }

    async fn initial(
        &mut self,
        out: &mut BytesMut,
        at: Option<Revision>,
        start_after: Option<String>,
        mark_end: bool,
    ) -> Result<Phase, Status> {
        let prefix = object::key(self.row, &self.namespace, "");
        let page =
            self.server.store.list(&prefix, start_after.as_deref(), BATCH, at).await.map_err(from_store)?;
        for kv in &page.kvs {
            if !self.selection.selects(self.row, kv)? {
                continue;
            }
            if self.output.shape == Shape::AsIs {
                out.extend_from_slice(&frame("ADDED", &object::encoded(self.row, kv)?));
            } else {
                let value = object::decode(self.row, &kv.value, kv.mod_revision)?;
                self.send_value(out, "ADDED", value)?;
            }
        }
        if page.remaining > 0 {
            let start_after = page.kvs.last().map(|kv| kv.key.clone());
            return Ok(Phase::Initial { at: Some(page.revision), start_after, mark_end });
        }
        if mark_end && self.bookmarks {
            self.send_bookmark(out, page.revision, true)?;
        }
        Ok(Phase::Follow { after: page.revision })
    }

    async fn follow(&mut self, out: &mut BytesMut, mut after: Revision) -> Result<Phase, Status> {
        // Seen before the pull: whatever comes after it wakes us.
        self.changes.borrow_and_update();
        match self.hub.pull(after, BATCH) {
            Pulled::Events(events) => {
                for event in events {
                    self.send_event(out, &event)?;
                    after = event.revision;
                }
                Ok(Phase::Follow { after })
            }
            Pulled::Behind => {
                let prefix = object::key(self.row, &self.namespace, "");
                let (server, end) = (self.server.clone(), self.end.clone());
                // One after another: a thousand watchers that were too slow come here at the same time.
                let turn = tokio::select! {
                    turn = server.replays.acquire() => Some(turn.map_err(Status::internal)?),
                    () = end.cancelled() => return Ok(Phase::Over),
                    () = tokio::time::sleep_until(self.deadline) => None,
                };
                if turn.is_none() {
                    return self.finish(out, after);
                }
                let replayed = server.store.watch(&prefix, after).await;
                drop(turn);
                match replayed {
                    Ok(stream) => Ok(Phase::CatchUp { after, stream }),
                    Err(e) => Err(watch_error(e, after)),
                }
            }
            Pulled::Nothing(current) => {
                after = after.max(current);
                let end = self.end.clone();
                tokio::select! {
                    changed = self.changes.changed() => match changed {
                        Ok(()) => Ok(Phase::Follow { after }),
                        Err(_) => Ok(Phase::Over),
                    },
                    () = end.cancelled() => Ok(Phase::Over),
                    () = tokio::time::sleep_until(self.deadline) => self.finish(out, after),
                    () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                        self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                        self.send_bookmark(out, after, false)?;
                        Ok(Phase::Follow { after })
                    }
                }
            }
        }
    }

    async fn catch_up(
        &mut self,
        out: &mut BytesMut,
        after: Revision,
        mut stream: store::Events,
    ) -> Result<Phase, Status> {
        if self.hub.covers(after) {
            return Ok(Phase::Follow { after });
        }
        let end = self.end.clone();
        let event = tokio::select! {
            event = stream.next() => event,
            () = end.cancelled() => return Ok(Phase::Over),
            () = tokio::time::sleep_until(self.deadline) => return self.finish(out, after),
        };
        match event {
            Some(Ok(store::Event::Progress(revision))) => {
                Ok(Phase::CatchUp { after: revision.max(after), stream })
            }
            Some(Ok(event)) => match Event::new(self.hub.row, event) {
                Some(event) => {
                    self.send_event(out, &event)?;
                    Ok(Phase::CatchUp { after: event.revision, stream })
                }
                None => Ok(Phase::CatchUp { after, stream }),
            },
            // The history may be read again from where we are.
            Some(Err(store::Error::Lagged)) => Ok(Phase::Follow { after }),
            // A store that broke off: the client comes back with its last version, as after a lost connection.
            Some(Err(store::Error::Unavailable(_))) | None => Ok(Phase::Over),
            Some(Err(e)) => Err(watch_error(e, after)),
        }
    }

    /// The time is up: a last bookmark, so that the client goes on from here and not from its last event.
    fn finish(&mut self, out: &mut BytesMut, after: Revision) -> Result<Phase, Status> {
        if self.bookmarks {
            self.send_bookmark(out, after, false)?;
        }
        Ok(Phase::Over)
    }

    fn send_event(&mut self, out: &mut BytesMut, event: &Event) -> Result<(), Status> {
        let Some(kind) = event.kind_for(self.row, &self.selection, &self.namespace) else { return Ok(()) };
        self.server.metrics.watch_event(self.row);
        if self.output.shape == Shape::AsIs && !object::converts(self.row) {
            out.extend_from_slice(&event.frame(kind)?);
            return Ok(());
        }
        self.send_value(out, kind.as_str(), event.object(self.row, kind)?)
    }

    fn send_value(&mut self, out: &mut BytesMut, kind: &str, value: Value) -> Result<(), Status> {
        let now = self.server.ambient.now();
        let shaped = match self.output.shape {
            Shape::Table(version, include) => {
                let meta = json!({ "resourceVersion": machinery::meta::resource_version(&value) });
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                table::to_table(self.row, &[&value], meta, include, version, columns, now)
            }
            Shape::Metadata => respond::partial(&value),
            Shape::AsIs => value,
        };
        let object = serde_json::to_vec(&shaped).map_err(Status::internal)?;
        out.extend_from_slice(&frame(kind, &object));
        Ok(())
    }

    fn send_bookmark(
        &mut self,
        out: &mut BytesMut,
        revision: Revision,
        ends_initial: bool,
    ) -> Result<(), Status> {
        let mut meta = json!({ "resourceVersion": revision.to_string() });
        if ends_initial {
            meta["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let object = match self.output.shape {
            Shape::Table(version, _) => json!({
                "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
                "columnDefinitions": null, "rows": [],
            }),
            Shape::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            }),
            Shape::AsIs => json!({
                "kind": self.row.kind, "apiVersion": self.row.api_version(), "metadata": meta,
            }),
        };
        let object = serde_json::to_vec(&object).map_err(Status::internal)?;
        out.extend_from_slice(&frame("BOOKMARK", &object));
        Ok(())
    }
}

/// 410 for a version whose history is gone, worded as etcd's users know it.
fn watch_error(error: store::Error, after: Revision) -> Status {
    match error {
        store::Error::Compacted { oldest, .. } => {
            Status::expired(format!("too old resource version: {after} ({oldest})"))
        }
        other => from_store(other),
    }
}

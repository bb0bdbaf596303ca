//! Keeps a store fresh: list, then watch for ever.
use super::Object;
use super::source::{Source, WATCH_SECONDS};
use super::store::Store;
use crate::backoff::Backoff;
use crate::error_chain;
use futures::StreamExt;
use kube::core::WatchEvent;
use kube::{Client, Resource};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The first retry comes soon, for the API server may just be starting; client-go's cap.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(30);

/// A watch that ends sooner than this without an event is treated as a failure: a server that closes every
/// watch at once must not be asked in a tight loop.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// The server ends a watch by itself after [`WATCH_SECONDS`]; one that is silent for longer is on a dead
/// connection.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// All pages of a list: 100 of them (50,000 objects) at half a second each. Without a limit a list on a dead
/// connection would wait for ever.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the reflection stands.
enum Phase {
    /// Nothing is known, or too old to go on from.
    List,
    /// Everything up to this resource version is in the store.
    Watch(String),
}

/// How one watch ended.
enum Ended {
    /// In the usual way, or the connection broke: go on from here.
    At(String),
    /// The version is older than the server's history.
    Expired,
}

/// Runs until dropped.
pub(super) async fn run<K: Object>(client: &Client, source: &Source<K>, store: &Store<K>) {
    let mut backoff = Backoff::new(source.path(), RETRY_BASE, RETRY_CAP);
    let mut phase = Phase::List;
    loop {
        phase = match phase {
            Phase::List => match list(client, source).await {
                Ok((objects, version)) => {
                    tracing::debug!(path = source.path(), count = objects.len(), version, "listed");
                    store.replace(objects);
                    Phase::Watch(version)
                }
                Err(error) => {
                    tracing::warn!(path = source.path(), error, "cannot list, trying again");
                    sleep(backoff.next_delay()).await;
                    Phase::List
                }
            },
            Phase::Watch(version) => match watch(client, source, store, version, &mut backoff).await {
                Ended::At(version) => Phase::Watch(version),
                Ended::Expired => {
                    sleep(backoff.next_delay()).await;
                    Phase::List
                }
            },
        };
    }
}

async fn list<K: Object>(client: &Client, source: &Source<K>) -> Result<(Vec<K>, String), String> {
    match timeout(LIST_TIMEOUT, source.list(client)).await {
        Ok(result) => result.map_err(|error| error_chain(&error)),
        Err(_) => Err("no answer from the server".to_owned()),
    }
}

async fn watch<K: Object>(
    client: &Client,
    source: &Source<K>,
    store: &Store<K>,
    mut version: String,
    backoff: &mut Backoff,
) -> Ended {
    let started = Instant::now();
    let mut heard = false;
    let failure = 'watch: {
        let stream = match timeout(LIST_TIMEOUT, source.watch(client, &version)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if crate::is_expired(&error) => return Ended::Expired,
            Ok(Err(error)) => break 'watch Some(error_chain(&error)),
            Err(_) => break 'watch Some("no answer from the server".to_owned()),
        };
        let mut stream = pin!(stream);
        loop {
            let event = match timeout(SILENCE, stream.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) if crate::is_expired(&error) => return Ended::Expired,
                Ok(Some(Err(error))) => break 'watch Some(error_chain(&error)),
                Ok(None) => break 'watch None,
                Err(_) => break 'watch Some("no word from the server".to_owned()),
            };
            if let WatchEvent::Error(status) = event {
                if status.code == 410 {
                    return Ended::Expired;
                }
                break 'watch Some(status.to_string());
            }
            heard = true;
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    advance(&mut version, &object);
                    store.apply(object);
                }
                WatchEvent::Deleted(object) => {
                    advance(&mut version, &object);
                    store.delete(object);
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(_) => {}
            }
        }
    };
    // A successful list alone does not end the backoff: a server may answer lists and refuse every watch.
    let healthy = heard || started.elapsed() >= SHORT_WATCH;
    if healthy {
        backoff.reset();
    }
    if let Some(why) = failure {
        tracing::warn!(path = source.path(), error = why, "the watch failed, trying again");
        sleep(backoff.next_delay()).await;
    } else if !healthy {
        tracing::debug!(path = source.path(), "the watch ended at once");
        sleep(backoff.next_delay()).await;
    }
    Ended::At(version)
}

fn advance<K: Resource>(version: &mut String, object: &K) {
    if let Some(v) = &object.meta().resource_version {
        version.clone_from(v);
    }
}

//! Where the cluster's state lives: keys, bytes and one revision counter, shaped like etcd.
//!
//! Purpose: one trait that the API server talks to, and the stores behind it.
//!
//! Invariant: a commit that was answered is durable and seen by every later read; revisions rise by one with
//! every commit; a watch from revision N delivers every later change of its prefix, once, in order.
//!
//! ```text
//!   apiserver ──► trait Store ──► RedbStore   (default; one writer thread, group commit)
//!                            ├──► MemoryStore (tests, simulator)
//!                            └──► Intercepted (wraps another: FaultyStore's errors, delays, lost answers)
//! ```
mod faulty;
mod history;
mod hub;
mod intercept;
mod memory;
mod redb_store;
pub mod suite;

pub use faulty::{Faults, FaultyStore};
pub use intercept::{Intercept, Intercepted};
pub use memory::MemoryStore;
pub use redb_store::{OpenError, RedbStore};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;

/// A revision of the whole store. 0 is "before the first write".
pub type Revision = u64;

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    pub key: String,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 when created, one more with each change.
    pub version: u64,
}

/// What must hold of a key for a commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// The key exists and was last changed at this revision.
    ModRevision(Revision),
}

/// What a commit does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value; with `ttl` the store deletes it by itself after that time.
    Put {
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete,
}

/// The answer to a commit that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub revision: Revision,
    /// What the key held before.
    pub previous: Option<Kv>,
}

/// A page of a list, all of it as of `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub kvs: Vec<Kv>,
    /// Keys after the last one, within the prefix.
    pub remaining: u64,
    pub revision: Revision,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was written; `previous` is what it held before.
    Put { kv: Kv, previous: Option<Kv> },
    /// A key was deleted at `revision`; `previous` is what it held.
    Delete { key: String, revision: Revision, previous: Option<Kv> },
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The expectation did not hold; `current` is what the key holds.
    #[error("the key was changed by someone else")]
    Conflict { current: Option<Box<Kv>> },
    #[error("revision {asked} is older than the oldest one kept, {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} lies in the future, the store is at {head}")]
    FutureRevision { asked: Revision, head: Revision },
    #[error("a value of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("no space left for the store: {0}")]
    NoSpace(String),
    /// The watcher read too slowly and was dropped, or was given a part of a long past; it may start again from its last
    /// revision.
    #[error("the watcher fell behind and was dropped")]
    Lagged,
    /// Whether a write happened is unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// The largest value a store takes: etcd's default request limit.
pub const MAX_VALUE_BYTES: usize = 1_572_864;

/// What a watch answers with: it ends after the first error.
pub type Events = BoxStream<'static, Result<Event, Error>>;

/// An etcd-shaped store. Keys are ordered by their bytes; a prefix is a plain string prefix.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed revision.
    async fn head(&self) -> Result<Revision, Error>;
    /// The oldest revision that reads and watches may start after.
    async fn compacted(&self) -> Result<Revision, Error>;
    /// The key as of `at` (now, if `None`), and the revision read at.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Kv>, Revision), Error>;
    /// Up to `limit` (0: all) keys of `prefix` that sort after `start_after`, as of `at` (now, if `None`).
    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error>;
    /// Does `op` to `key` if `expect` holds: durable when this returns.
    async fn commit(&self, key: &str, expect: Expect, op: Op) -> Result<Committed, Error>;
    /// Every change of `prefix` after revision `after`; ends after the first error. A long past comes in parts: each but
    /// the last ends with `Lagged`, and a watch after its last event gives the next. A `Progress` is sent at
    /// least every few seconds when nothing else is.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events, Error>;
    /// Forgets history before `revision`. Stores also do so by themselves.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
}

/// Milliseconds since 1970 (UTC): what a TTL is measured by. Handed in, so that tests own the time.
pub type Clock = std::sync::Arc<dyn Fn() -> u64 + Send + Sync>;

/// How much history a store keeps for reads and watches in the past.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Revisions kept. A client that pages through a list or resumes a watch has this many writes of time:
    /// at 200 writes/s, 10,000 are 50 s, and a watch cache in front serves those who come later.
    pub revisions: u64,
    /// Bytes of replaced values kept, so that large objects cannot make the history large: 64 MiB.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { revisions: 10_000, bytes: 64 << 20 }
    }
}

/// Refuses values over [`MAX_VALUE_BYTES`].
fn check_size(op: &Op) -> Result<(), Error> {
    match op {
        Op::Put { value, .. } if value.len() > MAX_VALUE_BYTES => {
            Err(Error::TooLarge { size: value.len(), limit: MAX_VALUE_BYTES })
        }
        _ => Ok(()),
    }
}

/// Whether a store that is at `head` and has forgotten what was before `compacted` can be asked about `asked`.
fn check_revision(asked: Revision, head: Revision, compacted: Revision) -> Result<(), Error> {
    if asked > head {
        return Err(Error::FutureRevision { asked, head });
    }
    if asked < compacted {
        return Err(Error::Compacted { asked, oldest: compacted });
    }
    Ok(())
}

/// Whether `op` may happen to a key that holds `current`. Deleting what is not there is a conflict, so that every
/// commit that is answered has changed something.
fn check_expectation(current: Option<&Kv>, expect: Expect, op: &Op) -> Result<(), Error> {
    let holds = match (expect, current) {
        (Expect::Any, None) => !matches!(op, Op::Delete),
        (Expect::Any, Some(_)) | (Expect::Absent, None) => true,
        (Expect::ModRevision(revision), Some(kv)) => kv.mod_revision == revision,
        (Expect::Absent, Some(_)) | (Expect::ModRevision(_), None) => false,
    };
    if holds { Ok(()) } else { Err(Error::Conflict { current: current.cloned().map(Box::new) }) }
}

//! The embedded default: one redb file, one writer thread, group commit.
//!
//! ```text
//!   commit() ──► queue ──► writer thread: check expectations inside one transaction, apply up to BATCH writes,
//!                          trim history, commit (one fsync) ──► publish to watchers ──► answer everyone
//!   get(), list() ──► a read transaction of their own, never waiting for the writer; what may read much does so on
//!                     a thread that may block
//! ```
//! Tables: `current` key → record, `log` revision → undo entry, `expiry` (time, key), `meta` head and compacted.
mod open;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod writer;

pub use open::OpenError;

use crate::history::Undo;
use crate::hub::Hub;
use crate::{Clock, Committed, Error, Events, Expect, Kv, Op, Page, Retention, Revision, Store};
use async_trait::async_trait;
use parking_lot::RwLock;
use redb::{Database, ReadableDatabase, TableDefinition};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};
use writer::{Request, Writer};

const CURRENT: TableDefinition<&str, &[u8]> = TableDefinition::new("current");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const EXPIRY: TableDefinition<(u64, &str), ()> = TableDefinition::new("expiry");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Keys of `META`.
const HEAD: &str = "head";
const COMPACTED: &str = "compacted";
const LOG_BYTES: &str = "log_bytes";

/// The open file. `None` only while the writer opens it again after an I/O error.
type Shared = Arc<RwLock<Option<Database>>>;

/// See the module's text.
pub struct RedbStore {
    database: Shared,
    hub: Hub,
    writer: Writer,
    path: PathBuf,
    /// Holds the lock on the data for as long as the store lives.
    _lock: File,
}

fn damaged(e: impl std::fmt::Display) -> Error {
    Error::Damaged(e.to_string())
}

/// Tables of one read transaction.
struct Snapshot {
    current: redb::ReadOnlyTable<&'static str, &'static [u8]>,
    log: redb::ReadOnlyTable<u64, &'static [u8]>,
    head: Revision,
    compacted: Revision,
}

impl Snapshot {
    /// Takes a snapshot; fails rather than waits while the file is being opened again.
    fn of(shared: &Shared) -> Result<Self, Error> {
        let reopening = || Error::Unavailable("the file is being opened again".into());
        let guard = shared.try_read().ok_or_else(reopening)?;
        let txn = guard.as_ref().ok_or_else(reopening)?.begin_read().map_err(damaged)?;
        let meta = txn.open_table(META).map_err(damaged)?;
        let number = |key| Ok::<u64, Error>(meta.get(key).map_err(damaged)?.map_or(0, |v| v.value()));
        Ok(Self {
            current: txn.open_table(CURRENT).map_err(damaged)?,
            log: txn.open_table(LOG).map_err(damaged)?,
            head: number(HEAD)?,
            compacted: number(COMPACTED)?,
        })
    }

    fn check_revision(&self, asked: Revision) -> Result<(), Error> {
        crate::check_revision(asked, self.head, self.compacted)
    }

    fn current(&self, key: &str) -> Result<Option<Kv>, Error> {
        match self.current.get(key).map_err(damaged)? {
            Some(guard) => Ok(Some(record::decode(key, guard.value())?.0)),
            None => Ok(None),
        }
    }

    /// Undo entries, newest first.
    fn backwards(&self, after: Revision) -> Result<impl Iterator<Item = Result<Undo, Error>> + '_, Error> {
        let range = self.log.range(after + 1..).map_err(damaged)?;
        Ok(range.rev().map(|entry| {
            let (revision, bytes) = entry.map_err(damaged)?;
            record::decode_undo(revision.value(), bytes.value())
        }))
    }
}

impl RedbStore {
    /// Opens the store at `path`, making it if there is none.
    ///
    /// Errors: another process holds it (with that process's id), it is damaged (the file is left as it is), or
    /// the operating system refuses.
    pub fn open(path: &Path, clock: Clock, retention: Retention) -> Result<Self, OpenError> {
        let (database, lock) = open::open(path)?;
        let head = open::head(&database, path)?;
        let hub = Hub::starting_at(head);
        let database: Shared = Arc::new(RwLock::new(Some(database)));
        let writer = Writer::start(database.clone(), hub.clone(), path.to_owned(), clock, retention)
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { database, hub, writer, path: path.to_owned(), _lock: lock })
    }

    /// The file the state lies in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::of(&self.database)
    }

    /// Reads from a snapshot on a thread that may wait for the disk. A runtime of one thread reads at once: such a
    /// runtime is a test's.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(Snapshot) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return work(self.snapshot()?);
        }
        let database = self.database.clone();
        let read = tokio::task::spawn_blocking(move || work(Snapshot::of(&database)?));
        read.await.unwrap_or_else(|e| Err(Error::Unavailable(e.to_string())))
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn head(&self) -> Result<Revision, Error> {
        Ok(self.snapshot()?.head)
    }

    async fn compacted(&self) -> Result<Revision, Error> {
        Ok(self.snapshot()?.compacted)
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Kv>, Revision), Error> {
        let snapshot = self.snapshot()?;
        let Some(at) = at else { return Ok((snapshot.current(key)?, snapshot.head)) };
        drop(snapshot);
        let key = key.to_owned();
        self.read(move |snapshot| Ok((read::get_at(&snapshot, &key, at)?, at))).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.read(move |snapshot| read::list(&snapshot, &prefix, start_after.as_deref(), limit, at)).await
    }

    async fn commit(&self, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        crate::check_size(&op)?;
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.writer.submit(Request { key: key.to_owned(), expect, op, answer: Some(answer) })?;
        answered.await.unwrap_or_else(|_| Err(Error::Unavailable("the writer stopped".into())))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events, Error> {
        // Subscribing before the snapshot is taken: what is published between the two is in both, and the
        // replay stops at what was published before the subscription.
        let (published, live) = self.hub.subscribe(prefix);
        let prefix = prefix.to_owned();
        let replayed = self.read(move |snapshot| read::replay(&snapshot, &prefix, after, published)).await?;
        Ok(self.hub.stream(replayed, live, published.max(after)))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let head = self.snapshot()?.head;
        if revision > head {
            return Err(Error::FutureRevision { asked: revision, head });
        }
        self.writer.compact(revision).await
    }
}

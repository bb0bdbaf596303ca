//! The one thread that writes.
use super::{COMPACTED, CURRENT, EXPIRY, HEAD, LOG, LOG_BYTES, META, Shared, damaged, open, record};
use crate::hub::Hub;
use crate::{Clock, Committed, Error, Event, Expect, Kv, Op, Retention, Revision};
use redb::{Durability, ReadableDatabase, ReadableTable, WriteTransaction};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests that may wait. The API server admits a few hundred at a time; more than this is a fault.
const QUEUE: usize = 4096;

/// Writes in one commit, and their bytes: with 64 writers a commit holds about 34; 512 bound its latency (an fsync
/// plus 512 inserts, some 10 ms), 8 MiB the pages it dirties.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 8 << 20;

/// Free bytes below which writes are refused. A commit dirties its batch and the paths to it, twice over; redb can
/// only be opened again after a write has failed, so the disk must not get that far.
const RESERVE_BYTES: u64 = 4 * BATCH_BYTES as u64;

/// Expired keys are looked for this often while there are any, however busy the writer is.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Request {
    pub key: String,
    pub expect: Expect,
    pub op: Op,
    /// `None` for what the writer asks of itself.
    pub answer: Option<oneshot::Sender<Result<Committed, Error>>>,
}

enum Message {
    Commit(Request),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
}

pub(super) struct Writer {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        database: Shared,
        hub: Hub,
        path: PathBuf,
        clock: Clock,
        retention: Retention,
    ) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::sync_channel(QUEUE);
        let mut worker = Worker { database, hub, path, clock, retention, next_expiry: Some(0), looked: 0 };
        let thread =
            std::thread::Builder::new().name("store-writer".into()).spawn(move || worker.run(&requests))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        let queue = self.queue.as_ref().ok_or_else(|| Error::Unavailable("the writer stopped".into()))?;
        queue.try_send(message).map_err(|e| match e {
            TrySendError::Full(_) => Error::Unavailable(format!("{QUEUE} writes are waiting already")),
            TrySendError::Disconnected(_) => Error::Unavailable("the writer stopped".into()),
        })
    }

    pub(super) fn submit(&self, request: Request) -> Result<(), Error> {
        self.send(Message::Commit(request))
    }

    pub(super) async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Compact(revision, answer))?;
        answered.await.unwrap_or_else(|_| Err(Error::Unavailable("the writer stopped".into())))
    }
}

impl Drop for Writer {
    /// Waits for what was accepted to be written.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    database: Shared,
    hub: Hub,
    path: PathBuf,
    clock: Clock,
    retention: Retention,
    /// When the first key expires (milliseconds), as far as known; `None` when no key does.
    next_expiry: Option<u64>,
    /// When expired keys were last looked for (milliseconds).
    looked: u64,
}

impl Worker {
    fn run(&mut self, requests: &Receiver<Message>) {
        loop {
            let first = match self.next_expiry {
                None => requests.recv().ok(),
                Some(_) => match requests.recv_timeout(EXPIRY_INTERVAL) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => {
                        self.expire();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            let Some(first) = first else { return };
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Commit(request) => {
                        if let Op::Put { value, .. } = &request.op {
                            bytes += value.len();
                        }
                        batch.push(request);
                    }
                    Message::Compact(revision, answer) => {
                        let _ = answer.send(self.transaction(|txn| trim_to(txn, revision)));
                    }
                }
                if batch.len() < BATCH && bytes < BATCH_BYTES {
                    next = requests.try_recv().ok();
                }
            }
            self.commit(batch);
            let now = (self.clock)();
            let rested = now.saturating_sub(self.looked) >= EXPIRY_INTERVAL.as_millis() as u64;
            if rested && self.next_expiry.is_some_and(|at| at <= now) {
                self.expire();
            }
        }
    }

    /// Runs `body` in one durable transaction. After an I/O error the file is opened again, because redb refuses
    /// everything from then on.
    fn transaction<T>(&self, body: impl FnOnce(&WriteTransaction) -> Result<T, Error>) -> Result<T, Error> {
        check_space(&self.path)?;
        let result = {
            let guard = self.database.read();
            let database =
                guard.as_ref().ok_or_else(|| Error::Unavailable("the file could not be opened again".into()));
            database.and_then(|database| {
                let mut txn = database.begin_write().map_err(unavailable)?;
                txn.set_durability(Durability::Immediate).map_err(unavailable)?;
                let value = body(&txn)?;
                txn.commit().map_err(unavailable)?;
                Ok(value)
            })
        };
        if matches!(result, Err(Error::Unavailable(_) | Error::Damaged(_))) {
            self.reopen();
        }
        result
    }

    fn reopen(&self) {
        let mut guard = self.database.write();
        *guard = None;
        match open::open_file(&self.path) {
            Ok(database) => *guard = Some(database),
            Err(e) => {
                tracing::error!(error = %e, "the store cannot be opened again; the next write tries once more")
            }
        }
    }

    fn commit(&mut self, mut batch: Vec<Request>) {
        if batch.is_empty() {
            return;
        }
        if self.database.read().is_none() {
            self.reopen();
        }
        let (now, retention) = ((self.clock)(), self.retention);
        // Kept out of the transaction, so that everyone is answered however it ends.
        let answers: Vec<_> = batch.iter_mut().map(|request| request.answer.take()).collect();
        let mut first_expiry = self.next_expiry;
        let result = self.transaction(|txn| apply_all(txn, batch, now, &retention, &mut first_expiry));
        let outcomes = match result {
            Ok((outcomes, events)) => {
                self.next_expiry = first_expiry;
                self.hub.publish(&events);
                outcomes
            }
            Err(e) => {
                tracing::error!(error = %e, writes = answers.len(), "a commit failed");
                vec![Err(e); answers.len()]
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            if let Some(answer) = answer {
                let _ = answer.send(outcome);
            }
        }
    }

    /// Deletes keys whose time has come.
    fn expire(&mut self) {
        let now = (self.clock)();
        let due = || -> Result<Due, Error> {
            let guard = self.database.read();
            let Some(database) = guard.as_ref() else { return Ok((Vec::new(), Some(now))) };
            let txn = database.begin_read().map_err(damaged)?;
            let (expiry, current) =
                (txn.open_table(EXPIRY).map_err(damaged)?, txn.open_table(CURRENT).map_err(damaged)?);
            let mut due = Vec::new();
            for entry in expiry.iter().map_err(damaged)? {
                let (at_key, _) = entry.map_err(damaged)?;
                let (at, key) = at_key.value();
                if at > now || due.len() == BATCH {
                    return Ok((due, Some(at)));
                }
                if let Some(guard) = current.get(key).map_err(damaged)? {
                    due.push((key.to_owned(), record::decode(key, guard.value())?.0.mod_revision));
                }
            }
            Ok((due, None))
        };
        match due() {
            Ok((due, next)) => {
                self.next_expiry = next;
                // A full batch is rarely all: the next one follows the next commit.
                self.looked = if due.len() < BATCH { now } else { 0 };
                let requests = due.into_iter().map(|(key, revision)| Request {
                    key,
                    expect: Expect::ModRevision(revision),
                    op: Op::Delete,
                    answer: None,
                });
                self.commit(requests.collect());
            }
            Err(e) => tracing::error!(error = %e, "expired keys cannot be read"),
        }
    }
}

fn unavailable(e: impl Into<redb::Error>) -> Error {
    match e.into() {
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => Error::NoSpace(e.to_string()),
        e => Error::Unavailable(e.to_string()),
    }
}

/// Keys whose time has come with their revisions, and when the next one's comes.
type Due = (Vec<(String, Revision)>, Option<u64>);

/// The answer to each request, and what watchers are told.
type Applied = (Vec<Result<Committed, Error>>, Vec<Event>);

/// Applies each request whose expectation holds, in order; then trims history.
fn apply_all(
    txn: &WriteTransaction,
    batch: Vec<Request>,
    now: u64,
    retention: &Retention,
    first_expiry: &mut Option<u64>,
) -> Result<Applied, Error> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    let mut meta = txn.open_table(META).map_err(unavailable)?;
    let mut current = txn.open_table(CURRENT).map_err(unavailable)?;
    let mut log = txn.open_table(LOG).map_err(unavailable)?;
    let mut expiry = txn.open_table(EXPIRY).map_err(unavailable)?;
    let mut head = meta.get(HEAD).map_err(unavailable)?.map_or(0, |v| v.value());
    let mut log_bytes = meta.get(LOG_BYTES).map_err(unavailable)?.map_or(0, |v| v.value());
    for Request { key, expect, op, .. } in batch {
        let held = match current.get(key.as_str()).map_err(unavailable)? {
            Some(guard) => Some(record::decode(&key, guard.value())?),
            None => None,
        };
        let (previous, old_expiry) = match held {
            Some((kv, at)) => (Some(kv), at),
            None => (None, 0),
        };
        if let Err(conflict) = crate::check_expectation(previous.as_ref(), expect, &op) {
            outcomes.push(Err(conflict));
            continue;
        }
        head += 1;
        if old_expiry > 0 {
            expiry.remove((old_expiry, key.as_str())).map_err(unavailable)?;
        }
        let undo = record::encode_undo(&key, previous.as_ref());
        log_bytes += undo.len() as u64;
        log.insert(head, undo.as_slice()).map_err(unavailable)?;
        match op {
            Op::Put { value, ttl } => {
                let kv = Kv {
                    key: key.clone(),
                    value,
                    create_revision: previous.as_ref().map_or(head, |p| p.create_revision),
                    mod_revision: head,
                    version: previous.as_ref().map_or(1, |p| p.version + 1),
                };
                let at = ttl.map_or(0, |t| now.saturating_add(t.as_millis() as u64).max(1));
                if at > 0 {
                    expiry.insert((at, key.as_str()), ()).map_err(unavailable)?;
                    *first_expiry = Some(first_expiry.map_or(at, |first| first.min(at)));
                }
                current.insert(key.as_str(), record::encode(&kv, at).as_slice()).map_err(unavailable)?;
                events.push(Event::Put { kv, previous: previous.clone() });
            }
            Op::Delete => {
                current.remove(key.as_str()).map_err(unavailable)?;
                events.push(Event::Delete { key, revision: head, previous: previous.clone() });
            }
        }
        outcomes.push(Ok(Committed { revision: head, previous }));
    }
    let mut compacted = meta.get(COMPACTED).map_err(unavailable)?.map_or(0, |v| v.value());
    while head - compacted > retention.revisions || log_bytes > retention.bytes {
        let Some((revision, undo)) = log.pop_first().map_err(unavailable)? else { break };
        compacted = revision.value();
        log_bytes = log_bytes.saturating_sub(undo.value().len() as u64);
    }
    for (key, value) in [(HEAD, head), (LOG_BYTES, log_bytes), (COMPACTED, compacted)] {
        meta.insert(key, value).map_err(unavailable)?;
    }
    Ok((outcomes, events))
}

/// Forgets undo entries up to and with `revision`.
fn trim_to(txn: &WriteTransaction, revision: Revision) -> Result<(), Error> {
    let mut meta = txn.open_table(META).map_err(unavailable)?;
    let mut log = txn.open_table(LOG).map_err(unavailable)?;
    let number = |v: Option<redb::AccessGuard<'_, u64>>| v.map_or(0, |v| v.value());
    let mut log_bytes = number(meta.get(LOG_BYTES).map_err(unavailable)?);
    let compacted = number(meta.get(COMPACTED).map_err(unavailable)?);
    log.retain_in(..=revision, |_, undo| {
        log_bytes = log_bytes.saturating_sub(undo.len() as u64);
        false
    })
    .map_err(unavailable)?;
    meta.insert(LOG_BYTES, log_bytes).map_err(unavailable)?;
    meta.insert(COMPACTED, revision.max(compacted)).map_err(unavailable)?;
    Ok(())
}

/// Refuses writes while the disk is nearly full.
fn check_space(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let Ok(name) = CString::new(directory.as_os_str().as_bytes()) else { return Ok(()) };
    // SAFETY: `name` ends in a null byte and `stats` is plain data that statvfs fills in.
    let free = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(name.as_ptr(), &mut stats) != 0 {
            return Ok(());
        }
        stats.f_bavail as u64 * stats.f_frsize as u64
    };
    if free < RESERVE_BYTES {
        return Err(Error::NoSpace(format!(
            "{} has {} MiB free and {} MiB are kept in reserve: free some space",
            directory.display(),
            free >> 20,
            RESERVE_BYTES >> 20
        )));
    }
    Ok(())
}

//! Buckets on this node: one redb file for each namespace.
//!
//! Invariant: what a namespace keeps never exceeds its quota, and what was answered is on the disk. Writes of all guests
//! of a namespace that wait at the same time are one commit. A file is open only while a container that may use it
//! lives and has used it.
use super::{Bucket, Page, Refused};
use crate::limits::{KEYVALUE_CACHE_BYTES, MAX_BATCH_BYTES, MAX_NAMESPACE_KEYS, PAGE_KEYS};
use async_trait::async_trait;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use shim::Error;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Of the files.
const SUFFIX: &str = ".redb";
/// Bucket and key to value.
const PAIRS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pairs");
/// `bytes` and `keys` of the whole namespace.
const USED: TableDefinition<'_, &str, u64> = TableDefinition::new("used");

/// All namespaces' files.
pub(super) struct Databases {
    dir: PathBuf,
    max_bytes: u64,
    /// As many as there were namespaces with buckets since the start and are not gone, a few hundred bytes each.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// One namespace's file and those who wait to write to it.
struct Slot {
    path: PathBuf,
    max_bytes: u64,
    open: Mutex<Open>,
    waiting: Mutex<Vec<Write>>,
    /// Held by whoever commits what waits.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Open {
    leases: usize,
    database: Option<Arc<Database>>,
}

/// While one lives, the file may be open.
struct Lease(Arc<Slot>);

impl Drop for Lease {
    fn drop(&mut self) {
        let mut open = self.0.open.lock();
        open.leases -= 1;
        if open.leases == 0 {
            // Closed under the lock, so that nobody opens a file that is just being closed.
            open.database = None;
        }
    }
}

struct Write {
    bucket: String,
    change: Change,
    answer: oneshot::Sender<Result<i64, Refused>>,
}

enum Change {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
    /// Answers the sum.
    Increment(String, i64),
    /// Answers 1 if it was swapped.
    Swap {
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    },
}

impl Databases {
    pub(super) fn new(dir: PathBuf, max_bytes: u64) -> Self {
        Self { dir, max_bytes, slots: Mutex::default() }
    }

    /// A bucket of a namespace; nothing is opened yet.
    pub(super) fn bucket(&self, namespace: &str, name: &str) -> Result<EmbeddedBucket, String> {
        let file = file_of(namespace)?;
        let mut slots = self.slots.lock();
        let slot = slots.entry(namespace.to_owned()).or_insert_with(|| {
            Arc::new(Slot {
                path: self.dir.join(file),
                max_bytes: self.max_bytes,
                open: Mutex::default(),
                waiting: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            })
        });
        slot.open.lock().leases += 1;
        Ok(EmbeddedBucket { lease: Arc::new(Lease(slot.clone())), name: name.to_owned() })
    }

    /// Removes a namespace's file, if no container may use it.
    pub(super) fn forget(&self, namespace: &str) -> Result<(), Error> {
        let path = self.dir.join(file_of(namespace).map_err(Error::InvalidSpec)?);
        // Under the lock, so that no bucket is given out meanwhile.
        let mut slots = self.slots.lock();
        if slots.get(namespace).is_some_and(|slot| slot.open.lock().leases > 0) {
            return Err(Error::Unavailable(format!(
                "containers of namespace {namespace} may use its buckets"
            )));
        }
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Unavailable(format!("removing {}: {e}", path.display())))
            }
            _ => {
                slots.remove(namespace);
                Ok(())
            }
        }
    }
}

/// The name of a namespace's file: nothing that leads elsewhere.
fn file_of(namespace: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if namespace.is_empty() || namespace.len() > 63 || !namespace.chars().all(allowed) {
        return Err(format!("{namespace:?} is no name of a namespace"));
    }
    Ok(format!("{namespace}{SUFFIX}"))
}

/// Namespaces that have a file in `dir`. Blocks.
pub(crate) fn kept_namespaces(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::Unavailable(format!("reading {}: {e}", dir.display()))),
    };
    let mut all: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(SUFFIX)?.to_owned()))
        .collect();
    all.sort_unstable();
    Ok(all)
}

fn failed(error: impl std::fmt::Display) -> Refused {
    tracing::warn!(%error, "a key-value store of this node failed");
    Refused::Other("the store of this node failed; its runtime's log says why".to_owned())
}

impl Slot {
    /// The open database. Blocks.
    fn database(&self) -> Result<Arc<Database>, Refused> {
        let mut open = self.open.lock();
        if let Some(database) = &open.database {
            return Ok(database.clone());
        }
        let made = || -> Result<Database, redb::Error> {
            if let Some(dir) = self.path.parent() {
                crate::sealed::ensure_private_dir(dir).map_err(|e| std::io::Error::other(e.to_string()))?;
            }
            let database = Database::builder().set_cache_size(KEYVALUE_CACHE_BYTES).create(&self.path)?;
            let transaction = database.begin_write()?;
            transaction.open_table(PAIRS)?;
            transaction.open_table(USED)?;
            transaction.commit()?;
            Ok(database)
        };
        let database = Arc::new(made().map_err(failed)?);
        open.database = Some(database.clone());
        Ok(database)
    }

    /// Writes what waits in one commit and answers. Blocks.
    fn commit(&self, batch: Vec<Write>) {
        let written =
            self.database().and_then(|database| apply(&database, &batch, self.max_bytes).map_err(failed));
        match written {
            Ok(answers) => {
                for (write, answer) in batch.into_iter().zip(answers) {
                    let _ = write.answer.send(answer);
                }
            }
            Err(refused) => {
                for write in batch {
                    let _ = write.answer.send(Err(refused.clone()));
                }
            }
        }
    }
}

/// What a namespace holds.
#[derive(Clone, Copy)]
struct Used {
    bytes: u64,
    keys: u64,
    max_bytes: u64,
}

type Pairs<'a> = Table<'a, (&'static str, &'static str), &'static [u8]>;

impl Used {
    /// What it would hold with `value` at `key` (`None`: without that key).
    fn with(
        self,
        pairs: &Pairs<'_>,
        bucket: &str,
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<Self, redb::Error> {
        let names = (bucket.len() + key.len()) as u64;
        let mut after = self;
        if let Some(old) = pairs.get((bucket, key))? {
            after.bytes = after.bytes.saturating_sub(names + old.value().len() as u64);
            after.keys = after.keys.saturating_sub(1);
        }
        if let Some(value) = value {
            after.bytes += names + value.len() as u64;
            after.keys += 1;
        }
        Ok(after)
    }

    /// Whether a step from `before` to here is permitted: one that makes it smaller always is.
    fn permitted(self, before: Self) -> Result<(), Refused> {
        if self.bytes > self.max_bytes && self.bytes > before.bytes {
            return Err(Refused::Other(format!(
                "the quota of {} bytes for the key-value stores of this namespace on this node is used up",
                self.max_bytes
            )));
        }
        if self.keys > MAX_NAMESPACE_KEYS && self.keys > before.keys {
            return Err(Refused::Other(format!(
                "the quota of {MAX_NAMESPACE_KEYS} keys for the key-value stores of this namespace on this node is used up"
            )));
        }
        Ok(())
    }
}

fn apply(
    database: &Database,
    batch: &[Write],
    max_bytes: u64,
) -> Result<Vec<Result<i64, Refused>>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut answers = Vec::with_capacity(batch.len());
    {
        let mut pairs = transaction.open_table(PAIRS)?;
        let mut totals = transaction.open_table(USED)?;
        let total =
            |name| -> Result<u64, redb::Error> { Ok(totals.get(name)?.map_or(0, |held| held.value())) };
        let mut used = Used { bytes: total("bytes")?, keys: total("keys")?, max_bytes };
        for write in batch {
            answers.push(apply_one(&mut pairs, &mut used, &write.bucket, &write.change)?);
        }
        totals.insert("bytes", used.bytes)?;
        totals.insert("keys", used.keys)?;
    }
    transaction.commit()?;
    Ok(answers)
}

fn put(
    pairs: &mut Pairs<'_>,
    used: &mut Used,
    bucket: &str,
    key: &str,
    value: &[u8],
) -> Result<Result<(), Refused>, redb::Error> {
    let after = used.with(pairs, bucket, key, Some(value))?;
    if let Err(refused) = after.permitted(*used) {
        return Ok(Err(refused));
    }
    pairs.insert((bucket, key), value)?;
    *used = after;
    Ok(Ok(()))
}

fn apply_one(
    pairs: &mut Pairs<'_>,
    used: &mut Used,
    bucket: &str,
    change: &Change,
) -> Result<Result<i64, Refused>, redb::Error> {
    match change {
        Change::Set(all) => {
            // wasi:keyvalue lets a batch be done in part.
            for (key, value) in all {
                if let Err(refused) = put(pairs, used, bucket, key, value)? {
                    return Ok(Err(refused));
                }
            }
            Ok(Ok(0))
        }
        Change::Delete(keys) => {
            for key in keys {
                *used = used.with(pairs, bucket, key, None)?;
                pairs.remove((bucket, key.as_str()))?;
            }
            Ok(Ok(0))
        }
        Change::Increment(key, delta) => {
            let text = pairs.get((bucket, key.as_str()))?.map(|held| held.value().to_vec());
            let sum = match plan_increment(key, text.as_deref(), *delta) {
                Ok(sum) => sum,
                Err(refused) => return Ok(Err(refused)),
            };
            Ok(put(pairs, used, bucket, key, sum.to_string().as_bytes())?.map(|()| sum))
        }
        Change::Swap { key, expected, value } => {
            let held = pairs.get((bucket, key.as_str()))?.map(|held| held.value().to_vec());
            if held != *expected {
                return Ok(Ok(0));
            }
            Ok(put(pairs, used, bucket, key, value)?.map(|()| 1))
        }
    }
}

fn plan_increment(key: &str, held: Option<&[u8]>, delta: i64) -> Result<i64, Refused> {
    let number = match held {
        None => Some(0),
        Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()),
    };
    let number =
        number.ok_or_else(|| Refused::Other(format!("the value of {key:?} is not a whole number")))?;
    number
        .checked_add(delta)
        .ok_or_else(|| Refused::Other(format!("adding {delta} to the value of {key:?} would overflow")))
}

/// A bucket of this node.
pub(super) struct EmbeddedBucket {
    lease: Arc<Lease>,
    name: String,
}

impl EmbeddedBucket {
    async fn write(&self, change: Change) -> Result<i64, Refused> {
        let slot = &self.lease.0;
        let (answer, mut answered) = oneshot::channel();
        slot.waiting.lock().push(Write { bucket: self.name.clone(), change, answer });
        let turn = slot.turn.lock().await;
        // Whoever had the turn before may have written this too.
        if let Ok(answer) = answered.try_recv() {
            return answer;
        }
        let batch = std::mem::take(&mut *slot.waiting.lock());
        let lease = self.lease.clone();
        // It runs to its end even if this guest is killed meanwhile: others' writes are in it.
        let committed = tokio::task::spawn_blocking(move || lease.0.commit(batch)).await;
        drop(turn);
        committed.map_err(failed)?;
        answered.await.unwrap_or_else(|e| Err(failed(e)))
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, Refused> {
        let (lease, name) = (self.lease.clone(), self.name.clone());
        let done = tokio::task::spawn_blocking(move || {
            let database = lease.0.database()?;
            let table = || Ok(database.begin_read()?.open_table(PAIRS)?);
            let table = table().map_err(|e: redb::Error| failed(e))?;
            read(&Reader { table: &table, bucket: &name }).map_err(failed)
        });
        done.await.unwrap_or_else(|e| Err(failed(e)))
    }
}

struct Reader<'a> {
    table: &'a redb::ReadOnlyTable<(&'static str, &'static str), &'static [u8]>,
    bucket: &'a str,
}

#[async_trait]
impl Bucket for EmbeddedBucket {
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, Refused> {
        let read = move |reader: &Reader<'_>| {
            let mut total = 0;
            let mut values = Vec::with_capacity(keys.len());
            for key in &keys {
                let value =
                    reader.table.get((reader.bucket, key.as_str()))?.map(|held| held.value().to_vec());
                total += value.as_ref().map_or(0, Vec::len);
                if total > MAX_BATCH_BYTES {
                    return Ok(None);
                }
                values.push(value);
            }
            Ok(Some(values))
        };
        self.read(read).await?.ok_or_else(super::redis::too_much)
    }

    async fn exists(&self, key: String) -> Result<bool, Refused> {
        self.read(move |reader| Ok(reader.table.get((reader.bucket, key.as_str()))?.is_some())).await
    }

    async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Refused> {
        self.write(Change::Set(pairs)).await.map(|_| ())
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), Refused> {
        self.write(Change::Delete(keys)).await.map(|_| ())
    }

    async fn increment(&self, key: String, delta: i64) -> Result<i64, Refused> {
        self.write(Change::Increment(key, delta)).await
    }

    async fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Result<bool, Refused> {
        self.write(Change::Swap { key, expected, value }).await.map(|swapped| swapped == 1)
    }

    async fn list(&self, cursor: u64) -> Result<Page, Refused> {
        let read = move |reader: &Reader<'_>| {
            let from = reader.table.range((reader.bucket, "")..)?;
            let skip = usize::try_from(cursor).unwrap_or(usize::MAX);
            let mut keys = Vec::new();
            let mut more = false;
            for (number, entry) in from.enumerate() {
                let (name, _) = entry?;
                let (bucket, key) = name.value();
                if bucket != reader.bucket {
                    break;
                }
                if number < skip {
                    continue;
                }
                if keys.len() == PAGE_KEYS {
                    more = true;
                    break;
                }
                keys.push(key.to_owned());
            }
            let next = more.then(|| cursor.saturating_add(PAGE_KEYS as u64));
            Ok((keys, next))
        };
        self.read(read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases(dir: &std::path::Path, max_bytes: u64) -> Databases {
        Databases::new(dir.join("keyvalue"), max_bytes)
    }

    #[tokio::test]
    async fn a_namespace_is_forgotten_when_no_container_may_use_its_buckets() {
        let dir = tempfile::tempdir().unwrap();
        let all = databases(dir.path(), 1000);
        let kept = || kept_namespaces(&dir.path().join("keyvalue")).unwrap();
        assert!(kept().is_empty());
        all.forget("shop").unwrap();
        let bucket = all.bucket("shop", "a").unwrap();
        bucket.set(pair("k", "v")).await.unwrap();
        all.bucket("other", "a").unwrap().set(pair("k", "v")).await.unwrap();
        assert_eq!(kept(), ["other", "shop"]);
        assert!(all.forget("shop").unwrap_err().to_string().contains("may use its buckets"));
        drop(bucket);
        all.forget("shop").unwrap();
        assert_eq!(kept(), ["other"]);
        let again = all.bucket("shop", "a").unwrap();
        assert!(!again.exists("k".into()).await.unwrap(), "one of the same name begins anew");
        for name in ["", "..", "a/b", "../other"] {
            assert!(all.forget(name).is_err(), "{name}");
        }
    }

    fn pair(key: &str, value: &str) -> Vec<(String, Vec<u8>)> {
        vec![(key.to_owned(), value.as_bytes().to_vec())]
    }

    #[tokio::test]
    async fn what_was_set_is_there_for_the_namespace_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let all = databases(dir.path(), 1000);
        let shop = all.bucket("shop", "default").unwrap();
        shop.set(pair("k", "v")).await.unwrap();
        let same = all.bucket("shop", "default").unwrap();
        assert_eq!(same.get(vec!["k".into()]).await.unwrap(), [Some(b"v".to_vec())]);
        for other in [all.bucket("shop", "other").unwrap(), all.bucket("bank", "default").unwrap()] {
            assert_eq!(other.get(vec!["k".into()]).await.unwrap(), [None]);
            assert!(other.list(0).await.unwrap().0.is_empty());
        }
        // All leases gone: the file is closed, and another store may open it.
        drop((shop, same));
        let next = databases(dir.path(), 1000).bucket("shop", "default").unwrap();
        assert!(next.exists("k".into()).await.unwrap());
        next.delete(vec!["k".into()]).await.unwrap();
        assert!(!next.exists("k".into()).await.unwrap());
        assert!(all.bucket("../x", "default").is_err());
    }

    #[tokio::test]
    async fn a_namespace_beyond_its_quota_may_only_shrink() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = databases(dir.path(), 40).bucket("shop", "b").unwrap();
        bucket.set(pair("one", "0123456789")).await.unwrap();
        bucket.set(pair("two", "0123456789")).await.unwrap();
        let refused = bucket.set(pair("three", "0123456789")).await.unwrap_err();
        assert!(
            matches!(&refused, Refused::Other(text) if text.contains("quota of 40 bytes")),
            "{refused:?}"
        );
        bucket.set(pair("two", "01")).await.unwrap();
        bucket.delete(vec!["one".into()]).await.unwrap();
        bucket.set(pair("three", "0123456789")).await.unwrap();
        assert_eq!(bucket.list(0).await.unwrap(), (vec!["three".into(), "two".into()], None));
    }

    #[tokio::test]
    async fn counting_and_swapping_are_atomic() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Arc::new(databases(dir.path(), 1000).bucket("shop", "b").unwrap());
        let counting = (0..50).map(|_| {
            let bucket = bucket.clone();
            async move { bucket.increment("n".into(), 2).await.unwrap() }
        });
        let mut sums = futures::future::join_all(counting).await;
        sums.sort_unstable();
        assert_eq!(sums, (1..=50).map(|n| n * 2).collect::<Vec<i64>>());
        assert!(bucket.swap("n".into(), Some(b"100".to_vec()), b"x".to_vec()).await.unwrap());
        assert!(!bucket.swap("n".into(), Some(b"100".to_vec()), b"y".to_vec()).await.unwrap());
        assert!(bucket.increment("n".into(), 1).await.is_err(), "x is no number");
        assert!(bucket.swap("new".into(), None, b"1".to_vec()).await.unwrap());
    }

    #[tokio::test]
    async fn keys_come_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = databases(dir.path(), 1 << 20).bucket("shop", "b").unwrap();
        let count = PAGE_KEYS + 5;
        let pairs = (0..count).map(|n| (format!("{n:06}"), Vec::new())).collect();
        bucket.set(pairs).await.unwrap();
        let (first, next) = bucket.list(0).await.unwrap();
        let (rest, end) = bucket.list(next.unwrap()).await.unwrap();
        assert_eq!((first.len(), rest.len(), end), (PAGE_KEYS, 5, None));
        assert!(bucket.list(u64::MAX).await.unwrap().0.is_empty());
    }
}

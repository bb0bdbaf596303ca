//! `wasi:keyvalue`: buckets that outlive instances and containers.
//!
//! The pod names its buckets: `keyvalue.dhow.dev/<container>: default, sessions=redis://redis.shop:6379/0`. A name
//! alone is a bucket in this node's own database, one for each namespace, which all containers of the namespace share
//! and no other can name. A `redis://` URL is a bucket in a Redis, reached as the guest itself would reach it; `@` and
//! a path instead takes the URL from a file of a mounted Secret (`sessions=@/etc/redis/url`).
//!
//! ```text
//!   guest ─► bindings (0.2.0-draft, 0.2.0-draft2) ─► Access ─► trait Bucket ─┬─ embedded: redb, group commit
//!                                                      limits of one call    └─ redis: one connection a bucket
//! ```
mod bindings;
mod embedded;
mod redis;

use super::{Access, Capability, Granted, Wanted, beneath};
use crate::guest::ComponentState;
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_KEYS, MAX_BUCKETS, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use async_trait::async_trait;
use embedded::Databases;
pub(crate) use embedded::kept_namespaces;
use redis::RedisBucket;
use shim::Error;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::component::{Linker, Resource};

/// What `wasi:keyvalue/store` calls an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    NoSuchStore,
    Other(String),
}

impl From<wasmtime::component::ResourceTableError> for Refused {
    fn from(error: wasmtime::component::ResourceTableError) -> Self {
        Self::Other(error.to_string())
    }
}

/// One page of keys and where the next begins.
type Page = (Vec<String>, Option<u64>);

/// A place for pairs of keys and values. What reaches it keeps to the limits of one call.
#[async_trait]
trait Bucket: Send + Sync {
    /// The values of keys, in order; `None` where there is none. More than [`MAX_BATCH_BYTES`] in all are refused.
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, Refused>;
    async fn exists(&self, key: String) -> Result<bool, Refused>;
    async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Refused>;
    async fn delete(&self, keys: Vec<String>) -> Result<(), Refused>;
    /// Adds to a decimal number, which starts at 0, and gives the sum.
    async fn increment(&self, key: String, delta: i64) -> Result<i64, Refused>;
    /// Sets `key` if its value is still `expected`; says whether it was.
    async fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Result<bool, Refused>;
    async fn list(&self, cursor: u64) -> Result<Page, Refused>;
}

/// A bucket as a guest holds it.
pub struct Handle(Arc<dyn Bucket>);

/// Compare-and-swap: what a key held when the guest looked.
pub struct Cas {
    bucket: Arc<dyn Bucket>,
    key: String,
    seen: Option<Vec<u8>>,
}

/// The buckets of one container.
pub(crate) struct Buckets(BTreeMap<String, Arc<dyn Bucket>>);

pub(crate) struct KeyValue {
    databases: Databases,
}

impl KeyValue {
    pub(crate) fn new(dir: PathBuf, max_bytes: u64) -> Self {
        Self { databases: Databases::new(dir, max_bytes) }
    }
}

impl Capability for KeyValue {
    fn imports(&self) -> &'static [&'static str] {
        &[
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:keyvalue/atomics@0.2.0-draft",
            "wasi:keyvalue/batch@0.2.0-draft",
            "wasi:keyvalue/store@0.2.0-draft2",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "wasi:keyvalue/batch@0.2.0-draft2",
        ]
    }

    fn link(&self, linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
        bindings::link(linker)
    }

    fn grant(&self, wanted: &Wanted<'_>, granted: &mut Granted) -> Result<(), Error> {
        let (key, value) = wanted.annotation("keyvalue");
        let Some(value) = value else {
            return Err(wanted.invalid(format_args!(
                "the component imports wasi:keyvalue, and the pod gives it no bucket; annotate the pod with {key}: \
                 default"
            )));
        };
        let invalid = |why: String| wanted.invalid(format_args!("annotation {key}: {why}"));
        let mut buckets: BTreeMap<String, Arc<dyn Bucket>> = BTreeMap::new();
        for entry in value.split(',') {
            let (name, url) = parse_entry(entry).map_err(invalid)?;
            let bucket: Arc<dyn Bucket> = match url {
                None => Arc::new(self.databases.bucket(wanted.namespace, name).map_err(invalid)?),
                Some(url) => {
                    let url = resolve_url(wanted, url).map_err(invalid)?;
                    let (outbound, executor) = (wanted.outbound.clone(), wanted.executor.clone());
                    Arc::new(RedisBucket::new(name, &url, outbound, executor).map_err(invalid)?)
                }
            };
            if buckets.insert(name.to_owned(), bucket).is_some() {
                return Err(invalid(format!("bucket {name} is named twice")));
            }
        }
        if buckets.len() > MAX_BUCKETS {
            return Err(invalid(format!("{} buckets are more than {MAX_BUCKETS}", buckets.len())));
        }
        granted.keyvalue = Some(Buckets(buckets));
        Ok(())
    }

    fn forget_namespace(&self, namespace: &str) -> Result<(), Error> {
        self.databases.forget(namespace)
    }
}

/// `name` or `name=url`.
fn parse_entry(entry: &str) -> Result<(&str, Option<&str>), String> {
    let (name, url) = match entry.split_once('=') {
        Some((name, url)) => (name.trim(), Some(url.trim())),
        None => (entry.trim(), None),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is no name of a bucket (letters, digits, dashes, dots; at most 63); write default, or \
             sessions=redis://HOST:PORT"
        ));
    }
    Ok((name, url))
}

/// The URL itself, or what the file of a mounted volume says.
fn resolve_url(wanted: &Wanted<'_>, url: &str) -> Result<String, String> {
    let Some(path) = url.strip_prefix('@') else { return Ok(url.to_owned()) };
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    let mount = wanted.mount_at(directory).ok_or_else(|| {
        format!("{path:?} lies in no volume of the container; mount the Secret with the URL at {directory:?}")
    })?;
    let bytes =
        beneath::read(&mount.source(), file, MAX_KEY_BYTES as u64).map_err(|e| format!("{path}: {e}"))?;
    let bytes = bytes.ok_or_else(|| format!("{path:?} does not exist in its volume"))?;
    String::from_utf8(bytes)
        .map(|text| text.trim().to_owned())
        .map_err(|_| format!("{path:?} is not UTF-8 text"))
}

fn check_key(key: &str) -> Result<(), Refused> {
    if key.len() > MAX_KEY_BYTES {
        return Err(Refused::Other(format!("a key of {} bytes is longer than {MAX_KEY_BYTES}", key.len())));
    }
    Ok(())
}

fn check_keys(keys: &[String]) -> Result<(), Refused> {
    if keys.len() > MAX_BATCH_KEYS {
        return Err(Refused::Other(format!(
            "{} keys in one call are more than {MAX_BATCH_KEYS}",
            keys.len()
        )));
    }
    keys.iter().try_for_each(|key| check_key(key))
}

fn check_pairs(pairs: &[(String, Vec<u8>)]) -> Result<(), Refused> {
    if pairs.len() > MAX_BATCH_KEYS {
        return Err(Refused::Other(format!(
            "{} keys in one call are more than {MAX_BATCH_KEYS}",
            pairs.len()
        )));
    }
    let mut total = 0;
    for (key, value) in pairs {
        check_key(key)?;
        if value.len() > MAX_VALUE_BYTES {
            let length = value.len();
            return Err(Refused::Other(format!(
                "a value of {length} bytes is longer than {MAX_VALUE_BYTES}"
            )));
        }
        total += key.len() + value.len();
    }
    if total > MAX_BATCH_BYTES {
        return Err(Refused::Other(format!("{total} bytes in one call are more than {MAX_BATCH_BYTES}")));
    }
    Ok(())
}

/// What both versions of the interface do.
impl Access<'_> {
    fn open_bucket(&mut self, identifier: &str) -> Result<Resource<Handle>, Refused> {
        // Guests written for hosts with one bucket give it no name.
        let name = if identifier.is_empty() { "default" } else { identifier };
        let buckets = self.granted.keyvalue.as_ref().ok_or(Refused::NoSuchStore)?;
        let bucket = buckets.0.get(name).ok_or(Refused::NoSuchStore)?.clone();
        Ok(self.table.push(Handle(bucket))?)
    }

    fn bucket(&self, handle: &Resource<Handle>) -> Result<Arc<dyn Bucket>, Refused> {
        Ok(self.table.get(handle)?.0.clone())
    }

    async fn get_pairs(
        &mut self,
        bucket: &Resource<Handle>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Refused> {
        check_keys(&keys)?;
        let values = self.bucket(bucket)?.get(keys.clone()).await?;
        Ok(keys.into_iter().zip(values).map(|(key, value)| Some((key, value?))).collect())
    }

    async fn get_value(
        &mut self,
        bucket: &Resource<Handle>,
        key: String,
    ) -> Result<Option<Vec<u8>>, Refused> {
        check_key(&key)?;
        Ok(self.bucket(bucket)?.get(vec![key]).await?.pop().flatten())
    }

    async fn set_pairs(
        &mut self,
        bucket: &Resource<Handle>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Refused> {
        check_pairs(&pairs)?;
        self.bucket(bucket)?.set(pairs).await
    }

    async fn delete_keys(&mut self, bucket: &Resource<Handle>, keys: Vec<String>) -> Result<(), Refused> {
        check_keys(&keys)?;
        self.bucket(bucket)?.delete(keys).await
    }

    async fn has_key(&mut self, bucket: &Resource<Handle>, key: String) -> Result<bool, Refused> {
        check_key(&key)?;
        self.bucket(bucket)?.exists(key).await
    }

    async fn increment_key(
        &mut self,
        bucket: &Resource<Handle>,
        key: String,
        delta: i64,
    ) -> Result<i64, Refused> {
        check_key(&key)?;
        self.bucket(bucket)?.increment(key, delta).await
    }

    async fn new_cas(&mut self, bucket: &Resource<Handle>, key: String) -> Result<Resource<Cas>, Refused> {
        check_key(&key)?;
        let bucket = self.bucket(bucket)?;
        let seen = bucket.get(vec![key.clone()]).await?.pop().flatten();
        Ok(self.table.push(Cas { bucket, key, seen })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_names_with_or_without_a_url() {
        assert_eq!(parse_entry(" default ").unwrap(), ("default", None));
        assert_eq!(parse_entry("a=redis://h:1/2?x=y").unwrap(), ("a", Some("redis://h:1/2?x=y")));
        for bad in ["", "a b", "../x", "=redis://h"] {
            assert!(parse_entry(bad).unwrap_err().contains("no name of a bucket"), "{bad}");
        }
    }

    #[test]
    fn a_call_beyond_its_limits_is_refused_with_the_figures() {
        let said = |result: Result<(), Refused>| match result.unwrap_err() {
            Refused::Other(text) => text,
            other => panic!("{other:?}"),
        };
        let key = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(said(check_key(&key)).contains("is longer than 1024"));
        let large = vec![("k".to_owned(), vec![0; MAX_VALUE_BYTES + 1])];
        assert!(said(check_pairs(&large)).contains("is longer than 1048576"));
        let many = vec![String::new(); MAX_BATCH_KEYS + 1];
        assert!(said(check_keys(&many)).contains("1001 keys in one call"));
        let heavy = vec![("k".to_owned(), vec![0; MAX_VALUE_BYTES]); 9];
        assert!(said(check_pairs(&heavy)).contains("bytes in one call"));
    }
}

//! What is read from a snapshot: a key in the past, a page of a list, the events of a watch.
use super::{Snapshot, damaged, record};
use crate::history::{self, Replay};
use crate::{Error, Kv, Page, Revision};

/// What a key held at `at`.
pub(super) fn get_at(snapshot: &Snapshot, key: &str, at: Revision) -> Result<Option<Kv>, Error> {
    snapshot.check_revision(at)?;
    match history::overlay(snapshot.backwards(at)?, key, at)?.remove(key) {
        Some(then) => Ok(then),
        None => snapshot.current(key),
    }
}

/// See [`Store::list`](crate::Store::list).
pub(super) fn list(
    snapshot: &Snapshot,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
    at: Option<Revision>,
) -> Result<Page, Error> {
    let revision = at.unwrap_or(snapshot.head);
    snapshot.check_revision(revision)?;
    let mut overlay = history::overlay(snapshot.backwards(revision)?, prefix, revision)?;
    let mut page =
        Filling { kvs: Vec::new(), remaining: 0, limit: if limit == 0 { usize::MAX } else { limit } };
    let wanted = |key: &str| start_after.is_none_or(|s| key > s);
    let first = start_after.filter(|s| *s > prefix).unwrap_or(prefix);
    for entry in snapshot.current.range(first..).map_err(damaged)? {
        let (key, bytes) = entry.map_err(damaged)?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        // Keys that were deleted since sort in between.
        while let Some(gone) = overlay.first_entry()
            && gone.key().as_str() < key
        {
            let (gone_key, then) = gone.remove_entry();
            if let Some(kv) = then.filter(|_| wanted(&gone_key)) {
                page.take(|| Ok(kv))?;
            }
        }
        match overlay.remove(key) {
            Some(Some(kv)) if wanted(key) => page.take(|| Ok(kv))?,
            None if wanted(key) => page.take(|| Ok(record::decode(key, bytes.value())?.0))?,
            _ => {}
        }
    }
    for (key, then) in overlay {
        if let Some(kv) = then.filter(|_| wanted(&key)) {
            page.take(|| Ok(kv))?;
        }
    }
    Ok(Page { kvs: page.kvs, remaining: page.remaining, revision })
}

/// A page that takes what comes until it is full, and only counts the rest.
struct Filling {
    kvs: Vec<Kv>,
    remaining: u64,
    limit: usize,
}

impl Filling {
    fn take(&mut self, kv: impl FnOnce() -> Result<Kv, Error>) -> Result<(), Error> {
        if self.kvs.len() < self.limit {
            self.kvs.push(kv()?);
        } else {
            self.remaining += 1;
        }
        Ok(())
    }
}

/// The events of `prefix` in `(after, until]`.
pub(super) fn replay(
    snapshot: &Snapshot,
    prefix: &str,
    after: Revision,
    until: Revision,
) -> Result<Replay, Error> {
    snapshot.check_revision(after)?;
    history::replay(snapshot.backwards(after)?, |key| snapshot.current(key), prefix, after, until)
}

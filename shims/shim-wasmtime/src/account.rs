//! Memory: one account for a container, one limiter for each of its stores.
//!
//! Invariant: the bytes of all memories and tables of all live stores of a container never exceed its limit.
//! A guest that asks for more is ended, as the kernel ends a process beyond its cgroup's limit; a guest that asks
//! for more than its own memory declares gets WebAssembly's ordinary -1.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::ResourceLimiter;

/// What a table's element takes in wasmtime.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// Why a guest was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory limit exceeded: {used} bytes in use, {asked} more asked for, the limit is {limit} bytes")]
pub(crate) struct MemoryExceeded {
    pub(crate) used: u64,
    pub(crate) asked: u64,
    pub(crate) limit: u64,
}

/// The bytes a container uses and may use.
pub(crate) struct Account {
    limit: u64,
    used: AtomicU64,
}

impl Account {
    pub(crate) fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { limit: limit.unwrap_or(u64::MAX), used: AtomicU64::new(0) })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    fn take(&self, asked: u64) -> Result<(), MemoryExceeded> {
        self.used
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(asked).filter(|sum| *sum <= self.limit))
            .map(|_| ())
            .map_err(|used| MemoryExceeded { used, asked, limit: self.limit })
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// The share of one store; given back when the store goes.
pub(crate) struct StoreLimiter {
    account: Arc<Account>,
    held: u64,
    /// What the last permitted growth took, until it is known to have happened.
    last: u64,
}

impl StoreLimiter {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self { account, held: 0, last: 0 }
    }

    fn grow(&mut self, bytes: u64) -> Result<(), MemoryExceeded> {
        self.account.take(bytes)?;
        self.held += bytes;
        self.last = bytes;
        Ok(())
    }

    fn undo(&mut self) {
        self.account.give_back(self.last);
        self.held -= self.last;
        self.last = 0;
    }
}

impl Drop for StoreLimiter {
    fn drop(&mut self) {
        self.account.give_back(self.held);
    }
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64)?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64 * TABLE_ELEMENT_BYTES)?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_stores_of_a_container_share_its_limit_and_give_back_what_they_held() {
        let account = Account::new(Some(100));
        let mut one = StoreLimiter::new(account.clone());
        let mut two = StoreLimiter::new(account.clone());
        one.grow(60).unwrap();
        assert_eq!(two.grow(50), Err(MemoryExceeded { used: 60, asked: 50, limit: 100 }));
        two.grow(40).unwrap();
        assert_eq!(account.used(), 100);
        drop(one);
        assert_eq!(account.used(), 40);
        two.undo();
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn a_memory_beyond_its_own_maximum_fails_as_webassembly_says_and_costs_nothing() {
        let account = Account::new(None);
        let mut limiter = StoreLimiter::new(account.clone());
        assert!(!limiter.memory_growing(0, 200, Some(100)).unwrap());
        assert_eq!(account.used(), 0);
    }
}

//! Memory: one account for the node, one for each container, one limiter for each of its stores.
//!
//! Invariant: the bytes of all memories and tables of all live stores of a container never exceed its limit, and those
//! of all containers never exceed the node's: guests share one process, and the kernel would end it with all of them.
//! A guest that asks for more is ended, as the kernel ends a process beyond its cgroup's limit; a guest that asks
//! for more than its own memory declares gets WebAssembly's ordinary -1.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::ResourceLimiter;

/// What a table's element takes in wasmtime.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Container,
    Node,
}

impl Of {
    fn note(self) -> &'static str {
        match self {
            Self::Container => "",
            Self::Node => {
                " for all WebAssembly containers of this node together; give them resources.limits.memory"
            }
        }
    }
}

/// Why a guest was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory limit exceeded: {used} bytes in use, {asked} more asked for, the limit is {limit} bytes{}", .of.note())]
pub(crate) struct MemoryExceeded {
    pub(crate) of: Of,
    pub(crate) used: u64,
    pub(crate) asked: u64,
    pub(crate) limit: u64,
}

/// The bytes a container uses and may use.
pub(crate) struct Account {
    of: Of,
    limit: u64,
    used: AtomicU64,
    /// The most that was ever used at once.
    peak: AtomicU64,
    /// The node's, of a container's.
    node: Option<Arc<Account>>,
}

impl Account {
    /// A container's account within the node's.
    pub(crate) fn new(limit: Option<u64>, node: &Arc<Account>) -> Arc<Self> {
        let limit = limit.unwrap_or(u64::MAX);
        Arc::new(Self {
            of: Of::Container,
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            node: Some(node.clone()),
        })
    }

    /// The account of all containers of a node.
    pub(crate) fn of_node(limit: u64) -> Arc<Self> {
        Arc::new(Self { of: Of::Node, limit, used: AtomicU64::new(0), peak: AtomicU64::new(0), node: None })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    fn take(&self, asked: u64) -> Result<(), MemoryExceeded> {
        let before = self
            .used
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(asked).filter(|sum| *sum <= self.limit))
            .map_err(|used| MemoryExceeded { of: self.of, used, asked, limit: self.limit })?;
        let taken = self.node.as_ref().map_or(Ok(()), |node| node.take(asked));
        match taken {
            // Compared first: in the usual case, a peak reached long ago, nothing is written.
            Ok(()) if before + asked > self.peak.load(Relaxed) => {
                self.peak.fetch_max(before + asked, Relaxed);
            }
            Ok(()) => {}
            Err(_) => {
                self.used.fetch_sub(asked, Relaxed);
            }
        }
        taken
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(node) = &self.node {
            node.give_back(bytes);
        }
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

    /// The bytes it has now; memories never shrink.
    pub(crate) fn held(&self) -> u64 {
        self.held
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
        let node = Account::of_node(u64::MAX);
        let account = Account::new(Some(100), &node);
        let mut one = StoreLimiter::new(account.clone());
        let mut two = StoreLimiter::new(account.clone());
        one.grow(60).unwrap();
        assert_eq!(two.grow(50), Err(MemoryExceeded { of: Of::Container, used: 60, asked: 50, limit: 100 }));
        two.grow(40).unwrap();
        assert_eq!(account.used(), 100);
        drop(one);
        assert_eq!(account.used(), 40);
        two.undo();
        assert_eq!((account.used(), node.used()), (0, 0));
        assert_eq!((account.peak(), node.peak()), (100, 100), "what was given back was held all the same");
    }

    #[test]
    fn containers_without_limits_share_the_nodes() {
        let node = Account::of_node(100);
        let (a, b) = (Account::new(None, &node), Account::new(Some(50), &node));
        let (mut one, mut two) = (StoreLimiter::new(a), StoreLimiter::new(b.clone()));
        one.grow(80).unwrap();
        let refused = two.grow(30).unwrap_err();
        assert_eq!(refused, MemoryExceeded { of: Of::Node, used: 80, asked: 30, limit: 100 });
        assert!(refused.to_string().contains("of this node together"), "{refused}");
        assert_eq!(b.used(), 0, "what was refused is not counted");
        drop(one);
        two.grow(30).unwrap();
        assert_eq!(node.used(), 30);
    }

    #[test]
    fn a_memory_beyond_its_own_maximum_fails_as_webassembly_says_and_costs_nothing() {
        let account = Account::new(None, &Account::of_node(u64::MAX));
        let mut limiter = StoreLimiter::new(account.clone());
        assert!(!limiter.memory_growing(0, 200, Some(100)).unwrap());
        assert_eq!(account.used(), 0);
    }
}

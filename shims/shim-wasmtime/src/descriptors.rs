//! Open files and sockets: one account for the node, one for each container.
//!
//! Invariant: all guests together hold no more descriptors than half of what this process may have, and one container
//! no more than a quarter of that; the rest is for connections, logs and code. What a store holds is counted before
//! each of its calls that could open another, so a store may be over by the one it opened last. A store that may open
//! nothing (no volume, no sockets) costs nothing here.
use crate::limits::MAX_RESOURCES;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime_wasi::ResourceTable;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket};

/// Those of the node, or of one container.
pub(crate) struct Descriptors {
    limit: u64,
    used: AtomicU64,
    node: Option<Arc<Descriptors>>,
}

/// What a process may have open where the system does not tell: its usual limit.
const USUAL_LIMIT: u64 = 1024;

impl Descriptors {
    pub(crate) fn of_node(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0), node: None })
    }

    /// Half of what this process may have open.
    pub(crate) fn of_this_process() -> Arc<Self> {
        let mut limit = libc::rlimit { rlim_cur: USUAL_LIMIT, rlim_max: 0 };
        // SAFETY: `limit` is plain data that getrlimit fills in.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        Self::of_node(limit.rlim_cur / 2)
    }

    /// A container's share of the node's.
    pub(crate) fn of_container(node: &Arc<Self>) -> Arc<Self> {
        // On a small node one instance may still have as many as one may.
        let limit = (node.limit / 4).max(MAX_RESOURCES as u64);
        Arc::new(Self { limit, used: AtomicU64::new(0), node: Some(node.clone()) })
    }

    #[cfg(test)]
    fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn take(&self, count: u64) -> bool {
        let fits = |used: u64| used.checked_add(count).filter(|sum| *sum <= self.limit);
        if self.used.fetch_update(Relaxed, Relaxed, fits).is_err() {
            return false;
        }
        let taken = self.node.as_ref().is_none_or(|node| node.take(count));
        if !taken {
            self.used.fetch_sub(count, Relaxed);
        }
        taken
    }

    fn give_back(&self, count: u64) {
        self.used.fetch_sub(count, Relaxed);
        if let Some(node) = &self.node {
            node.give_back(count);
        }
    }
}

/// Those of one store; given back when the store goes.
pub(crate) struct StoreDescriptors {
    /// `None` for a store that can open none.
    account: Option<Arc<Descriptors>>,
    held: u64,
}

impl StoreDescriptors {
    pub(crate) fn new(account: Option<Arc<Descriptors>>) -> Self {
        Self { account, held: 0 }
    }

    /// Counts what the store holds; one that holds more than there is may take up nothing new.
    pub(crate) fn settle(&mut self, table: &mut ResourceTable) {
        let Some(account) = &self.account else { return };
        let count = table
            .iter_mut()
            .filter(|entry| entry.is::<Descriptor>() || entry.is::<TcpSocket>() || entry.is::<UdpSocket>())
            .count() as u64;
        let mut room = MAX_RESOURCES;
        if count > self.held {
            match account.take(count - self.held) {
                true => self.held = count,
                false => room = 0,
            }
        } else {
            account.give_back(self.held - count);
            self.held = count;
        }
        table.set_max_capacity(room);
    }
}

impl Drop for StoreDescriptors {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.give_back(self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_a_quarter_and_all_have_what_the_node_has() {
        let node = Descriptors::of_node(8_000);
        let (a, b) = (Descriptors::of_container(&node), Descriptors::of_container(&node));
        assert!(a.take(2_000) && !a.take(1));
        assert!(b.take(1_500));
        assert_eq!((a.used(), b.used(), node.used()), (2_000, 1_500, 3_500));
        a.give_back(2_000);
        b.give_back(1_500);
        assert_eq!(node.used(), 0);
        let small = Descriptors::of_node(100);
        let c = Descriptors::of_container(&small);
        assert!(!c.take(101) && c.used() == 0, "what the node refuses is not counted");
    }

    #[test]
    fn a_store_that_may_open_nothing_counts_nothing() {
        let mut none = StoreDescriptors::new(None);
        let mut table = ResourceTable::new();
        let before = table.max_capacity();
        none.settle(&mut table);
        assert_eq!(table.max_capacity(), before);
    }
}

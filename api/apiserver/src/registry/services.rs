//! The addresses and node ports of Services: what is taken is read from the store, the choice itself is
//! [`machinery::strategy::allocation`]'s.
use crate::error::from_store;
use crate::object;
use crate::server::Server;
use machinery::meta;
use machinery::resource::Resource;
use machinery::status::Status;
use machinery::strategy::allocation::{self, Pools};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{Committed, Expect, Op};
use tokio::sync::OwnedMutexGuard;

/// The right to choose addresses. It is held until what was chosen is stored.
pub(crate) type Allocation = Arc<OwnedMutexGuard<()>>;

/// Waits for the right to choose, for a kind whose objects take addresses.
pub(crate) async fn begin(server: &Server, row: &Resource) -> Option<Allocation> {
    if !(row.group.is_empty() && row.plural == "services") {
        return None;
    }
    Some(Arc::new(server.allocation.clone().lock_owned().await))
}

/// Commits. A caller that goes away before the answer does not give `allocation` back: the commit may still be on
/// its way, and who chose next would not see it.
pub(crate) async fn commit(
    server: &Server,
    allocation: Option<&Allocation>,
    key: &str,
    expect: Expect,
    op: Op,
) -> Result<Committed, store::Error> {
    let Some(allocation) = allocation.cloned() else { return server.store.commit(key, expect, op).await };
    let (store, key) = (server.store.clone(), key.to_owned());
    let answer = server.tasks.spawn(async move {
        let _held = allocation;
        store.commit(&key, expect, op).await
    });
    answer.await.unwrap_or_else(|e| Err(store::Error::Unavailable(e.to_string())))
}

/// Gives `service` what it lacks. The caller holds an [`Allocation`]; several API servers over one store would need
/// a lock in the store instead.
pub(crate) async fn allocate(
    server: &Server,
    row: &'static Resource,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if !allocation::needs_allocation(service, old) {
        return Ok(());
    }
    let page = server.store.list(&object::prefix(row), None, 0, None).await.map_err(from_store)?;
    let own = object::key(row, meta::namespace(service), meta::name(service));
    let mut used_addresses = BTreeSet::new();
    let mut used_node_ports = BTreeSet::new();
    for kv in page.kvs.iter().filter(|kv| kv.key != own) {
        let other = object::decode(row, &kv.value, kv.mod_revision)?;
        used_addresses.extend(allocation::held_address(&other));
        used_node_ports.extend(allocation::held_node_ports(&other));
    }
    let range = server.service_cidr.to_string();
    let pools = Pools {
        first: server.service_cidr.address(0),
        count: server.service_cidr.usable(),
        range: &range,
        used_addresses: &used_addresses,
        node_ports: server.service_node_port_range.clone(),
        used_node_ports: &used_node_ports,
        random: server.ambient.random(),
    };
    allocation::allocate(service, old, &pools)
}

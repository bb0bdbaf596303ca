//! Garbage collection: what its owners left behind goes with them.
//!
//! ```text
//!   background  owner gone ─► dependents deleted
//!   foreground  owner holds foregroundDeletion ─► blocking dependents deleted ─► finalizer off ─► owner gone
//!   orphan      owner holds orphan ─► references to it dropped ─► finalizer off ─► owner gone
//! ```
//! Invariant: nothing is deleted while one of its owners exists; that an owner does not is the server's word,
//! by uid, never an informer's.
mod graph;
mod objects;
mod plan;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::discovery::{Served, served};
use crate::error::Error;
use crate::reconcile::{Outcome, work};
use client::k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination};
use client::k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::{Change, Informer, Object, WorkQueue, dhow};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use graph::{Graph, GroupKind, Node};
use objects::Objects;
use parking_lot::Mutex;
use plan::{Action, Dependents, Owner};
use std::collections::HashSet;
use std::time::Duration;

/// Objects worked on at a time (`--concurrent-gc-syncs`).
const WORKERS: usize = 20;
/// Uids of owners known to be absent (upstream's cache size). A uid never comes back.
const MAX_ABSENT: usize = 500;
/// Between two attempts to learn what the server serves.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);

struct Collector {
    ctx: Context,
    objects: Objects,
    graph: Mutex<Graph>,
    queue: WorkQueue<String>,
    absent: Mutex<HashSet<String>>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let Some(kinds) = discover(&ctx).await else { return };
    let collector = Collector {
        objects: Objects::new(ctx.client.clone(), &kinds),
        graph: Mutex::default(),
        queue: ctx.queue(),
        absent: Mutex::default(),
        ctx,
    };
    let mut feeds: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    let mut synced: Vec<BoxFuture<'_, bool>> = Vec::new();
    for kind in kinds.iter().filter(|k| is_collected(k)) {
        collector.watch(kind, &mut feeds, &mut synced);
    }
    let workers = async {
        for ready in synced {
            if !ready.await {
                return;
            }
        }
        tracing::debug!(objects = collector.graph.lock().len(), "the owner graph is complete");
        work("garbagecollector", &collector.queue, WORKERS, |uid| collector.sync_object(uid)).await;
    };
    tokio::join!(async { while feeds.next().await.is_some() {} }, workers);
}

async fn discover(ctx: &Context) -> Option<Vec<Served>> {
    loop {
        match served(&ctx.client).await {
            Ok(kinds) => return Some(kinds),
            Err(error) => {
                tracing::warn!(error = error.chain(), "the garbage collector does not know the kinds yet")
            }
        }
        ctx.shutdown.run_until_cancelled(tokio::time::sleep(DISCOVERY_RETRY)).await?;
    }
}

/// Events are many, short-lived and own nothing.
fn is_collected(kind: &Served) -> bool {
    kind.resource.kind != "Event" && kind.can("list") && kind.can("watch") && kind.can("delete")
}

impl Collector {
    /// Follows one kind. Kinds that other controllers watch anyway share their informer; of all others only
    /// metadata is held.
    fn watch<'a>(
        &'a self,
        kind: &Served,
        feeds: &mut FuturesUnordered<BoxFuture<'a, ()>>,
        synced: &mut Vec<BoxFuture<'a, bool>>,
    ) {
        macro_rules! shared {
            ($($k:ty),* $(,)?) => {$(
                if is_kind::<$k>(kind) {
                    return self.follow(self.ctx.informer::<$k>(), kind, feeds, synced);
                }
            )*};
        }
        shared!(
            core::Pod,
            core::Service,
            core::Endpoints,
            core::Node,
            core::Namespace,
            core::ServiceAccount,
            core::ConfigMap,
            apps::Deployment,
            apps::ReplicaSet,
            batch::Job,
            discovery::EndpointSlice,
            coordination::Lease,
            dhow::v1alpha1::Function,
        );
        self.follow(self.ctx.informers.metadata(&kind.resource), kind, feeds, synced);
    }

    fn follow<'a, K: Object>(
        &'a self,
        informer: Informer<K>,
        kind: &Served,
        feeds: &mut FuturesUnordered<BoxFuture<'a, ()>>,
        synced: &mut Vec<BoxFuture<'a, bool>>,
    ) {
        let kind = GroupKind::of(&kind.resource.api_version, &kind.resource.kind);
        let waiting = informer.clone();
        synced.push(Box::pin(async move { waiting.synced().await }));
        feeds.push(Box::pin(async move {
            let mut changes = informer.subscribe();
            while let Some(change) = changes.next().await {
                self.observe(&informer, &kind, &change);
            }
        }));
    }

    fn observe<K: Object>(&self, informer: &Informer<K>, kind: &GroupKind, change: &Change<K>) {
        let mut graph = self.graph.lock();
        let look = match change {
            Change::Applied(o) => {
                let uid = o.meta().uid.as_deref().unwrap_or("");
                graph.apply(uid, Node::new(kind.clone(), o.meta()))
            }
            Change::Deleted(o) => graph.remove(o.meta().uid.as_deref().unwrap_or("")),
            // Deletions were missed: whatever the informer does not hold is gone.
            Change::Resync => {
                let held: HashSet<String> =
                    informer.list().iter().filter_map(|o| o.meta().uid.clone()).collect();
                let gone = graph.of_kind(kind).into_iter().filter(|uid| !held.contains(uid));
                gone.collect::<Vec<_>>().iter().flat_map(|uid| graph.remove(uid)).collect()
            }
        };
        drop(graph);
        for uid in look {
            self.queue.add(uid);
        }
    }

    async fn sync_object(&self, uid: String) -> Outcome {
        let Some(node) = self.graph.lock().get(&uid).cloned() else { return Ok(None) };
        if node.deleting && node.orphan {
            self.orphan_dependents(&uid, &node).await?;
            return Ok(None);
        }
        if node.waits_for_dependents() {
            self.finish_foreground(&uid, &node).await?;
            return Ok(None);
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(None);
        }
        let Some(live) = self.read_live(&uid, &node).await? else { return Ok(None) };
        let references = live.owner_references.clone().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for r in &references {
            owners.push((r, self.owner_state(&node, r).await?));
        }
        let dependents = {
            let graph = self.graph.lock();
            Dependents {
                any: graph.dependents(&uid).next().is_some(),
                any_waiting: graph.dependents(&uid).any(|(_, d)| d.waits_for_dependents()),
            }
        };
        let action = plan::plan_collect(&live, &owners, dependents);
        tracing::debug!(
            kind = node.kind.kind,
            namespace = node.namespace,
            name = node.name,
            ?action,
            "planned"
        );
        match action {
            Action::Keep(_) => {}
            Action::Drop(gone) => {
                self.objects.set_owners(&node, &live, &plan::without(&references, &gone)).await?;
            }
            Action::Delete { policy, unblock } => {
                let mut live = live;
                if unblock {
                    match self.objects.set_owners(&node, &live, &plan::unblocked(&references)).await? {
                        Some(patched) => live = patched,
                        None => return Ok(None),
                    }
                }
                self.objects.delete(&node, &live, policy).await?;
            }
        }
        Ok(None)
    }

    /// The live metadata of the very object; `None` if it is gone or another has its name.
    async fn read_live(&self, uid: &str, node: &Node) -> Result<Option<ObjectMeta>, Error> {
        let live = self.objects.read(&node.kind, &node.namespace, &node.name).await?;
        Ok(live.filter(|m| m.uid.as_deref() == Some(uid)))
    }

    async fn owner_state(&self, item: &Node, r: &OwnerReference) -> Result<Owner, Error> {
        if self.absent.lock().contains(&r.uid) {
            return Ok(Owner::Absent);
        }
        let kind = GroupKind::of(&r.api_version, &r.kind);
        let namespaced = self.objects.is_namespaced(&kind)?;
        if namespaced && item.namespace.is_empty() {
            // A cluster-scoped object cannot have an owner in a namespace: the reference is wrong, and a wrong
            // reference is no reason to delete.
            tracing::warn!(
                kind = item.kind.kind,
                name = item.name,
                owner = r.name,
                "an owner reference is invalid"
            );
            return Ok(Owner::Solid);
        }
        let namespace = if namespaced { item.namespace.as_str() } else { "" };
        if let Some(known) = self.graph.lock().get(&r.uid)
            && known.kind == kind
            && known.namespace == namespace
            && known.name == r.name
        {
            return Ok(if known.waits_for_dependents() { Owner::Waiting } else { Owner::Solid });
        }
        let live = self.objects.read(&kind, namespace, &r.name).await?;
        match live.filter(|m| m.uid.as_deref() == Some(&r.uid)) {
            Some(meta) if Node::new(kind, &meta).waits_for_dependents() => Ok(Owner::Waiting),
            Some(_) => Ok(Owner::Solid),
            None => {
                let mut absent = self.absent.lock();
                if absent.len() >= MAX_ABSENT {
                    absent.clear();
                }
                absent.insert(r.uid.clone());
                Ok(Owner::Absent)
            }
        }
    }

    /// Lets a foreground deletion go on: off with the finalizer once nothing blocks, else its dependents first.
    async fn finish_foreground(&self, uid: &str, node: &Node) -> Result<(), Error> {
        let dependents: Vec<(String, bool, bool)> = {
            let graph = self.graph.lock();
            let blocks =
                |d: &Node| d.owners.iter().any(|r| r.uid == uid && r.block_owner_deletion == Some(true));
            graph.dependents(uid).map(|(u, d)| (u.clone(), blocks(d), d.deleting)).collect()
        };
        if dependents.iter().any(|(_, blocks, _)| *blocks) {
            for (dependent, _, deleting) in dependents {
                if !deleting {
                    self.queue.add(dependent);
                }
            }
            return Ok(());
        }
        match self.read_live(uid, node).await? {
            Some(live) => self.objects.drop_finalizer(node, &live, graph::FOREGROUND).await,
            None => Ok(()),
        }
    }

    /// Cuts the references of all dependents, then the finalizer.
    async fn orphan_dependents(&self, uid: &str, node: &Node) -> Result<(), Error> {
        let dependents: Vec<(String, Node)> =
            self.graph.lock().dependents(uid).map(|(u, d)| (u.clone(), d.clone())).collect();
        for (dependent_uid, dependent) in dependents {
            let Some(live) = self.read_live(&dependent_uid, &dependent).await? else { continue };
            let references = live.owner_references.clone().unwrap_or_default();
            let left = plan::without(&references, std::slice::from_ref(&uid.to_owned()));
            if left.len() < references.len() {
                self.objects.set_owners(&dependent, &live, &left).await?;
            }
        }
        match self.read_live(uid, node).await? {
            Some(live) => self.objects.drop_finalizer(node, &live, graph::ORPHAN).await,
            None => Ok(()),
        }
    }
}

fn is_kind<K: client::k8s_openapi::Resource>(kind: &Served) -> bool {
    kind.resource.api_version == K::API_VERSION && kind.resource.kind == K::KIND
}

//! Node lifecycle: a node that falls silent becomes NotReady, is tainted, and loses its pods.
//!
//! ```text
//!   Lease renewed, status posted ─► heard = now
//!   heard + grace passed ─► Ready Unknown ─► taint unreachable ─► pods not ready ─► toleration over: evicted
//! ```
//! Invariant: silence is measured by this process's own clock from what it saw itself; a node's clock decides
//! nothing. After a start every node has the whole grace period again.
mod plan;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::error::{Doing, Error};
use crate::reconcile::{Outcome, feed, object, own_key, work};
use crate::{pod, pod_disruption};
use client::k8s_openapi::api::coordination::v1::Lease;
use client::k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use client::kube::api::{Api, Patch, PatchParams};
use client::{Change, EventType, Informer, ObjectKey, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use plan::Eviction;
use serde_json::json;
use std::collections::HashMap;

/// Nodes, and pods, worked on at a time.
const WORKERS: usize = 4;
/// Where kubelets keep their Leases.
const LEASES: &str = "kube-node-lease";

/// The last sign of life of a node: what it looked like, and when we saw it.
#[derive(Clone, Debug, PartialEq)]
struct Heard {
    renewed: Option<Timestamp>,
    posted: Option<Timestamp>,
    at: Timestamp,
}

struct Controller {
    ctx: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    node_queue: WorkQueue<ObjectKey>,
    pod_queue: WorkQueue<ObjectKey>,
    heard: Mutex<HashMap<String, Heard>>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller {
        nodes: ctx.informer(),
        leases: ctx.informer(),
        pods: ctx.informer(),
        node_queue: ctx.queue(),
        pod_queue: ctx.queue(),
        heard: Mutex::default(),
        ctx,
    };
    let nodes = feed(c.nodes.clone(), c.node_queue.clone(), |change| c.keys_of_node(change));
    let leases = feed(c.leases.clone(), c.node_queue.clone(), |change| c.key_of_lease(change));
    let pods = feed(c.pods.clone(), c.pod_queue.clone(), |change| c.key_of_pod(change));
    let workers = async {
        let synced = c.nodes.synced().await && c.leases.synced().await && c.pods.synced().await;
        if synced {
            let on_nodes = work("nodelifecycle", &c.node_queue, WORKERS, |key| c.sync_node(key));
            let on_pods = work("taint-eviction", &c.pod_queue, WORKERS, |key| c.sync_pod(key));
            tokio::join!(on_nodes, on_pods);
        }
    };
    tokio::join!(nodes, leases, pods, workers);
}

impl Controller {
    /// Hears a sign of life, if this is one, and returns when the last one was.
    fn hear(&self, node: &str, renewed: Option<Timestamp>, posted: Option<Timestamp>) -> Timestamp {
        let now = self.ctx.now();
        let mut all = self.heard.lock();
        let heard = all.entry(node.to_owned()).or_insert_with(|| Heard { renewed, posted, at: now });
        let news =
            (renewed.is_some() && renewed != heard.renewed) || (posted.is_some() && posted != heard.posted);
        if news {
            *heard = Heard { renewed: renewed.or(heard.renewed), posted: posted.or(heard.posted), at: now };
        }
        heard.at
    }

    /// The node, and with a change of heart every other one that is not ready: whether pods are evicted hangs
    /// on whether any node is left to take them.
    fn keys_of_node(&self, change: &Change<Node>) -> Vec<ObjectKey> {
        let Some(key) = own_key(change) else {
            self.heard.lock().retain(|name, _| self.nodes.get("", name).is_some());
            return Vec::new();
        };
        if let Change::Deleted(_) = change {
            self.heard.lock().remove(&key.name);
        }
        let node = object(change);
        if let Some(node) = node.filter(|n| has_no_execute(n)) {
            self.queue_pods_of(node.metadata.name.as_deref().unwrap_or(""));
        }
        let mut keys = vec![key];
        keys.extend(self.nodes.list().iter().filter(|n| !plan::is_ready(n)).map(|n| ObjectKey::of(&**n)));
        keys
    }

    /// A renewed Lease is only noted, unless its node was given up: the timer that is set finds the note.
    fn key_of_lease(&self, change: &Change<Lease>) -> Option<ObjectKey> {
        let Change::Applied(lease) = change else { return None };
        if lease.metadata.namespace.as_deref() != Some(LEASES) {
            return None;
        }
        let name = lease.metadata.name.as_deref().unwrap_or("");
        let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
        self.hear(name, renewed, None);
        let node = self.nodes.get("", name)?;
        (!plan::is_ready(&node)).then(|| ObjectKey::new("", name))
    }

    fn key_of_pod(&self, change: &Change<Pod>) -> Option<ObjectKey> {
        let Change::Applied(p) = change else { return None };
        let node = self.nodes.get("", pod::node(p)?)?;
        has_no_execute(&node).then(|| ObjectKey::of(&**p))
    }

    fn pods_on(&self, node: &str) -> Vec<std::sync::Arc<Pod>> {
        self.pods.list_where(|p| pod::node(p) == Some(node))
    }

    fn queue_pods_of(&self, node: &str) {
        for p in self.pods_on(node) {
            self.pod_queue.add(ObjectKey::of(&*p));
        }
    }

    async fn sync_node(&self, key: ObjectKey) -> Outcome {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(None) };
        let lease = self.leases.get(LEASES, &key.name);
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
        let heard = self.hear(&key.name, renewed, posted(&node));
        let others_ready =
            self.nodes.list().iter().any(|n| n.metadata.name != node.metadata.name && plan::is_ready(n));
        let plan = plan::plan_node(&plan::World {
            node: &node,
            heard,
            grace: SignedDuration::try_from(self.ctx.config.node_monitor_grace_period)
                .unwrap_or(SignedDuration::MAX),
            others_ready,
            now: self.ctx.now(),
        });
        tracing::debug!(node = key.name, why = ?plan.why, "planned");
        let mut version = node.metadata.resource_version.clone();
        if let Some(conditions) = plan.conditions {
            version = self.write_conditions(&node, &key.name, conditions).await?;
            if plan.silent {
                let text = format!("Node {} status is now: NodeNotReady", key.name);
                self.ctx.recorder.event(&*node, EventType::Normal, "NodeNotReady", text);
            }
        }
        if let Some(taints) = plan.taints {
            self.write_taints(&key.name, version, taints).await?;
        }
        if plan.silent {
            self.mark_pods_not_ready(&key.name).await?;
        }
        Ok(plan.look_again)
    }

    /// Returns the resourceVersion after it.
    async fn write_conditions(
        &self,
        node: &Node,
        name: &str,
        conditions: Vec<client::k8s_openapi::api::core::v1::NodeCondition>,
    ) -> Result<Option<String>, Error> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let patch = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "status": { "conditions": conditions },
        });
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(node) => Ok(node.metadata.resource_version),
            Err(error) => Err(error).doing(|| format!("write the conditions of node {name}")),
        }
    }

    async fn write_taints(
        &self,
        name: &str,
        version: Option<String>,
        taints: Vec<client::k8s_openapi::api::core::v1::Taint>,
    ) -> Result<(), Error> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let patch = json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": taints } });
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("taint node {name}")),
        }
    }

    /// A silent kubelet cannot take back that its pods are ready; services must not wait for it.
    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), Error> {
        for p in self.pods_on(node).iter().filter(|p| pod::is_ready(p)) {
            let key = ObjectKey::of(&**p);
            let mut conditions = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            for c in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
                *c = PodCondition {
                    status: "False".into(),
                    reason: Some("NodeNotReady".into()),
                    last_transition_time: Some(Time(self.ctx.now())),
                    ..c.clone()
                };
            }
            let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
            let patch = json!({
                "metadata": { "uid": p.metadata.uid, "resourceVersion": p.metadata.resource_version },
                "status": { "conditions": conditions },
            });
            match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {}
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => return Err(error).doing(|| format!("mark pod {key} not ready")),
            }
            let text = "Node is not ready".to_owned();
            self.ctx.recorder.event(&**p, EventType::Warning, "NodeNotReady", text);
        }
        Ok(())
    }

    async fn sync_pod(&self, key: ObjectKey) -> Outcome {
        let Some(p) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        let Some(node) = pod::node(&p).and_then(|n| self.nodes.get("", n)) else { return Ok(None) };
        let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        match plan::plan_eviction(&p, &taints, self.ctx.now()) {
            Eviction::Never => Ok(None),
            Eviction::In(wait) => Ok(Some(wait)),
            Eviction::Now => {
                let text = format!("Marking for deletion Pod {key}");
                self.ctx.recorder.event(&*p, EventType::Normal, "TaintManagerEviction", text);
                let reason = "DeletionByTaintManager";
                let message = "Taint manager: deleting due to NoExecute taint";
                pod_disruption::delete(&self.ctx, &p, pod_disruption::Manner::Gracefully, reason, message)
                    .await?;
                Ok(None)
            }
        }
    }
}

/// When the kubelet last posted its status, by its own clock: only a difference counts.
fn posted(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    // What this controller wrote itself is no sign of life; it leaves heartbeat times alone.
    conditions.iter().filter_map(|c| c.last_heartbeat_time.as_ref().map(|t| t.0)).max()
}

fn has_no_execute(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|t| t.effect == "NoExecute")
}

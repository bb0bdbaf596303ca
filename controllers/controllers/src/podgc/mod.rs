//! Pod garbage collection: pods of nodes that are gone, pods deleted before they were scheduled, and the oldest
//! of too many ended ones. Wakes up only for a change that might make such a pod.
mod plan;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::error::{Doing, Error};
use crate::pod;
use crate::pod_disruption::{Manner, delete};
use crate::reconcile::{Outcome, feed, work};
use client::k8s_openapi::api::core::v1::{Node, Pod};
use client::kube::api::Api;
use client::{Change, Informer};
use parking_lot::Mutex;
use plan::Why;
use std::collections::{BTreeMap, BTreeSet};

struct Controller {
    ctx: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    missing: Mutex<BTreeMap<String, jiff::Timestamp>>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller { nodes: ctx.informer(), pods: ctx.informer(), missing: Mutex::default(), ctx };
    // There is one thing to do: look at all pods.
    let queue = c.ctx.queue::<()>();
    let nodes =
        feed(c.nodes.clone(), queue.clone(), |change| (!matches!(change, Change::Applied(_))).then_some(()));
    let pods = feed(c.pods.clone(), queue.clone(), |change| c.might_go(change).then_some(()));
    let workers = async {
        if c.nodes.synced().await && c.pods.synced().await {
            queue.add(());
            work("podgc", &queue, 1, |()| c.sync_pods()).await;
        }
    };
    tokio::join!(nodes, pods, workers);
}

impl Controller {
    fn might_go(&self, change: &Change<Pod>) -> bool {
        let p = match change {
            Change::Applied(p) => p,
            Change::Deleted(_) => return false,
            Change::Resync => return true,
        };
        match pod::node(p) {
            None => pod::is_terminating(p),
            Some(node) if self.nodes.get("", node).is_none() => true,
            Some(_) => {
                let threshold = self.ctx.config.terminated_pod_gc_threshold;
                pod::is_terminal(p) && threshold > 0 && self.pods.len() > threshold
            }
        }
    }

    async fn sync_pods(&self) -> Outcome {
        let pods = self.pods.list();
        let pods: Vec<&Pod> = pods.iter().map(|p| &**p).collect();
        let nodes: BTreeSet<String> =
            self.nodes.list().iter().filter_map(|n| n.metadata.name.clone()).collect();
        let missing = self.missing.lock().clone();
        let plan = plan::plan_pod_gc(&plan::World {
            pods: &pods,
            nodes: &nodes,
            missing: &missing,
            threshold: self.ctx.config.terminated_pod_gc_threshold,
            now: self.ctx.now(),
        });
        *self.missing.lock() = plan.missing;
        let mut gone: BTreeMap<String, bool> = BTreeMap::new();
        for (key, why) in plan.delete {
            let Some(p) = self.pods.get(&key.namespace, &key.name) else { continue };
            match why {
                Why::Orphaned { node } => {
                    let is_gone = match gone.get(&node) {
                        Some(known) => *known,
                        None => self.is_gone(&node).await?,
                    };
                    gone.insert(node, is_gone);
                    if is_gone {
                        tracing::info!(pod = %key, "its node is gone: deleting it");
                        let text = "PodGC: node no longer exists";
                        delete(&self.ctx, &p, Manner::AtOnce, "DeletionByPodGC", text).await?;
                    }
                }
                Why::NeverScheduled => {
                    let text = "PodGC: terminating pod was never scheduled";
                    delete(&self.ctx, &p, Manner::AtOnce, "DeletionByPodGC", text).await?;
                }
                Why::OverThreshold => {
                    let text = "PodGC: too many terminated pods";
                    delete(&self.ctx, &p, Manner::AtOnce, "DeletionByPodGC", text).await?;
                }
            }
        }
        Ok(plan.look_again)
    }

    async fn is_gone(&self, node: &str) -> Result<bool, Error> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        Ok(api.get_opt(node).await.doing(|| format!("read node {node}"))?.is_none())
    }
}

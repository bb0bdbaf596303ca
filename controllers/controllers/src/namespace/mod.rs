//! Deletion of namespaces: the pods in them first, then everything else, then the finalizer that kept them.
//!
//! Invariant: a namespace goes only after every kind the server serves was listed in it and found empty.
mod plan;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::discovery::{Served, served};
use crate::error::{Doing, Error};
use crate::reconcile::{Outcome, every_key, feed, feed_own, work};
use client::k8s_openapi::api::core::v1::{Namespace, NamespaceStatus, Pod};
use client::kube::Client;
use client::kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams, PropagationPolicy};
use client::kube::core::Request;
use client::{Change, Informer, ObjectKey};
use plan::Remains;

/// Namespaces worked on at a time (`--concurrent-namespace-syncs` is 10; each pass lists every kind).
const WORKERS: usize = 3;
/// Objects of one kind looked at for the message; the rest is only counted.
const PAGE: u32 = 500;

struct Controller {
    ctx: Context,
    namespaces: Informer<Namespace>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller { namespaces: ctx.informer(), ctx };
    let queue = c.ctx.queue::<ObjectKey>();
    let namespaces = feed_own(c.namespaces.clone(), queue.clone());
    // Pods take the longest to go: the last one's end is worth looking again at once.
    let pods = feed(c.ctx.informer::<Pod>(), queue.clone(), |change| match change {
        Change::Deleted(p) => {
            c.terminating(p.metadata.namespace.as_deref().unwrap_or("")).into_iter().collect()
        }
        Change::Applied(_) => Vec::new(),
        Change::Resync => every_key(&c.namespaces),
    });
    let workers = async {
        if c.namespaces.synced().await {
            work("namespace", &queue, WORKERS, |key| c.sync_namespace(key)).await;
        }
    };
    tokio::join!(namespaces, pods, workers);
}

impl Controller {
    fn terminating(&self, name: &str) -> Option<ObjectKey> {
        let ns = self.namespaces.get("", name)?;
        plan::is_ours_to_empty(&ns).then(|| ObjectKey::new("", name))
    }

    async fn sync_namespace(&self, key: ObjectKey) -> Outcome {
        let Some(ns) = self.namespaces.get("", &key.name).filter(|ns| plan::is_ours_to_empty(ns)) else {
            return Ok(None);
        };
        let remains = self.delete_content(&key.name).await;
        let status = plan::compute_status(&ns, &remains, self.ctx.now());
        let version = self.write_status(&ns, status).await?;
        if !remains.is_clean() {
            return Err(Error::NotYet(format!("namespace {} still has content", key.name)));
        }
        let mut last = plan::finalized(&ns);
        last.metadata.resource_version = version;
        finalize(&self.ctx.client, &last).await?;
        Ok(None)
    }

    /// Deletes everything and reports what is left.
    async fn delete_content(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        let kinds = match served(&self.ctx.client).await {
            Ok(kinds) => kinds,
            Err(error) => {
                remains.discovery_failed = Some(error.chain());
                return remains;
            }
        };
        for kind in plan::deletion_order(&kinds) {
            if let Err(error) = self.delete_kind(namespace, kind, &mut remains).await {
                remains.deletion_failed = Some(error.chain());
            }
            if plan::is_pods(kind) && !remains.is_clean() {
                break;
            }
        }
        remains
    }

    async fn delete_kind(&self, namespace: &str, kind: &Served, remains: &mut Remains) -> Result<(), Error> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.ctx.client.clone(), namespace, &kind.resource);
        let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let page = ListParams::default().limit(PAGE);
        let first = api.list(&page).await.doing(|| format!("list {name} in {namespace}"))?;
        if first.items.is_empty() {
            return Ok(());
        }
        if kind.can("deletecollection") {
            api.delete_collection(&params, &ListParams::default())
                .await
                .doing(|| format!("delete {name} in {namespace}"))?;
        } else {
            for item in &first.items {
                let item_name = item.metadata.name.as_deref().unwrap_or("");
                match api.delete(item_name, &params).await {
                    Ok(_) => {}
                    Err(error) if client::is_not_found(&error) => {}
                    Err(error) => {
                        return Err(error).doing(|| format!("delete {name} {namespace}/{item_name}"));
                    }
                }
            }
        }
        let left = api.list(&page).await.doing(|| format!("list {name} in {namespace}"))?;
        if left.items.is_empty() {
            return Ok(());
        }
        let beyond = left.metadata.remaining_item_count.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        remains.objects.insert(name, left.items.len() + beyond);
        for finalizer in left.items.iter().flat_map(|i| i.metadata.finalizers.iter().flatten()) {
            *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// Returns the resourceVersion after it.
    async fn write_status(&self, ns: &Namespace, status: NamespaceStatus) -> Result<Option<String>, Error> {
        if ns.status.as_ref() == Some(&status) {
            return Ok(ns.metadata.resource_version.clone());
        }
        let name = ns.metadata.name.as_deref().unwrap_or("");
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let mut wanted = ns.clone();
        wanted.status = Some(status);
        let written = api
            .replace_status(name, &PostParams::default(), &wanted)
            .await
            .doing(|| format!("write the status of namespace {name}"))?;
        Ok(written.metadata.resource_version)
    }
}

async fn finalize(client: &Client, ns: &Namespace) -> Result<(), Error> {
    let name = ns.metadata.name.as_deref().unwrap_or("");
    let body =
        serde_json::to_vec(ns).map_err(client::kube::Error::SerdeError).doing(|| format!("write {name}"))?;
    let request = Request::new("/api/v1/namespaces")
        .replace_subresource("finalize", name, &PostParams::default(), body)
        .map_err(client::kube::Error::BuildRequest)
        .doing(|| format!("finalize namespace {name}"))?;
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Ok(()),
        Err(error) if client::is_not_found(&error) => Ok(()),
        Err(error) => Err(error).doing(|| format!("finalize namespace {name}")),
    }
}

//! In each namespace the service account `default` and the ConfigMap `kube-root-ca.crt`, again if deleted.
mod plan;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::error::{Doing, Error};
use crate::reconcile::{Outcome, every_key, feed, feed_own, object, work};
use client::k8s_openapi::NamespaceResourceScope;
use client::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use client::kube::Resource;
use client::kube::api::{Api, PostParams};
use client::{Change, Informer, Object, ObjectKey};
use serde::Serialize;

/// Namespaces worked on at a time.
const WORKERS: usize = 2;

struct Controller {
    ctx: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    config_maps: Informer<ConfigMap>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c =
        Controller { namespaces: ctx.informer(), accounts: ctx.informer(), config_maps: ctx.informer(), ctx };
    let queue = c.ctx.queue::<ObjectKey>();
    let namespaces = feed_own(c.namespaces.clone(), queue.clone());
    let accounts = feed(c.accounts.clone(), queue.clone(), |change| c.namespaces_of(change, plan::DEFAULT));
    let config_maps =
        feed(c.config_maps.clone(), queue.clone(), |change| c.namespaces_of(change, plan::ROOT_CA));
    let workers = async {
        let synced = c.namespaces.synced().await && c.accounts.synced().await && c.config_maps.synced().await;
        if synced {
            work("serviceaccount", &queue, WORKERS, |key| c.sync_namespace(key)).await;
        }
    };
    tokio::join!(namespaces, accounts, config_maps, workers);
}

impl Controller {
    /// The namespace of an object called `name`; all of them when such a one may have gone unseen.
    fn namespaces_of<K: Object>(&self, change: &Change<K>, name: &str) -> Vec<ObjectKey> {
        let Some(object) = object(change) else { return every_key(&self.namespaces) };
        let meta = object.meta();
        if meta.name.as_deref() != Some(name) {
            return Vec::new();
        }
        vec![ObjectKey::new("", meta.namespace.clone().unwrap_or_default())]
    }

    async fn sync_namespace(&self, key: ObjectKey) -> Outcome {
        let Some(ns) = self.namespaces.get("", &key.name) else { return Ok(None) };
        let account = self.accounts.get(&key.name, plan::DEFAULT);
        let ca = self.config_maps.get(&key.name, plan::ROOT_CA);
        let plan = plan::plan_namespace(&ns, account.as_deref(), ca.as_deref(), &self.ctx.config.root_ca_pem);
        if let Some(account) = &plan.create_account {
            self.create(&key.name, account).await?;
        }
        if let Some(ca) = &plan.create_ca {
            self.create(&key.name, ca).await?;
        }
        if let Some(ca) = &plan.update_ca {
            let api: Api<ConfigMap> = Api::namespaced(self.ctx.client.clone(), &key.name);
            api.replace(plan::ROOT_CA, &PostParams::default(), ca)
                .await
                .doing(|| format!("update configmap {}/{}", key.name, plan::ROOT_CA))?;
        }
        Ok(None)
    }

    /// Creates an object; one that exists is as good, and a namespace that goes needs none.
    async fn create<K>(&self, namespace: &str, object: &K) -> Result<(), Error>
    where
        K: Object + Serialize + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), namespace);
        let made = api
            .create(&PostParams::default(), object)
            .await
            .doing(|| format!("create {} {}", K::kind(&()), ObjectKey::of(object)));
        match made {
            Ok(_) => Ok(()),
            Err(e) if e.is_already_exists() || e.is_namespace_terminating() || e.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

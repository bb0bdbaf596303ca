//! Reading the ConfigMaps, Secrets and RuntimeClasses that pods refer to.
use crate::env::Objects;
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::api::node::v1::RuntimeClass;
use client::kube::Api;
use client::{Client, is_not_found};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How old an object may be when volumes are only refreshed: pods that share it then cost one read together.
const REFRESH_AGE: Duration = Duration::from_secs(10);
/// Objects remembered for that; beyond it the oldest are forgotten. A ConfigMap is at most 1 MiB, usually 1 KiB.
const REMEMBERED: usize = 1000;

type Key = (String, String);
type Remembered<K> = Mutex<HashMap<Key, (Instant, Option<Arc<K>>)>>;

/// Reads objects.
pub struct ObjectReader {
    client: Client,
    config_maps: Remembered<core::ConfigMap>,
    secrets: Remembered<core::Secret>,
    /// By class. A handler never changes, but another class of the name may be made.
    handlers: Mutex<HashMap<String, (Instant, String)>>,
}

impl ObjectReader {
    pub fn new(client: Client) -> Self {
        Self { client, config_maps: Mutex::default(), secrets: Mutex::default(), handlers: Mutex::default() }
    }

    /// Reads what is named. With `refresh`, what was read a few seconds ago is good enough.
    pub async fn read(
        &self,
        namespace: &str,
        config_maps: BTreeSet<String>,
        secrets: BTreeSet<String>,
        refresh: bool,
    ) -> Result<Objects, client::kube::Error> {
        let mut out = Objects::default();
        for name in config_maps {
            let api = Api::namespaced(self.client.clone(), namespace);
            let found = get(&api, &self.config_maps, namespace, &name, refresh).await?;
            out.config_maps.insert(name, found);
        }
        for name in secrets {
            let api = Api::namespaced(self.client.clone(), namespace);
            let found = get(&api, &self.secrets, namespace, &name, refresh).await?;
            out.secrets.insert(name, found);
        }
        Ok(out)
    }

    /// The handler of a RuntimeClass; `None` when there is no such class.
    pub async fn handler(&self, class: &str) -> Result<Option<String>, client::kube::Error> {
        if let Some((at, handler)) = self.handlers.lock().get(class)
            && at.elapsed() < REFRESH_AGE
        {
            return Ok(Some(handler.clone()));
        }
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        let found = api.get_opt(class).await?;
        let mut handlers = self.handlers.lock();
        handlers.retain(|_, (at, _)| at.elapsed() < REFRESH_AGE);
        if let Some(found) = &found {
            handlers.insert(class.to_owned(), (Instant::now(), found.handler.clone()));
        }
        Ok(found.map(|found| found.handler))
    }
}

async fn get<K>(
    api: &Api<K>,
    remembered: &Remembered<K>,
    namespace: &str,
    name: &str,
    refresh: bool,
) -> Result<Option<Arc<K>>, client::kube::Error>
where
    K: serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let key = (namespace.to_owned(), name.to_owned());
    if refresh
        && let Some((at, found)) = remembered.lock().get(&key)
        && at.elapsed() < REFRESH_AGE
    {
        return Ok(found.clone());
    }
    let found = match api.get(name).await {
        Ok(k) => Some(Arc::new(k)),
        Err(e) if is_not_found(&e) => None,
        Err(e) => return Err(e),
    };
    if refresh {
        let mut all = remembered.lock();
        if all.len() >= REMEMBERED {
            all.retain(|_, (at, _)| at.elapsed() < REFRESH_AGE);
        }
        if all.len() < REMEMBERED {
            all.insert(key, (Instant::now(), found.clone()));
        }
    }
    Ok(found)
}

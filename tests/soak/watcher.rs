//! What the API server tells of pods and functions, and what of it must not be.
use crate::faults::Faults;
use crate::outage::Outage;
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::core::v1::Pod;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{Change, Client, Informer, Informers};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) pods: Informer<Pod>,
    pub(crate) slices: Informer<EndpointSlice>,
    pub(crate) functions: Informer<Function>,
}

/// What of a pod a restart of its runtime may not change, and how often it was restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) uid: String,
    pub(crate) ip: String,
    pub(crate) restarts: i32,
}

pub(crate) type Key = (String, String);

pub(crate) fn key(pod: &Pod) -> Key {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

/// How a pod that is Ready and not about to go stands.
pub(crate) fn standing(pod: &Pod) -> Option<Standing> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    (ready && pod.metadata.deletion_timestamp.is_none()).then(|| Standing {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ip: status.pod_ip.clone().unwrap_or_default(),
        restarts: status.container_statuses.iter().flatten().map(|c| c.restart_count).sum(),
    })
}

impl Watcher {
    pub(crate) async fn start(client: Client, shutdown: CancellationToken) -> Self {
        let informers = Informers::new(client, shutdown);
        let watcher = Self { pods: informers.get(), slices: informers.get(), functions: informers.get() };
        watcher.pods.synced().await;
        watcher.slices.synced().await;
        watcher.functions.synced().await;
        watcher
    }

    /// The Ready pods of innocent functions.
    pub(crate) fn innocent(&self) -> BTreeMap<Key, Standing> {
        let pods = self
            .pods
            .list_where(|pod| pod.metadata.namespace.as_deref().is_some_and(|n| n.starts_with("soak-")));
        pods.iter().filter_map(|pod| Some((key(pod), standing(pod)?))).collect()
    }

    /// The address of the only pod of a function.
    pub(crate) fn address(&self, namespace: &str, prefix: &str) -> Option<SocketAddr> {
        let pods = self.pods.list_with_prefix(namespace, prefix);
        let ip: IpAddr = standing(pods.first()?)?.ip.parse().ok()?;
        Some((ip, 8080).into())
    }

    /// Waits until every pod of `before` that is still wanted is Ready after one restart more, as the same pod. Those
    /// that are not in time, by name, otherwise.
    pub(crate) async fn recovered(
        &self,
        before: &BTreeMap<Key, Standing>,
        limit: Duration,
    ) -> Result<(), Vec<Key>> {
        let mut missing = before.clone();
        let mut changes = self.pods.subscribe();
        let all = async {
            while !missing.is_empty() {
                match changes.next().await {
                    Some(Change::Applied(pod)) => {
                        let of = key(&pod);
                        let back = |old: &Standing| {
                            pod.metadata.deletion_timestamp.is_some()
                                || pod.metadata.uid.as_deref() != Some(&old.uid)
                                || standing(&pod).is_some_and(|now| now.restarts > old.restarts)
                        };
                        if missing.get(&of).is_some_and(back) {
                            missing.remove(&of);
                        }
                    }
                    Some(Change::Deleted(pod)) => drop(missing.remove(&key(&pod))),
                    Some(Change::Resync) => {
                        missing.retain(|(namespace, name), _| self.pods.get(namespace, name).is_some())
                    }
                    None => return,
                }
            }
        };
        match tokio::time::timeout(limit, all).await {
            Ok(()) => Ok(()),
            Err(_) => Err(missing.into_keys().collect()),
        }
    }
}

impl Watcher {
    /// Those of `pods` that are the same pods still and that a slice has as not ready.
    fn without_endpoint(&self, pods: &BTreeMap<Key, Standing>) -> usize {
        let slices = self.slices.list_where(|slice| {
            slice
                .endpoints
                .iter()
                .flatten()
                .any(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(false))
        });
        let away: BTreeSet<&str> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(false))
            .flat_map(|e| e.addresses.iter().map(String::as_str))
            .collect();
        let same = |((namespace, name), old): &(&Key, &Standing)| {
            let pod = self.pods.get(namespace, name);
            pod.is_some_and(|pod| {
                pod.metadata.deletion_timestamp.is_none() && pod.metadata.uid.as_deref() == Some(&old.uid)
            })
        };
        pods.iter().filter(|(_, old)| away.contains(old.ip.as_str())).filter(same).count()
    }

    /// Waits until every slice has had these pods as ready for `hold`; since when. The controller may be writing what
    /// it saw before, so a moment is not enough.
    pub(crate) async fn endpoints_ready(
        &self,
        pods: &BTreeMap<Key, Standing>,
        hold: Duration,
        limit: Duration,
    ) -> Option<Instant> {
        let begun = Instant::now();
        let mut since = begun;
        while since.elapsed() < hold {
            if self.without_endpoint(pods) > 0 {
                if begun.elapsed() > limit {
                    return None;
                }
                since = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(since)
    }
}

/// Watches the pods of functions that nobody changes: they stay the same pods at the same addresses, are not Ready
/// only while their runtime is away, and are restarted by nothing else.
pub(crate) async fn guard_steady(
    watcher: Watcher,
    steady: BTreeMap<Key, Standing>,
    outages: Rc<std::cell::RefCell<Vec<Outage>>>,
    faults: Rc<Faults>,
) {
    let mut changes = watcher.pods.subscribe();
    let deaths = || outages.borrow().iter().filter(|o| o.killed.runtime()).count();
    // Told once each.
    let mut known: BTreeMap<Key, String> = BTreeMap::new();
    while let Some(change) = changes.next().await {
        let (pod, gone): (Arc<Pod>, bool) = match change {
            Change::Applied(pod) => (pod, false),
            Change::Deleted(pod) => (pod, true),
            Change::Resync => continue,
        };
        let Some(old) = steady.get(&key(&pod)) else { continue };
        let what = if gone || pod.metadata.deletion_timestamp.is_some() {
            Some("was deleted".to_owned())
        } else if pod.metadata.uid.as_deref() != Some(&old.uid) {
            Some("is another pod".to_owned())
        } else {
            match standing(&pod) {
                Some(now) if now.ip != old.ip => Some(format!("moved from {} to {}", old.ip, now.ip)),
                Some(now)
                    if usize::try_from(now.restarts - old.restarts).unwrap_or(usize::MAX) > deaths() =>
                {
                    Some(format!(
                        "was restarted {} times, its runtime died {} times",
                        now.restarts - old.restarts,
                        deaths()
                    ))
                }
                Some(_) => None,
                None if outages.borrow().iter().any(|o| o.killed.runtime() && o.ended.is_none()) => None,
                None => Some("is not Ready although its runtime runs".to_owned()),
            }
        };
        match what {
            Some(what) if known.get(&key(&pod)) != Some(&what) => {
                let status = serde_json::to_string(&pod.status).unwrap_or_default();
                faults.add(format!("pod {} {what}: {status}", key(&pod).1));
                known.insert(key(&pod), what);
            }
            _ => {}
        }
    }
}

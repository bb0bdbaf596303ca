//! What pods may reach and be reached by: NetworkPolicies and Services, followed and told to the runtime.
//!
//! Invariant: a container is created only after its sandbox heard the rules of now; from then on the sandbox hears of
//! every change. While no policy exists, only this node's own pods are watched; the first one starts the watches of all
//! pods and namespaces, and until these are complete an isolated pod is reached by less, never by more.
//!
//! ```text
//!   NetworkPolicies ─┐                        ┌─► SetNetworkPolicy (each sandbox whose rules changed)
//!   Namespaces, Pods ┴─► Index ─► dirty ──────┤
//!   worker: about to create a container ──────┘
//!   Services, EndpointSlices ─► difference ─────► UpdateServices (all sandboxes together)
//! ```
use crate::container_config::POD_UID;
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::api::networking::v1::NetworkPolicy;
use client::{Change, Informer, Informers, Object, ServiceEndpoints, Subscription};
use cri::{RuntimeService, SetNetworkPolicyRequest, UpdateServicesRequest};
use futures::StreamExt;
use network_policy::{Index, PodFacts, Protocol, Rules, Service, ServicePort};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Changes that come this close together are told together. A rollout is a burst of them, and a policy is to hold within a
/// second of being made.
const SETTLE: Duration = Duration::from_millis(20);
/// What the runtime did not take is told again after this.
const RETRY: Duration = Duration::from_millis(500);
/// Sandboxes told at the same moment.
const PARALLEL: usize = 16;

/// What one sandbox was told last. Held while it is told, so that the last to be told is the newest.
#[derive(Default)]
struct Told {
    sandbox: String,
    rules: tokio::sync::Mutex<Option<Rules>>,
}

/// What the runtime knows of Services.
#[derive(Default)]
struct ToldServices {
    version: u64,
    /// How often it was told of all.
    fulls: u64,
    services: BTreeMap<(String, String), Service>,
}

/// Rules and Services on this node.
pub(crate) struct Networks {
    runtime: Arc<dyn RuntimeService>,
    domain: String,
    services: Informer<core::Service>,
    slices: Informer<EndpointSlice>,
    index: Mutex<Index>,
    /// By the pod's uid.
    told: Mutex<HashMap<String, Arc<Told>>>,
    told_services: tokio::sync::Mutex<ToldServices>,
    ready: watch::Sender<bool>,
    /// A runtime that is not ours has its own ways; it is not asked again.
    unsupported: AtomicBool,
}

/// The next change of something that may not be watched yet.
async fn next<K: Object>(changes: &mut Option<Subscription<K>>) -> Option<Change<K>> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn key_of<K: client::kube::Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

impl Networks {
    pub(crate) fn new(runtime: Arc<dyn RuntimeService>, informers: &Informers, domain: &str) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            domain: domain.to_owned(),
            services: informers.get(),
            slices: informers.get(),
            index: Mutex::default(),
            told: Mutex::default(),
            told_services: tokio::sync::Mutex::default(),
            ready: watch::Sender::new(false),
            unsupported: AtomicBool::new(false),
        })
    }

    /// Tells a sandbox the rules of its pod, and of every change from now on. Waits until the rules are known.
    pub(crate) async fn deliver(&self, pod: &core::Pod, sandbox: &str) -> Result<(), cri::Error> {
        // The sender is a field of this very value: it cannot be gone.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let told = self.follow(&uid, sandbox, PodFacts::of(pod));
        self.tell(&uid, &told, true).await
    }

    fn follow(&self, uid: &str, sandbox: &str, facts: PodFacts) -> Arc<Told> {
        self.index.lock().apply_subject(uid, facts);
        let mut all = self.told.lock();
        let entry = all.entry(uid.to_owned()).or_default();
        if entry.sandbox != sandbox {
            *entry = Arc::new(Told { sandbox: sandbox.to_owned(), ..Told::default() });
        }
        entry.clone()
    }

    /// Tells a sandbox its rules if they are others than it was told last, or `always`.
    async fn tell(&self, uid: &str, told: &Told, always: bool) -> Result<(), cri::Error> {
        if self.unsupported.load(Relaxed) {
            return Ok(());
        }
        let fulls = self.told_services.lock().await.fulls;
        let mut last = told.rules.lock().await;
        let rules = self.index.lock().rules(uid);
        if !always && last.as_ref() == Some(&rules) {
            return Ok(());
        }
        let request = SetNetworkPolicyRequest {
            pod_sandbox_id: told.sandbox.clone(),
            rules: serde_json::to_vec(&rules).unwrap_or_default(),
        };
        match self.runtime.set_network_policy(request).await {
            Ok(answer) => {
                *last = Some(rules);
                drop(last);
                // It was restarted since.
                if answer.services_version == 0 { self.tell_services(Some(fulls)).await } else { Ok(()) }
            }
            Err(cri::Error::Unimplemented(_)) => {
                self.unsupported.store(true, Relaxed);
                tracing::warn!("the runtime does not enforce network policies");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the runtime which Services changed; or of all of them, unless that was done since there were so many `fulls`.
    async fn tell_services(&self, fulls: Option<u64>) -> Result<(), cri::Error> {
        if self.unsupported.load(Relaxed) {
            return Ok(());
        }
        let mut told = self.told_services.lock().await;
        if fulls.is_some_and(|fulls| fulls != told.fulls) {
            return Ok(());
        }
        let now = compute_services(&self.services.list(), &self.slices.list());
        let all = fulls.is_some() || told.version == 0;
        let changed: Vec<&Service> = now
            .iter()
            .filter(|(key, service)| all || told.services.get(*key) != Some(*service))
            .map(|(_, service)| service)
            .collect();
        let removed: Vec<&(String, String)> =
            told.services.keys().filter(|key| !all && !now.contains_key(*key)).collect();
        if !all && changed.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let to = told.version + 1;
        let request = UpdateServicesRequest {
            from: if all { 0 } else { told.version },
            to,
            services: serde_json::to_vec(&changed).unwrap_or_default(),
            removed: serde_json::to_vec(&removed).unwrap_or_default(),
            cluster_domain: self.domain.clone(),
        };
        match self.runtime.update_services(request).await {
            Ok(_) => {
                *told = ToldServices { version: to, fulls: told.fulls + u64::from(all), services: now };
            }
            Err(cri::Error::Unimplemented(_)) => {
                self.unsupported.store(true, Relaxed);
                tracing::debug!("the runtime does not resolve services");
            }
            Err(error) => {
                // It may know other things than thought: it hears all next time.
                told.version = 0;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Follows policies and Services until dropped. `own` are the pods of this node.
    pub(crate) async fn run(self: Arc<Self>, informers: Informers, own: Informer<core::Pod>) {
        let policies = informers.get::<NetworkPolicy>();
        let mut follower = Follower {
            networks: self.clone(),
            policies: policies.clone(),
            informers,
            pods: None,
            namespaces: None,
            dirty: false,
            services_dirty: true,
        };
        let (mut policy_changes, mut own_changes) = (policies.subscribe(), own.subscribe());
        let (mut service_changes, mut slice_changes) = (self.services.subscribe(), self.slices.subscribe());
        if !(policies.synced().await
            && own.synced().await
            && self.services.synced().await
            && self.slices.synced().await)
        {
            return;
        }
        for policy in policies.list() {
            self.index.lock().apply_policy(&policy);
        }
        if !policies.is_empty() && !follower.watch_everything().await {
            return;
        }
        self.take_up(&own).await;
        self.ready.send_replace(true);
        let (mut pod_changes, mut namespace_changes) = follower.subscribe();
        let mut due: Option<Instant> = Some(Instant::now());
        loop {
            tokio::select! {
                change = policy_changes.next() => match change {
                    Some(change) => {
                        follower.policy(change);
                        if pod_changes.is_none() && !policies.is_empty() {
                            if !follower.watch_everything().await {
                                return;
                            }
                            (pod_changes, namespace_changes) = follower.subscribe();
                        }
                    }
                    None => return,
                },
                change = next(&mut pod_changes) => match change {
                    Some(change) => follower.pod(change),
                    None => return,
                },
                change = next(&mut namespace_changes) => match change {
                    Some(change) => follower.namespace(change),
                    None => return,
                },
                change = own_changes.next() => match change {
                    Some(change) => follower.own(change, &own),
                    None => return,
                },
                change = service_changes.next() => match change {
                    Some(_) => follower.services_dirty = true,
                    None => return,
                },
                change = slice_changes.next() => match change {
                    Some(_) => follower.services_dirty = true,
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = follower.flush().await.then(|| Instant::now() + RETRY);
                    continue;
                }
            }
            if due.is_none() && (follower.dirty || follower.services_dirty) {
                due = Some(Instant::now() + SETTLE);
            }
        }
    }

    /// The runtime hears of Services before it makes a container, and sandboxes that an earlier kubelet made hear what
    /// changed meanwhile.
    async fn take_up(&self, own: &Informer<core::Pod>) {
        while self.tell_services(None).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        let listed = loop {
            match self.runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await {
                Ok(listed) => break listed.items,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        };
        let ready = cri::PodSandboxState::Ready as i32;
        let of_uid: BTreeMap<&String, &String> = listed
            .iter()
            .filter(|sandbox| sandbox.state == ready)
            .filter_map(|sandbox| Some((sandbox.labels.get(POD_UID)?, &sandbox.id)))
            .collect();
        for pod in own.list() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if let Some(sandbox) = of_uid.get(&uid) {
                self.follow(&uid, sandbox, PodFacts::of(&pod));
            }
        }
    }
}

/// Takes changes into the index.
struct Follower {
    networks: Arc<Networks>,
    policies: Informer<NetworkPolicy>,
    informers: Informers,
    pods: Option<Informer<core::Pod>>,
    namespaces: Option<Informer<core::Namespace>>,
    dirty: bool,
    services_dirty: bool,
}

type Subscriptions = (Option<Subscription<core::Pod>>, Option<Subscription<core::Namespace>>);

impl Follower {
    /// Begins to watch all pods and namespaces; false when the kubelet ends meanwhile.
    async fn watch_everything(&mut self) -> bool {
        let (pods, namespaces) = (self.informers.get::<core::Pod>(), self.informers.get::<core::Namespace>());
        (self.pods, self.namespaces) = (Some(pods.clone()), Some(namespaces.clone()));
        if !(pods.synced().await && namespaces.synced().await) {
            return false;
        }
        let mut index = self.networks.index.lock();
        namespaces.list().iter().for_each(|namespace| index.apply_namespace(namespace));
        pods.list().iter().for_each(|pod| index.apply_pod(pod));
        true
    }

    fn subscribe(&self) -> Subscriptions {
        (self.pods.as_ref().map(Informer::subscribe), self.namespaces.as_ref().map(Informer::subscribe))
    }

    fn policy(&mut self, change: Change<NetworkPolicy>) {
        let mut index = self.networks.index.lock();
        match change {
            Change::Applied(policy) => index.apply_policy(&policy),
            Change::Deleted(policy) => {
                let (namespace, name) = key_of(&*policy);
                index.remove_policy(&namespace, &name);
            }
            Change::Resync => {
                let there: BTreeSet<_> =
                    self.policies.list().iter().map(|policy| key_of(&**policy)).collect();
                let gone: Vec<_> = index.policies().filter(|key| !there.contains(*key)).cloned().collect();
                gone.iter().for_each(|(namespace, name)| index.remove_policy(namespace, name));
            }
        }
        self.dirty = true;
    }

    fn pod(&mut self, change: Change<core::Pod>) {
        let mut index = self.networks.index.lock();
        match change {
            Change::Applied(pod) => index.apply_pod(&pod),
            Change::Deleted(pod) => {
                let (namespace, name) = key_of(&*pod);
                index.remove_pod(&namespace, &name);
            }
            Change::Resync => {
                let all = self.pods.iter().flat_map(Informer::list);
                let there: BTreeSet<_> = all.map(|pod| key_of(&*pod)).collect();
                let gone: Vec<_> = index.pods().filter(|key| !there.contains(*key)).cloned().collect();
                gone.iter().for_each(|(namespace, name)| index.remove_pod(namespace, name));
            }
        }
        self.dirty |= index.is_dirty();
    }

    fn namespace(&mut self, change: Change<core::Namespace>) {
        let mut index = self.networks.index.lock();
        match change {
            Change::Applied(namespace) => index.apply_namespace(&namespace),
            Change::Deleted(namespace) => index.remove_namespace(&key_of(&*namespace).1),
            Change::Resync => {
                let all = self.namespaces.iter().flat_map(Informer::list);
                let there: BTreeSet<_> = all.map(|namespace| key_of(&*namespace).1).collect();
                let gone: Vec<_> =
                    index.namespaces().filter(|name| !there.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| index.remove_namespace(name));
            }
        }
        self.dirty |= index.is_dirty();
    }

    /// A pod of this node: others' labels may have been given to it, or it is gone.
    fn own(&mut self, change: Change<core::Pod>, own: &Informer<core::Pod>) {
        let mut index = self.networks.index.lock();
        let mut told = self.networks.told.lock();
        match change {
            Change::Applied(pod) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                if told.contains_key(uid) {
                    index.apply_subject(uid, PodFacts::of(&pod));
                }
            }
            Change::Deleted(pod) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                index.remove_subject(uid);
                told.remove(uid);
            }
            Change::Resync => {
                let there: BTreeSet<_> =
                    own.list().iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
                told.retain(|uid, _| {
                    there.contains(uid) || {
                        index.remove_subject(uid);
                        false
                    }
                });
            }
        }
        self.dirty |= index.is_dirty();
    }

    /// Tells the runtime what changed; says whether something is to be told again.
    async fn flush(&mut self) -> bool {
        let networks = &self.networks;
        let (dirty, services_dirty) = (networks.index.lock().take_dirty(), self.services_dirty);
        (self.dirty, self.services_dirty) = (false, false);
        if services_dirty && let Err(error) = networks.tell_services(None).await {
            tracing::debug!(%error, "the runtime did not take what changed of services");
            self.services_dirty = true;
        }
        let telling = futures::stream::iter(dirty).map(|uid| async move {
            let told = networks.told.lock().get(&*uid).cloned()?;
            match networks.tell(&uid, &told, false).await {
                // A sandbox that is gone has nobody to protect.
                Ok(()) | Err(cri::Error::NotFound(_)) => None,
                Err(error) => {
                    tracing::debug!(%error, sandbox = told.sandbox, "a sandbox did not take its rules");
                    Some(uid)
                }
            }
        });
        let failed: Vec<_> =
            telling.buffer_unordered(PARALLEL).filter_map(|uid| async { uid }).collect().await;
        self.dirty = !failed.is_empty();
        let mut index = self.networks.index.lock();
        failed.into_iter().for_each(|uid| index.mark_dirty(&uid));
        self.dirty || self.services_dirty
    }
}

/// All Services with the endpoints that take connections now.
fn compute_services(
    services: &[Arc<core::Service>],
    slices: &[Arc<EndpointSlice>],
) -> BTreeMap<(String, String), Service> {
    let endpoints = ServiceEndpoints::of(slices);
    let mut all = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let (namespace, name) = key_of(&**service);
        let ips = match &spec.cluster_ips {
            Some(ips) => ips.iter().collect::<Vec<_>>(),
            None => spec.cluster_ip.iter().collect(),
        };
        let port = |port: &core::ServicePort| {
            Some(ServicePort {
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
                endpoints: endpoints.addresses(&namespace, &name, port.name.as_deref().unwrap_or_default()),
            })
        };
        let service = Service {
            cluster_ips: ips.into_iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).collect(),
            external_name: spec
                .external_name
                .clone()
                .filter(|_| spec.type_.as_deref() == Some("ExternalName")),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            client_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            namespace: namespace.clone(),
            name: name.clone(),
        };
        all.insert((namespace, name), service);
    }
    all
}

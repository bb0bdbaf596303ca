//! Who hears of what: pods from the API, events from the runtime, one worker for each pod.
//!
//! Invariant: a sandbox that stands for no pod of the API is removed; one that does is taken over as it is,
//! whoever started it.
use crate::container_config::{Dns, POD_UID, log_dir_name};
use crate::mailbox::{Mailbox, reference};
use crate::metrics::Metrics;
use crate::networks::Networks;
use crate::objects::ObjectReader;
use crate::probes::Prober;
use crate::status::writer::StatusWriter;
use crate::status::{Eviction, is_terminal};
use crate::volumes::apply::remove_pod_dirs;
use crate::volumes::pod_dir;
use crate::worker::Worker;
use client::k8s_openapi::api::core::v1 as core;
use client::{Change, Client, EventType, Informer, Recorder};
use cri::{ImageService, RuntimeService};
use futures::StreamExt;
use jiff::Timestamp;
use machinery::ambient::Ambient;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Questions to the runtime at once, by workers whose pods may have changed: an answer takes less than a millisecond, so
/// that ten thousand are through in seconds, and each takes some ten kilobytes while it is under way.
pub(crate) const PARALLEL_OBSERVATIONS: usize = 64;

/// Everything is listed again this often while events come (upstream's evented PLEG: 300 s; lists are cheap here).
const RELIST: Duration = Duration::from_secs(60);
/// And this often while they do not (upstream's generic PLEG).
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Between tries to get the event stream back.
const RECONNECT: Duration = Duration::from_millis(200);
/// Sandboxes and containers that are made at the same moment. More would only make each of them slower: making
/// one is work for a core, and a node has tens of them, not hundreds.
pub(crate) const PARALLEL_STARTS: usize = 64;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) node_name: String,
    pub(crate) host_ip: String,
    pub(crate) root_dir: PathBuf,
    pub(crate) logs_dir: PathBuf,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) prober: Arc<dyn Prober>,
    pub(crate) runtime_name: String,
    pub(crate) recorder: Recorder,
    pub(crate) ambient: Ambient,
    pub(crate) objects: ObjectReader,
    pub(crate) services: Informer<core::Service>,
    pub(crate) networks: Arc<Networks>,
    pub(crate) statuses: StatusWriter,
    pub(crate) dns: Dns,
    pub(crate) memory_bytes: i64,
    pub(crate) allocatable: BTreeMap<String, String>,
    pub(crate) starts: Semaphore,
    /// Workers that ask the runtime what there is: each answer takes some ten kilobytes on its way.
    pub(crate) observations: Semaphore,
}

impl Shared {
    /// How long it is until a time of day.
    pub(crate) fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.ambient.now())).unwrap_or_default()
    }
}

/// The pods of this node, for the HTTPS server.
#[derive(Clone, Default)]
pub struct Registry {
    pods: Arc<RwLock<HashMap<(String, String), Entry>>>,
}

/// One pod: its object's uid and what its status says.
#[derive(Clone)]
pub struct Entry {
    pub uid: String,
    pub mailbox: Arc<Mailbox>,
}

impl Registry {
    /// The pod of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Entry> {
        self.pods.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
    pub fn len(&self) -> usize {
        self.pods.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The loop's own state.
pub(crate) struct Agent {
    shared: Arc<Shared>,
    pods: Informer<core::Pod>,
    registry: Registry,
    max_pods: usize,
    shutdown: CancellationToken,
    /// By uid.
    workers: HashMap<String, Running>,
    tasks: JoinSet<String>,
    cleaning: JoinSet<()>,
    /// Pods whose remains are being removed, and by which task.
    orphans: HashMap<String, tokio::task::Id>,
    /// What the last list showed, by pod uid: the sandboxes, and a hash over all states.
    listed: BTreeMap<String, Vec<String>>,
    hashes: HashMap<String, u64>,
}

struct Running {
    mailbox: Arc<Mailbox>,
    key: (String, String),
    task: tokio::task::Id,
}

fn key_of(pod: &core::Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

impl Agent {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pods: Informer<core::Pod>,
        registry: Registry,
        max_pods: u32,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            shared,
            pods,
            registry,
            max_pods: max_pods as usize,
            shutdown,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            cleaning: JoinSet::new(),
            orphans: HashMap::new(),
            listed: BTreeMap::new(),
            hashes: HashMap::new(),
        }
    }

    /// Runs until the shutdown, then waits for the workers to let go.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        shutdown.run_until_cancelled(self.follow()).await;
        while self.tasks.join_next().await.is_some() {}
        self.cleaning.shutdown().await;
    }

    async fn follow(&mut self) {
        let runtime = self.shared.runtime.clone();
        // The subscription stands before the list, so nothing falls between.
        let mut events = runtime.get_container_events(cri::GetEventsRequest {}).await.ok();
        let mut reconnect = Instant::now() + RECONNECT;
        while let Err(error) = self.relist().await {
            tracing::warn!(%error, "cannot list the runtime's sandboxes, trying again");
            tokio::time::sleep(RECONNECT).await;
        }
        let mut changes = self.pods.subscribe();
        if !self.pods.synced().await {
            return;
        }
        self.ensure_workers();
        self.remove_orphans();
        self.remove_old_dirs();
        let mut relist = Instant::now() + RELIST;
        loop {
            let event = async {
                match &mut events {
                    Some(stream) => stream.next().await,
                    None => {
                        tokio::time::sleep_until(reconnect).await;
                        None
                    }
                }
            };
            tokio::select! {
                change = changes.next() => match change {
                    Some(Change::Applied(pod)) => self.applied(pod),
                    Some(Change::Deleted(pod)) => self.deleted(pod.metadata.uid.as_deref().unwrap_or_default()),
                    Some(Change::Resync) => self.resynced(),
                    None => return,
                },
                event = event => match event {
                    Some(Ok(event)) => self.happened(&event),
                    Some(Err(_)) | None => {
                        let mut wait = RECONNECT;
                        events = match events {
                            Some(_) => None,
                            None => match runtime.get_container_events(cri::GetEventsRequest {}).await {
                                Ok(stream) => Some(stream),
                                // It is being started: whether it is back costs one `connect` to find out.
                                Err(cri::Error::Unavailable(_)) => None,
                                Err(_) => {
                                    wait = RELIST_WITHOUT_EVENTS;
                                    None
                                }
                            },
                        };
                        reconnect = Instant::now() + wait;
                        // Whatever was missed shows in a list.
                        relist = Instant::now();
                    }
                },
                Some(done) = self.tasks.join_next() => self.finished(done),
                Some(done) = self.cleaning.join_next_with_id() => {
                    let task = done.map_or_else(|e| e.id(), |(id, ())| id);
                    self.orphans.retain(|_, own| *own != task);
                }
                _ = tokio::time::sleep_until(relist) => {
                    let wait = if events.is_some() { RELIST } else { RELIST_WITHOUT_EVENTS };
                    match self.relist().await {
                        Ok(()) => {
                            self.ensure_workers();
                            self.remove_orphans();
                        }
                        Err(error) => tracing::debug!(%error, "cannot list the runtime's sandboxes"),
                    }
                    relist = Instant::now() + wait;
                }
            }
        }
    }

    /// A worker for every pod there is.
    fn ensure_workers(&mut self) {
        for pod in self.pods.list() {
            if !pod.metadata.uid.as_ref().is_some_and(|uid| self.workers.contains_key(uid)) {
                self.applied(pod);
            }
        }
    }

    fn applied(&mut self, pod: Arc<core::Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(running) = self.workers.get(&uid) {
            running.mailbox.put(|m| m.pod = Some(pod));
            return;
        }
        let key = key_of(&pod);
        // The one before of that name is gone, though nobody said so.
        if let Some(old) = self.registry.get(&key.0, &key.1)
            && old.uid != uid
        {
            self.deleted(&old.uid);
        }
        let sandboxes = self.listed.get(&uid).cloned().unwrap_or_default();
        let eviction = self.refuse(&pod, &sandboxes);
        let mailbox = Arc::new(Mailbox::new(&pod, self.shared.recorder.clone()));
        let entry = Entry { uid: uid.clone(), mailbox: mailbox.clone() };
        self.registry.pods.write().insert(key.clone(), entry);
        let worker = Worker::new(self.shared.clone(), mailbox.clone(), pod, sandboxes, eviction);
        let (shutdown, id) = (self.shutdown.clone(), uid.clone());
        let task = self.tasks.spawn(async move {
            worker.run(shutdown).await;
            id
        });
        self.workers.insert(uid, Running { mailbox, key, task: task.id() });
    }

    /// Why a new pod is not taken: the node is full.
    fn refuse(&self, pod: &core::Pod, sandboxes: &[String]) -> Option<Eviction> {
        let known = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        if self.workers.len() < self.max_pods
            || known
            || !sandboxes.is_empty()
            || pod.metadata.deletion_timestamp.is_some()
        {
            return None;
        }
        let active =
            self.workers.values().filter(|w| !is_terminal(w.mailbox.shown().phase.as_deref())).count();
        if active < self.max_pods {
            return None;
        }
        let message = format!(
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: {active}, capacity: {}",
            self.max_pods
        );
        self.shared.recorder.event_about(
            reference(pod, None),
            EventType::Warning,
            "OutOfpods",
            message.as_str(),
        );
        Some(Eviction { reason: "OutOfpods".into(), message })
    }

    fn deleted(&mut self, uid: &str) {
        if let Some(running) = self.workers.get(uid) {
            running.mailbox.put(|m| m.gone = true);
        }
    }

    /// Deletions may have been missed: whoever is not there any more is gone.
    fn resynced(&mut self) {
        let there: HashSet<String> = self.pods.list().iter().filter_map(|p| p.metadata.uid.clone()).collect();
        let gone: Vec<String> = self.workers.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        for uid in gone {
            self.deleted(&uid);
        }
    }

    /// Only ends are news: what is made and started here is known here.
    fn happened(&mut self, event: &cri::ContainerEventResponse) {
        if event.container_event_type != cri::ContainerEventType::Stopped as i32 {
            return;
        }
        let Some(sandbox) = &event.pod_sandbox_status else { return };
        if let Some(running) = sandbox.labels.get(POD_UID).and_then(|uid| self.workers.get(uid)) {
            running.mailbox.put(|m| m.runtime = true);
        }
    }

    fn finished(&mut self, done: Result<String, tokio::task::JoinError>) {
        match done {
            Ok(uid) => self.forget(&uid),
            Err(e) => {
                // A worker that broke is forgotten; the next list begins its pod anew.
                let broken = self.workers.iter().find(|(_, r)| r.task == e.id()).map(|(uid, _)| uid.clone());
                tracing::error!(error = %e, pod = broken, "a pod's worker ended unexpectedly");
                if let Some(uid) = broken {
                    self.forget(&uid);
                }
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        self.listed.remove(uid);
        self.hashes.remove(uid);
        if let Some(running) = self.workers.remove(uid) {
            let mut pods = self.registry.pods.write();
            if pods.get(&running.key).is_some_and(|e| e.uid == uid) {
                pods.remove(&running.key);
            }
        }
    }

    /// Lists everything and wakes the pods of which something changed.
    async fn relist(&mut self) -> Result<(), cri::Error> {
        let began = Instant::now();
        let runtime = &*self.shared.runtime;
        let sandboxes = runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await?;
        let containers = runtime.list_containers(cri::ListContainersRequest { filter: None }).await?;
        let mut hashers: HashMap<String, DefaultHasher> = HashMap::new();
        let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut all: Vec<(&String, &str, i32)> = Vec::new();
        for s in &sandboxes.items {
            if let Some(uid) = s.labels.get(POD_UID) {
                all.push((uid, &s.id, s.state));
                listed.entry(uid.clone()).or_default().push(s.id.clone());
            }
        }
        for c in &containers.containers {
            all.extend(c.labels.get(POD_UID).map(|uid| (uid, c.id.as_str(), c.state)));
        }
        all.sort_unstable();
        for (uid, id, state) in all {
            (id, state).hash(hashers.entry(uid.clone()).or_default());
        }
        let hashes: HashMap<String, u64> = hashers.into_iter().map(|(uid, h)| (uid, h.finish())).collect();
        for (uid, running) in &self.workers {
            if hashes.get(uid) != self.hashes.get(uid) {
                let sandboxes = listed.get(uid).cloned().unwrap_or_default();
                running.mailbox.put(|m| {
                    m.runtime = true;
                    m.sandboxes = sandboxes;
                });
            }
        }
        self.listed = listed;
        self.hashes = hashes;
        self.shared.metrics.relisted(began.elapsed());
        Ok(())
    }

    /// Removes sandboxes of pods that are not in the API.
    fn remove_orphans(&mut self) {
        let orphans: Vec<(String, Vec<String>)> = self
            .listed
            .iter()
            .filter(|(uid, _)| !self.workers.contains_key(*uid) && !self.orphans.contains_key(*uid))
            .map(|(uid, ids)| (uid.clone(), ids.clone()))
            .collect();
        for (uid, ids) in orphans {
            tracing::info!(uid, sandboxes = ids.len(), "removing what is left of a pod that is gone");
            self.listed.remove(&uid);
            let (shared, of) = (self.shared.clone(), uid.clone());
            let task = self.cleaning.spawn(async move {
                for id in ids {
                    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
                    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
                    // What fails now is found again by the next list.
                    if shared.runtime.stop_pod_sandbox(stop).await.is_ok() {
                        let _ = shared.runtime.remove_pod_sandbox(remove).await;
                    }
                }
                let dir = pod_dir(&shared.root_dir, &uid);
                let _ = crate::blocking::blocking(move || remove_pod_dirs(&[dir])).await;
            });
            self.orphans.insert(of, task.id());
        }
    }

    /// Removes directories of pods that are gone since before this process started.
    fn remove_old_dirs(&mut self) {
        let uids: HashSet<String> = self.workers.keys().cloned().collect();
        let logs: HashSet<String> =
            self.workers.iter().map(|(uid, r)| log_dir_name(&r.key.0, &r.key.1, uid)).collect();
        let (pods, logs_dir) = (self.shared.root_dir.join("pods"), self.shared.logs_dir.clone());
        self.cleaning.spawn(async move {
            let _ = crate::blocking::blocking(move || {
                for (dir, keep) in [(pods, uids), (logs_dir, logs)] {
                    let Ok(entries) = std::fs::read_dir(&dir) else { continue };
                    let old: Vec<PathBuf> = entries
                        .flatten()
                        .filter(|e| !e.file_name().to_str().is_some_and(|n| keep.contains(n)))
                        .map(|e| e.path())
                        .collect();
                    if let Err(error) = remove_pod_dirs(&old) {
                        tracing::warn!(%error, dir = %dir.display(), "cannot remove what is left of old pods");
                    }
                }
            })
            .await;
        });
    }
}

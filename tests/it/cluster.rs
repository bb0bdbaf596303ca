//! A cluster: API server over a store in memory, controllers, scheduler, and nodes that only pretend.
use crate::node_agent::NodeAgent;
use apiserver::{ApiServer, UserInfo};
use client::{Informer, Informers, Object};
use controllers::Config;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Client, Resource};
use machinery::ambient::Ambient;
use machinery::metrics::MetricsReader;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{MemoryStore, Retention};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// 2026-01-01T00:00:00Z: when every simulated cluster begins.
const BEGINNING: i64 = 1_767_225_600;
/// The longest simulated time a state is waited for. Longer than any grace period or deadline in these tests.
const PATIENCE: Duration = Duration::from_secs(3600);

pub struct Cluster {
    pub client: Client,
    pub informers: Informers,
    pub ambient: Ambient,
    api: ApiServer,
    shutdown: CancellationToken,
    controllers: CancellationToken,
    tasks: JoinSet<()>,
    config: Config,
}

/// Time that follows tokio's clock, and random numbers from a seed.
pub fn ambient(seed: u64) -> Ambient {
    let start = Instant::now();
    let state = AtomicU64::new(seed);
    Ambient::new(
        move || {
            let passed = i64::try_from(start.elapsed().as_millis()).unwrap();
            jiff::Timestamp::from_millisecond(BEGINNING * 1000 + passed).unwrap()
        },
        // SplitMix64.
        move || {
            let mut z =
                state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        },
    )
}

impl Cluster {
    /// A cluster without nodes.
    pub async fn start() -> Self {
        Self::with(Config { root_ca_pem: "PEM".into(), ..Config::default() }).await
    }

    pub async fn with(config: Config) -> Self {
        Self::measured(config, None).await
    }

    /// A cluster in which `metrics` knows what nodes and pods use.
    pub async fn measured(config: Config, metrics: Option<Arc<dyn MetricsReader>>) -> Self {
        let ambient = ambient(1);
        let clock = ambient.clone();
        let clock: store::Clock = Arc::new(move || u64::try_from(clock.now().as_millisecond()).unwrap());
        let store = Arc::new(MemoryStore::new(clock, Retention::default()));
        let api =
            ApiServer::new(apiserver::Config { metrics, ..apiserver::Config::new(store, ambient.clone()) });
        api.ensure_bootstrap().await.unwrap();
        let shutdown = CancellationToken::new();
        let client = door(&api, "kubernetes-admin", "system:masters");
        let informers = Informers::new(client.clone(), shutdown.clone());
        let mut tasks = JoinSet::new();
        let scheduler = door(&api, "system:kube-scheduler", "system:authenticated");
        let scheduler_informers = Informers::new(scheduler.clone(), shutdown.clone());
        tasks.spawn(scheduler::run(
            scheduler::Config::default(),
            scheduler,
            scheduler_informers,
            ambient.clone(),
            shutdown.clone(),
        ));
        let controllers = shutdown.child_token();
        let mut cluster = Self { client, informers, ambient, api, shutdown, controllers, tasks, config };
        cluster.start_controllers();
        cluster
    }

    fn start_controllers(&mut self) {
        let stop = self.shutdown.child_token();
        self.controllers = stop.clone();
        self.run_controllers(self.config.clone(), stop);
    }

    /// Starts another process of controllers beside the first.
    pub fn second_controllers(&mut self, config: Config) {
        self.run_controllers(config, self.shutdown.child_token());
    }

    /// Stops the first controllers in good order.
    pub fn stop_controllers(&self) {
        self.controllers.cancel();
    }

    fn run_controllers(&mut self, config: Config, stop: CancellationToken) {
        let client = door(&self.api, "system:kube-controller-manager", "system:authenticated");
        let informers = Informers::new(client.clone(), stop.clone());
        self.tasks.spawn(controllers::run(config, client, informers, self.ambient.clone(), stop));
    }

    /// Stops all controllers, as a crash of their process would, and starts them anew: they know nothing.
    pub fn restart_controllers(&mut self) {
        self.controllers.cancel();
        self.start_controllers();
    }

    /// A node that runs its pods at once.
    pub async fn node(&mut self, name: &str) -> NodeAgent {
        let client = door(&self.api, &format!("system:node:{name}"), "system:nodes");
        NodeAgent::start(name, client, self.ambient.clone(), self.shutdown.child_token(), &mut self.tasks)
            .await
    }

    /// A client as some user, and a token that ends with the cluster.
    pub fn enter(&self, user: &str, group: &str) -> (Client, CancellationToken) {
        (door(&self.api, user, group), self.shutdown.child_token())
    }

    /// A task that must end with the cluster.
    pub fn keep(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Stops everything and waits for it: a task that does not end is a fault.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.transpose().unwrap().is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("every task ends after the shutdown");
    }

    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates an object in `default` from JSON.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let namespace = object.meta().namespace.clone().unwrap_or_else(|| "default".into());
        self.api::<K>(&namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    /// Merges into an object in `default`.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.api::<K>("default").patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap()
    }

    /// Deletes an object in `default`.
    pub async fn delete<K>(&self, name: &str, policy: PropagationPolicy)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        self.api::<K>("default").delete(name, &params).await.unwrap();
    }

    /// Waits until the objects of a kind are as `want` says, looking again at each change.
    pub async fn until<K>(&self, what: &str, want: impl Fn(&Informer<K>) -> bool)
    where
        K: Object + Resource<DynamicType = ()>,
    {
        let informer = self.informers.get::<K>();
        assert!(informer.synced().await);
        let mut changes = informer.subscribe();
        let waiting = async {
            while !want(&informer) {
                changes.next().await.expect("the informers run");
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("never: {what}; there is: {:?}", informer.list());
        }
    }

    /// Lets simulated time pass while everything goes on.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

fn door(api: &ApiServer, user: &str, group: &str) -> Client {
    client::in_process(api.service(UserInfo::new(user, [group])), "default")
}

/// A pod template with the label `app` and one container.
pub fn template(app: &str, image: &str) -> Value {
    serde_json::json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "containers": [{ "name": "c", "image": image, "ports": [{ "containerPort": 8080 }] }] },
    })
}

//! A node's machine: a fake runtime that outlives the kubelet, and the way from the one to the other.
use crate::door::Net;
use crate::gate::Gate;
use crate::mutants::Mutant;
use crate::state::ContainerRecord;
use async_trait::async_trait;
use cri::fake::FakeRuntime;
use cri::*;
use futures::FutureExt;
use kubelet::probes::Outcome;
use kubelet::probes::attempt::{Question, Target};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// What runs and stands on one machine, as the machine itself knows.
pub struct Machine {
    pub node: String,
    pub runtime: FakeRuntime,
    /// Calls that go on although their caller died.
    calls: Mutex<JoinSet<()>>,
}

impl Machine {
    /// The `number`-th machine.
    pub fn new(node: &str, number: u64) -> Self {
        // Sixteen machines with four thousand addresses each fill the range of pod addresses.
        let runtime = FakeRuntime::new().numbered_from(number * 4064);
        Self { node: node.to_owned(), runtime, calls: Mutex::default() }
    }

    /// Containers in that state, with their labels. `None` while the runtime is away.
    pub fn containers(&self, state: Option<ContainerState>) -> Option<Vec<Container>> {
        let filter = state.map(|s| ContainerFilter {
            state: Some(ContainerStateValue { state: s as i32 }),
            ..ContainerFilter::default()
        });
        let listed = self.runtime.list_containers(ListContainersRequest { filter }).now_or_never()?;
        self.runtime.clear_calls();
        listed.ok().map(|l| l.containers)
    }

    pub fn sandboxes(&self) -> Option<Vec<PodSandbox>> {
        let listed = self.runtime.list_pod_sandbox(ListPodSandboxRequest { filter: None }).now_or_never()?;
        listed.ok().map(|l| l.items)
    }

    /// How often each container of each pod runs at this moment.
    fn running(&self) -> BTreeMap<(String, String), usize> {
        let mut running = BTreeMap::new();
        for container in self.containers(Some(ContainerState::Running)).unwrap_or_default() {
            let label = |name| container.labels.get(name).cloned().unwrap_or_default();
            *running.entry((label(POD_UID), label(CONTAINER_NAME))).or_default() += 1;
        }
        running
    }
}

/// Probes without a network: what runs is well.
pub struct Prober(pub Arc<Machine>);

#[async_trait]
impl kubelet::probes::Prober for Prober {
    async fn ask(&self, _: &Question, target: &Target, _: Duration) -> Outcome {
        match self.0.runtime.running().contains(&target.container_id) {
            true => Outcome::Success,
            false => Outcome::Failure("connection refused".into()),
        }
    }
}

/// The runtime as one kubelet process reaches it.
#[derive(Clone)]
pub struct Line {
    pub machine: Arc<Machine>,
    pub gate: Gate,
    pub net: Arc<Net>,
    pub mutant: Option<Mutant>,
}

impl Line {
    async fn call<T: Send + 'static>(
        &self,
        rpc: &'static str,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (net, who) = (&self.net, &self.machine.node);
        let (weather, rng) = (net.sky.is(), &net.rng);
        let side = self.gate.pass(rpc).await;
        if rng.chance(weather.cri_slow) {
            tokio::time::sleep(rng.millis(50, 3000)).await;
        }
        if rng.chance(weather.cri_error) {
            net.journal.note(format_args!("fault {who}: {rpc} fails"));
            return Err(Error::Unavailable("injected fault".into()));
        }
        // What was asked for goes on when the asker dies.
        let (sender, answer) = tokio::sync::oneshot::channel();
        let under_way = self.gate.under_way();
        {
            let mut calls = self.machine.calls.lock();
            while calls.try_join_next().is_some() {}
            calls.spawn(async move {
                let _ = sender.send(call.await);
                drop(under_way);
            });
        }
        let answer = answer.await.unwrap_or_else(|_| Err(Error::Unavailable("the runtime ended".into())));
        self.gate.came_back(side, rpc).await;
        if rng.chance(weather.cri_lost) {
            net.journal.note(format_args!("fault {who}: the answer to {rpc} is lost"));
            return Err(Error::DeadlineExceeded("injected fault".into()));
        }
        answer
    }

    /// Notes a container the moment it is made, before anybody can speak of it.
    fn made(net: &Net, node: &str, id: &str, config: &ContainerConfig) {
        let label = |name| config.labels.get(name).cloned().unwrap_or_default();
        let record = ContainerRecord {
            node: node.to_owned(),
            pod_uid: label(POD_UID),
            name: label(CONTAINER_NAME),
            started: false,
        };
        net.journal.note(format_args!(
            "container {node}: {} of pod {} is {}",
            record.name,
            record.pod_uid,
            &id[..12]
        ));
        net.observer.with(|state| state.containers.insert(id.to_owned(), record));
    }

    /// What must hold when a container has just been started.
    fn started(net: &Net, machine: &Machine, id: &str) {
        if let Some(((pod, name), count)) = machine.running().into_iter().find(|(_, count)| *count > 1) {
            let how = format!("{count} containers {name} of pod {pod} run on {}", machine.node);
            return net.journal.broke("a pod has one running container of a name", how);
        }
        let broken = net.observer.with(|state| {
            let record = state.containers.get_mut(id)?;
            record.started = true;
            let record = state.containers.get(id)?;
            let Some(pod) = state.pods.get(&record.pod_uid) else {
                return Some(format!(
                    "container {} of {} was started, the API never had that pod",
                    record.name, record.pod_uid
                ));
            };
            if pod.node.as_deref() != Some(&record.node) {
                return Some(format!(
                    "container {} of {}/{} was started on {}, the pod is bound to {:?}",
                    record.name, pod.namespace, pod.name, record.node, pod.node
                ));
            }
            let again = state
                .containers
                .values()
                .filter(|c| c.started && c.pod_uid == record.pod_uid && c.name == record.name)
                .count();
            (pod.restart_policy == "Never" && again > 1).then(|| {
                format!(
                    "container {} of {}/{}, which is never to be restarted, was started {again} times",
                    record.name, pod.namespace, pod.name
                )
            })
        });
        if let Some(how) = broken {
            net.journal.broke("a container is started where and as often as its pod says", how);
        }
    }
}

/// A service whose calls are passed on as they are, but for the ones written out.
macro_rules! forward {
    ($service:ident { $($method:ident $request:ident $response:ident;)* } $($written_out:tt)*) => {
        #[async_trait]
        impl $service for Line {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                let runtime = self.machine.runtime.clone();
                self.call(stringify!($method), async move { runtime.$method(request).await }).await
            })*
            $($written_out)*
        }
    };
}

forward! {
    RuntimeService {
        version VersionRequest VersionResponse;
        status StatusRequest StatusResponse;
        runtime_config RuntimeConfigRequest RuntimeConfigResponse;
        run_pod_sandbox RunPodSandboxRequest RunPodSandboxResponse;
        stop_pod_sandbox StopPodSandboxRequest StopPodSandboxResponse;
        remove_pod_sandbox RemovePodSandboxRequest RemovePodSandboxResponse;
        pod_sandbox_status PodSandboxStatusRequest PodSandboxStatusResponse;
        list_pod_sandbox ListPodSandboxRequest ListPodSandboxResponse;
        stop_container StopContainerRequest StopContainerResponse;
        remove_container RemoveContainerRequest RemoveContainerResponse;
        list_containers ListContainersRequest ListContainersResponse;
        container_status ContainerStatusRequest ContainerStatusResponse;
        update_container_resources UpdateContainerResourcesRequest UpdateContainerResourcesResponse;
        reopen_container_log ReopenContainerLogRequest ReopenContainerLogResponse;
        exec_sync ExecSyncRequest ExecSyncResponse;
        container_stats ContainerStatsRequest ContainerStatsResponse;
        list_container_stats ListContainerStatsRequest ListContainerStatsResponse;
    }

    async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Error> {
        let (machine, net) = (self.machine.clone(), self.net.clone());
        let config = request.config.clone().unwrap_or_default();
        let call = async move {
            let made = machine.runtime.create_container(request).await?;
            Line::made(&net, &machine.node, &made.container_id, &config);
            Ok(made)
        };
        self.call("create_container", call).await
    }

    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Error> {
        let (machine, net, mutant) = (self.machine.clone(), self.net.clone(), self.mutant);
        let call = async move {
            let id = request.container_id.clone();
            let started = machine.runtime.start_container(request).await?;
            Line::started(&net, &machine, &id);
            if mutant == Some(Mutant::StartsTwice) {
                crate::mutants::start_another(&net, &machine, &id, Line::made, Line::started).await;
            }
            Ok(started)
        };
        self.call("start_container", call).await
    }

    async fn get_container_events(&self, request: GetEventsRequest) -> Result<EventStream, Error> {
        let runtime = self.machine.runtime.clone();
        self.call("get_container_events", async move { runtime.get_container_events(request).await }).await
    }
}

forward! {
    ImageService {
        list_images ListImagesRequest ListImagesResponse;
        image_status ImageStatusRequest ImageStatusResponse;
        pull_image PullImageRequest PullImageResponse;
        remove_image RemoveImageRequest RemoveImageResponse;
        image_fs_info ImageFsInfoRequest ImageFsInfoResponse;
    }
}

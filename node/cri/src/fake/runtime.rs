//! The fake as a runtime service.
use super::state::{Held, Sandbox};
use super::{FakeRuntime, Inner, Run};
use crate::types::*;
use crate::{Error, EventStream, RuntimeService};
use async_trait::async_trait;
use futures::StreamExt;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Handlers a sandbox may ask for.
const HANDLERS: [&str; 3] = ["", "wasmtime", "runc"];

impl Inner {
    fn event(&self, kind: ContainerEventType, container: String, sandbox: String) -> ContainerEventResponse {
        let state = self.state.lock();
        let statuses =
            state.containers.values().filter(|h| h.sandbox == sandbox).map(|h| h.status.clone()).collect();
        ContainerEventResponse {
            container_id: container,
            container_event_type: kind as i32,
            created_at: self.now(),
            pod_sandbox_status: state.sandbox_status(&sandbox).ok(),
            containers_statuses: statuses,
        }
    }

    /// SIGTERM, then SIGKILL when the grace is over; returns at its end.
    async fn stop(&self, id: &str, grace: Duration) {
        let (script, mut ended) = {
            let state = self.state.lock();
            let Ok(held) = state.container(id) else { return };
            match held.status.state() {
                ContainerState::Running => (held.script.clone(), held.ended.subscribe()),
                ContainerState::Exited => return,
                _ => {
                    drop(state);
                    self.end(id, 137, "Error", "");
                    return;
                }
            }
        };
        let (wait, code) = match script.stop_takes {
            Some(takes) if takes <= grace => (takes, script.stop_code),
            _ => (grace, 137),
        };
        tokio::select! {
            _ = tokio::time::sleep(wait) => { self.end(id, code, if code == 0 { "Completed" } else { "Error" }, ""); }
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    fn remove(&self, id: &str) {
        let removed = self.state.lock().containers.remove(id);
        if let Some(held) = removed {
            held.ended.send_replace(true);
            self.emit(ContainerEventType::Deleted, id, &held.sandbox);
        }
    }

    /// Writes a started container's lines where the kubelet looks for them.
    fn write_output(&self, held: &Held, directory: &str) -> std::io::Result<()> {
        if held.status.log_path.is_empty() || held.script.output.is_empty() {
            return Ok(());
        }
        std::fs::create_dir_all(directory)?;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&held.status.log_path)?;
        for line in &held.script.output {
            // The fake's calendar is of no interest: one valid stamp for all.
            writeln!(file, "2026-01-01T00:00:00.000000000Z stdout F {line}")?;
        }
        Ok(())
    }
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: VersionRequest) -> Result<VersionResponse, Error> {
        self.inner.called("Version", "")?;
        Ok(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, _: StatusRequest) -> Result<StatusResponse, Error> {
        self.inner.called("Status", "")?;
        let condition =
            |kind: &str| RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        Ok(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
            }),
            runtime_handlers: HANDLERS
                .iter()
                .map(|name| RuntimeHandler { name: name.to_string(), features: Some(Default::default()) })
                .collect(),
            ..Default::default()
        })
    }

    async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
        self.inner.called("RuntimeConfig", "")?;
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Error> {
        let config = request.config.unwrap_or_default();
        let Some(metadata) = &config.metadata else {
            return Err(Error::InvalidArgument("the sandbox has no metadata".into()));
        };
        self.inner.called("RunPodSandbox", &format!("{}/{}", metadata.namespace, metadata.name))?;
        if !HANDLERS.contains(&request.runtime_handler.as_str()) {
            return Err(Error::InvalidArgument(format!(
                "no runtime handler {:?} on this node",
                request.runtime_handler
            )));
        }
        let mut state = self.inner.state.lock();
        let (id, ip) = (state.next_id(), state.next_ip());
        let sandbox = Sandbox {
            config,
            handler: request.runtime_handler,
            state: PodSandboxState::Ready,
            created_at: self.inner.now(),
            ip,
        };
        state.sandboxes.insert(id.clone(), sandbox);
        drop(state);
        // A sandbox announces itself under its own id, as containerd's does.
        self.inner.emit(ContainerEventType::Created, &id, &id);
        self.inner.emit(ContainerEventType::Started, &id, &id);
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: StopPodSandboxRequest,
    ) -> Result<StopPodSandboxResponse, Error> {
        let id = request.pod_sandbox_id;
        self.inner.called("StopPodSandbox", &id)?;
        let inside = self.inner.state.lock().of_sandbox(&id);
        for container in inside {
            self.inner.stop(&container, Duration::ZERO).await;
        }
        let stopped = match self.inner.state.lock().sandboxes.get_mut(&id) {
            Some(sandbox) if sandbox.state == PodSandboxState::Ready => {
                sandbox.state = PodSandboxState::NotReady;
                sandbox.ip.clear();
                true
            }
            _ => false,
        };
        if stopped {
            self.inner.emit(ContainerEventType::Stopped, &id, &id);
        }
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error> {
        let id = request.pod_sandbox_id;
        self.inner.called("RemovePodSandbox", &id)?;
        let inside = self.inner.state.lock().of_sandbox(&id);
        for container in inside {
            self.inner.end(&container, 137, "Error", "");
            self.inner.remove(&container);
        }
        if self.inner.state.lock().sandboxes.remove(&id).is_some() {
            self.inner.emit(ContainerEventType::Deleted, &id, &id);
        }
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error> {
        let id = request.pod_sandbox_id;
        self.inner.called("PodSandboxStatus", &id)?;
        let state = self.inner.state.lock();
        let status = state.sandbox_status(&id)?;
        let containers_statuses =
            state.containers.values().filter(|h| h.sandbox == id).map(|h| h.status.clone()).collect();
        Ok(PodSandboxStatusResponse {
            status: Some(status),
            containers_statuses,
            timestamp: self.inner.now(),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: ListPodSandboxRequest,
    ) -> Result<ListPodSandboxResponse, Error> {
        self.inner.called("ListPodSandbox", "")?;
        let filter = request.filter.unwrap_or_default();
        let state = self.inner.state.lock();
        let items = state
            .sandboxes
            .iter()
            .filter(|(id, s)| filter.matches(id, s.state, &s.config.labels))
            .map(|(id, sandbox)| PodSandbox {
                id: id.clone(),
                metadata: sandbox.config.metadata.clone(),
                state: sandbox.state as i32,
                created_at: sandbox.created_at,
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
                runtime_handler: sandbox.handler.clone(),
            })
            .collect();
        Ok(ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        let config = request.config.unwrap_or_default();
        let Some(metadata) = config.metadata.clone() else {
            return Err(Error::InvalidArgument("the container has no metadata".into()));
        };
        self.inner.called("CreateContainer", &metadata.name)?;
        let image = config.image.clone().unwrap_or_default();
        let chosen = self.inner.script_fn.lock().clone();
        let mut state = self.inner.state.lock();
        let sandbox = state.sandbox(&request.pod_sandbox_id)?;
        if sandbox.state != PodSandboxState::Ready {
            return Err(Error::FailedPrecondition(format!("sandbox {} is stopped", request.pod_sandbox_id)));
        }
        let Some((reference, image_id)) = state.image(&image.image).map(|(r, i)| (r.clone(), i.clone()))
        else {
            return Err(Error::NotFound(format!("image {:?} is not on this node", image.image)));
        };
        let script = chosen
            .and_then(|choose| choose(&sandbox.config, &config))
            .unwrap_or_else(|| self.inner.script_of_image(&reference));
        if let Some(error) = script.create_error {
            return Err(error);
        }
        let log_path = match (sandbox.config.log_directory.as_str(), config.log_path.as_str()) {
            ("", _) | (_, "") => String::new(),
            (directory, file) => format!("{directory}/{file}"),
        };
        let id = state.next_id();
        let status = ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: ContainerState::Created as i32,
            created_at: self.inner.now(),
            image: config.image.clone(),
            image_ref: image_id.clone(),
            image_id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path,
            ..Default::default()
        };
        let sandbox_id = request.pod_sandbox_id;
        let held =
            Held { sandbox: sandbox_id.clone(), config, script, status, ended: watch::Sender::new(false) };
        state.containers.insert(id.clone(), held);
        drop(state);
        self.inner.emit(ContainerEventType::Created, &id, &sandbox_id);
        Ok(CreateContainerResponse { container_id: id })
    }

    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Error> {
        let id = request.container_id;
        self.inner.called("StartContainer", &id)?;
        let now = self.inner.now();
        let (sandbox, run) = {
            let mut state = self.inner.state.lock();
            let started = state.start(&id, now)?;
            let directory =
                state.sandbox(&started.0).map(|s| s.config.log_directory.clone()).unwrap_or_default();
            self.inner
                .write_output(state.container(&id)?, &directory)
                .map_err(|e| Error::Internal(format!("writing the log of {id}: {e}")))?;
            started
        };
        self.inner.emit(ContainerEventType::Started, &id, &sandbox);
        if let Run::Exit { code, after, reason, message } = run {
            // Weak, or the fake would keep itself alive.
            let inner = Arc::downgrade(&self.inner);
            let mut tasks = self.inner.tasks.lock();
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move {
                tokio::time::sleep(after).await;
                if let Some(inner) = inner.upgrade() {
                    inner.end(&id, code, &reason, &message);
                }
            });
        }
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Error> {
        self.inner.called("StopContainer", &request.container_id)?;
        self.inner.stop(&request.container_id, Duration::from_secs(request.timeout.max(0) as u64)).await;
        Ok(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse, Error> {
        self.inner.called("RemoveContainer", &request.container_id)?;
        self.inner.end(&request.container_id, 137, "Error", "");
        self.inner.remove(&request.container_id);
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Error> {
        self.inner.called("ListContainers", "")?;
        let filter = request.filter.unwrap_or_default();
        let state = self.inner.state.lock();
        let containers = state
            .containers
            .values()
            .filter(|h| filter.matches(&h.status.id, &h.sandbox, h.status.state(), &h.config.labels))
            .map(|h| Container {
                id: h.status.id.clone(),
                pod_sandbox_id: h.sandbox.clone(),
                metadata: h.status.metadata.clone(),
                image: h.status.image.clone(),
                image_ref: h.status.image_ref.clone(),
                state: h.status.state,
                created_at: h.status.created_at,
                labels: h.status.labels.clone(),
                annotations: h.status.annotations.clone(),
                image_id: h.status.image_id.clone(),
            })
            .collect();
        Ok(ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse, Error> {
        self.inner.called("ContainerStatus", &request.container_id)?;
        let status = self.inner.state.lock().container(&request.container_id)?.status.clone();
        Ok(ContainerStatusResponse { status: Some(status), ..Default::default() })
    }

    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Error> {
        self.inner.called("UpdateContainerResources", &request.container_id)?;
        self.inner.state.lock().container(&request.container_id)?;
        Ok(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error> {
        self.inner.called("ReopenContainerLog", &request.container_id)?;
        match self.inner.state.lock().container(&request.container_id)?.status.state() {
            ContainerState::Running => Ok(ReopenContainerLogResponse {}),
            _ => Err(Error::FailedPrecondition(format!("container {} does not run", request.container_id))),
        }
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        self.inner.called("ExecSync", &request.container_id)?;
        let (exec, takes) = {
            let state = self.inner.state.lock();
            let held = state.container(&request.container_id)?;
            if held.status.state() != ContainerState::Running {
                return Err(Error::FailedPrecondition(format!(
                    "container {} does not run",
                    request.container_id
                )));
            }
            (held.script.exec.clone(), held.script.exec_takes)
        };
        tokio::time::sleep(takes).await;
        let (exit_code, output) = exec.map(|exec| exec(&request.cmd)).unwrap_or_default();
        Ok(ExecSyncResponse { stdout: output.into_bytes(), stderr: Vec::new(), exit_code })
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecResponse, Error> {
        self.inner.called("Exec", &request.container_id)?;
        let url = self.streams_url(&request.container_id)?;
        Ok(ExecResponse { url })
    }

    async fn attach(&self, request: AttachRequest) -> Result<AttachResponse, Error> {
        self.inner.called("Attach", &request.container_id)?;
        let url = self.streams_url(&request.container_id)?;
        Ok(AttachResponse { url })
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error> {
        self.inner.called("ContainerStats", &request.container_id)?;
        let stats = self.inner.state.lock().stats(&request.container_id, self.inner.now())?;
        Ok(ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Error> {
        self.inner.called("ListContainerStats", "")?;
        let filter = request.filter.unwrap_or_default();
        let now = self.inner.now();
        let state = self.inner.state.lock();
        let stats = state
            .containers
            .values()
            .filter(|h| h.status.state() == ContainerState::Running)
            .filter(|h| filter.matches(&h.status.id, &h.sandbox, &h.config.labels))
            .map(|h| state.stats(&h.status.id, now))
            .collect::<Result<_, _>>()?;
        Ok(ListContainerStatsResponse { stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse, Error> {
        self.inner.called("PodSandboxStats", &request.pod_sandbox_id)?;
        let stats = self.inner.state.lock().sandbox_stats(&request.pod_sandbox_id, self.inner.now())?;
        Ok(PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Error> {
        self.inner.called("ListPodSandboxStats", "")?;
        let filter = request.filter.unwrap_or_default();
        let now = self.inner.now();
        let state = self.inner.state.lock();
        let wanted = state.sandboxes.iter().filter(|(id, s)| filter.matches(id, &s.config.labels));
        let stats = wanted.map(|(id, _)| state.sandbox_stats(id, now)).collect::<Result<_, _>>()?;
        Ok(ListPodSandboxStatsResponse { stats })
    }

    async fn list_metric_descriptors(
        &self,
        _: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse, Error> {
        self.inner.called("ListMetricDescriptors", "")?;
        let descriptor = MetricDescriptor {
            name: "container_memory_max_usage_bytes".into(),
            help: "The most memory it ever held".into(),
            label_keys: Vec::new(),
        };
        Ok(ListMetricDescriptorsResponse { descriptors: vec![descriptor] })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse, Error> {
        self.inner.called("ListPodSandboxMetrics", "")?;
        let timestamp = self.inner.now();
        let state = self.inner.state.lock();
        let of_container = |h: &super::state::Held| ContainerMetrics {
            container_id: h.status.id.clone(),
            metrics: vec![Metric {
                name: "container_memory_max_usage_bytes".into(),
                timestamp,
                metric_type: MetricType::Gauge as i32,
                label_values: Vec::new(),
                value: Some(UInt64Value { value: h.script.memory_bytes }),
            }],
        };
        let running = |h: &&super::state::Held| h.status.state() == ContainerState::Running;
        let pod_metrics = state
            .sandboxes
            .keys()
            .map(|id| PodSandboxMetrics {
                pod_sandbox_id: id.clone(),
                metrics: Vec::new(),
                container_metrics: state
                    .containers
                    .values()
                    .filter(|h| h.sandbox == *id)
                    .filter(running)
                    .map(of_container)
                    .collect(),
            })
            .collect();
        Ok(ListPodSandboxMetricsResponse { pod_metrics })
    }

    async fn set_network_policy(
        &self,
        request: SetNetworkPolicyRequest,
    ) -> Result<SetNetworkPolicyResponse, Error> {
        self.inner.called("SetNetworkPolicy", &request.pod_sandbox_id)?;
        let mut state = self.inner.state.lock();
        state.sandbox(&request.pod_sandbox_id)?;
        state.rules.insert(request.pod_sandbox_id, request.rules);
        Ok(SetNetworkPolicyResponse { services_version: state.services.as_ref().map_or(0, |told| told.to) })
    }

    async fn update_services(&self, request: UpdateServicesRequest) -> Result<UpdateServicesResponse, Error> {
        self.inner.called("UpdateServices", "")?;
        let mut state = self.inner.state.lock();
        let version = state.services.as_ref().map_or(0, |told| told.to);
        if request.from != 0 && request.from != version {
            return Err(Error::FailedPrecondition(format!("version {version} is known")));
        }
        state.services = Some(request);
        Ok(UpdateServicesResponse {})
    }

    async fn forget_namespaces(
        &self,
        request: ForgetNamespacesRequest,
    ) -> Result<ForgetNamespacesResponse, Error> {
        self.inner.called("ForgetNamespaces", &request.namespaces.join(","))?;
        let mut state = self.inner.state.lock();
        let used: BTreeSet<String> = state.sandboxes.values().map(|s| s.namespace().to_owned()).collect();
        state.kept_namespaces.retain(|own| used.contains(own) || !request.namespaces.contains(own));
        Ok(ForgetNamespacesResponse { namespaces: state.kept_namespaces.iter().cloned().collect() })
    }

    async fn get_container_events(&self, _: GetEventsRequest) -> Result<EventStream, Error> {
        self.inner.called("GetContainerEvents", "")?;
        let receiver = self.inner.events.subscribe();
        let inner = Arc::downgrade(&self.inner);
        let events = futures::stream::unfold(Some((receiver, inner)), |reader| async move {
            let (mut receiver, inner) = reader?;
            match receiver.recv().await {
                Ok((kind, container, sandbox)) => {
                    let event = inner.upgrade()?.event(kind, container, sandbox);
                    Some((Ok(event), Some((receiver, inner))))
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((Err(Error::ResourceExhausted("events were missed: list again".into())), None))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Ok(events.boxed())
    }
}

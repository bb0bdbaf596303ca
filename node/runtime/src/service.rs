//! The runtime as CRI's RuntimeService: each call to its verb.
use crate::error::{from_disk, no_container, no_sandbox};
use crate::open::Runtime;
use async_trait::async_trait;
use cri::*;
use std::time::Duration;

#[async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: VersionRequest) -> Result<VersionResponse, Error> {
        Ok(VersionResponse {
            // The version of the kubelet's API, which has been 0.1.0 for ever.
            version: "0.1.0".into(),
            runtime_name: "dhow".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, request: StatusRequest) -> Result<StatusResponse, Error> {
        let candidates = self.candidates();
        let missing =
            |c: &crate::plan::Candidate<'_>| c.missing.as_ref().map(|m| format!("{}: {m}", c.handler));
        let lacking: Vec<String> = candidates.iter().filter_map(missing).collect();
        let works = candidates.iter().any(|candidate| candidate.missing.is_none());
        let mut runtime_ready = condition("RuntimeReady", works);
        if !works {
            runtime_ready.reason = "NoShimReady".into();
            runtime_ready.message = lacking.join("; ");
        }
        let mut network_ready = condition("NetworkReady", true);
        if let Err(error) = self.inner.config.network.ready() {
            network_ready.status = false;
            network_ready.reason = "NetworkNotReady".into();
            network_ready.message = error.to_string();
        }
        let handler = |name: &str| RuntimeHandler { name: name.into(), features: Some(Default::default()) };
        let ready =
            candidates.iter().filter(|candidate| candidate.missing.is_none()).map(|c| handler(c.handler));
        // The empty handler is the default one: the image decides.
        let runtime_handlers = works.then(|| handler("")).into_iter().chain(ready).collect();
        let mut info = std::collections::BTreeMap::new();
        if request.verbose {
            if !lacking.is_empty() {
                info.insert("notReady".to_string(), lacking.join("; "));
            }
            let offers: Vec<String> = self.inner.config.shims.iter().flat_map(|shim| shim.offers()).collect();
            if !offers.is_empty() {
                info.insert("offers".to_string(), offers.join(","));
            }
        }
        Ok(StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![runtime_ready, network_ready] }),
            info,
            runtime_handlers,
            features: Some(Default::default()),
        })
    }

    async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Error> {
        let runtime = self.clone();
        self.detached(async move { runtime.run_sandbox(request).await }).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: StopPodSandboxRequest,
    ) -> Result<StopPodSandboxResponse, Error> {
        let runtime = self.clone();
        self.detached(async move { runtime.stop_sandbox(&request.pod_sandbox_id).await }).await?;
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error> {
        let runtime = self.clone();
        self.detached(async move { runtime.remove_sandbox(&request.pod_sandbox_id).await }).await?;
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error> {
        let id = &request.pod_sandbox_id;
        let state = self.inner.state.lock();
        let sandbox = state.sandboxes.get(id).ok_or_else(|| no_sandbox(id))?;
        Ok(PodSandboxStatusResponse {
            status: Some(sandbox.into()),
            info: Default::default(),
            containers_statuses: state.of_sandbox(id).iter().map(|entry| entry.record().into()).collect(),
            timestamp: self.now(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: ListPodSandboxRequest,
    ) -> Result<ListPodSandboxResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let state = self.inner.state.lock();
        let sandboxes = state.sandboxes.values().filter(|s| filter.matches(&s.id, s.state(), &s.labels));
        Ok(ListPodSandboxResponse { items: sandboxes.map(Into::into).collect() })
    }

    async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        self.create(request).await
    }

    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Error> {
        let runtime = self.clone();
        self.detached(async move { runtime.start(&request.container_id).await }).await?;
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Error> {
        let runtime = self.clone();
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or_default());
        self.detached(async move { runtime.stop(&request.container_id, grace).await }).await?;
        Ok(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse, Error> {
        let runtime = self.clone();
        self.detached(async move { runtime.remove(&request.container_id).await }).await?;
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let state = self.inner.state.lock();
        let records = state.containers().map(|entry| entry.record());
        let wanted = records.filter(|r| filter.matches(&r.id, &r.sandbox, r.state(), &r.labels));
        Ok(ListContainersResponse { containers: wanted.map(Into::into).collect() })
    }

    async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse, Error> {
        let id = &request.container_id;
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        let record = entry.record();
        let info = match request.verbose {
            true => [("shim".to_string(), record.shim.clone())].into(),
            false => Default::default(),
        };
        Ok(ContainerStatusResponse { status: Some(record.into()), info })
    }

    async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error> {
        let id = &request.container_id;
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        if entry.state() != ContainerState::Running {
            return Err(Error::FailedPrecondition(format!("container {id} does not run")));
        }
        entry.log.reopen().map_err(from_disk("opening the container's log"))?;
        Ok(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        self.run_command(request).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecResponse, Error> {
        Ok(ExecResponse { url: self.exec_url(request).await? })
    }

    async fn attach(&self, request: AttachRequest) -> Result<AttachResponse, Error> {
        Ok(AttachResponse { url: self.attach_url(request).await? })
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error> {
        let id = &request.container_id;
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        Ok(ContainerStatsResponse { stats: Some(self.figures(&entry)) })
    }

    async fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let entries: Vec<_> = self.inner.state.lock().containers().cloned().collect();
        let stats = entries
            .iter()
            .filter(|entry| entry.state() == ContainerState::Running)
            .filter(|entry| filter.matches(&entry.id, &entry.sandbox, &entry.record().labels))
            .map(|entry| self.figures(entry))
            .collect();
        Ok(ListContainerStatsResponse { stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse, Error> {
        Ok(PodSandboxStatsResponse { stats: Some(self.sandbox_figures(&request.pod_sandbox_id)?) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let wanted: Vec<String> = {
            let state = self.inner.state.lock();
            let wanted = state.sandboxes.values().filter(|s| filter.matches(&s.id, &s.labels));
            wanted.map(|s| s.id.clone()).collect()
        };
        // One that goes away meanwhile is left out.
        let stats = wanted.iter().filter_map(|id| self.sandbox_figures(id).ok()).collect();
        Ok(ListPodSandboxStatsResponse { stats })
    }

    async fn list_metric_descriptors(
        &self,
        _: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse, Error> {
        Ok(ListMetricDescriptorsResponse { descriptors: crate::metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse, Error> {
        Ok(ListPodSandboxMetricsResponse { pod_metrics: self.sandbox_metrics() })
    }

    async fn get_container_events(&self, _: GetEventsRequest) -> Result<EventStream, Error> {
        Ok(self.events())
    }

    async fn set_network_policy(
        &self,
        request: SetNetworkPolicyRequest,
    ) -> Result<SetNetworkPolicyResponse, Error> {
        self.take_rules(&request)
    }

    async fn update_services(&self, request: UpdateServicesRequest) -> Result<UpdateServicesResponse, Error> {
        self.take_services(&request)
    }

    async fn forget_namespaces(
        &self,
        request: ForgetNamespacesRequest,
    ) -> Result<ForgetNamespacesResponse, Error> {
        self.forget_all(&request.namespaces).await
    }

    async fn send_input(&self, container_id: String, input: ByteStream) -> Result<(), Error> {
        self.feed(&container_id, input).await
    }
}

fn condition(kind: &str, status: bool) -> RuntimeCondition {
    RuntimeCondition { r#type: kind.into(), status, ..Default::default() }
}

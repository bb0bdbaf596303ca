//! The two services as traits: one method per RPC. The kubelet knows nothing else of a runtime.
use crate::{Error, types::*};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Events from the moment of the call on. A runtime ends the stream with an error when its reader is too slow:
/// whoever reads lists everything again and asks for a new stream.
pub type EventStream = BoxStream<'static, Result<ContainerEventResponse, Error>>;

/// The bytes of a file, as they come.
pub type ByteStream = BoxStream<'static, Result<Bytes, Error>>;

/// Hands the list of unary RPCs to a macro: method, RPC, request, response.
macro_rules! runtime_rpcs {
    ($macro:ident) => {
        $macro! {
            version Version VersionRequest VersionResponse;
            status Status StatusRequest StatusResponse;
            runtime_config RuntimeConfig RuntimeConfigRequest RuntimeConfigResponse;
            run_pod_sandbox RunPodSandbox RunPodSandboxRequest RunPodSandboxResponse;
            stop_pod_sandbox StopPodSandbox StopPodSandboxRequest StopPodSandboxResponse;
            remove_pod_sandbox RemovePodSandbox RemovePodSandboxRequest RemovePodSandboxResponse;
            pod_sandbox_status PodSandboxStatus PodSandboxStatusRequest PodSandboxStatusResponse;
            list_pod_sandbox ListPodSandbox ListPodSandboxRequest ListPodSandboxResponse;
            create_container CreateContainer CreateContainerRequest CreateContainerResponse;
            start_container StartContainer StartContainerRequest StartContainerResponse;
            stop_container StopContainer StopContainerRequest StopContainerResponse;
            remove_container RemoveContainer RemoveContainerRequest RemoveContainerResponse;
            list_containers ListContainers ListContainersRequest ListContainersResponse;
            container_status ContainerStatus ContainerStatusRequest ContainerStatusResponse;
            update_container_resources UpdateContainerResources UpdateContainerResourcesRequest UpdateContainerResourcesResponse;
            reopen_container_log ReopenContainerLog ReopenContainerLogRequest ReopenContainerLogResponse;
            exec_sync ExecSync ExecSyncRequest ExecSyncResponse;
            exec Exec ExecRequest ExecResponse;
            attach Attach AttachRequest AttachResponse;
            container_stats ContainerStats ContainerStatsRequest ContainerStatsResponse;
            list_container_stats ListContainerStats ListContainerStatsRequest ListContainerStatsResponse;
            pod_sandbox_stats PodSandboxStats PodSandboxStatsRequest PodSandboxStatsResponse;
            list_pod_sandbox_stats ListPodSandboxStats ListPodSandboxStatsRequest ListPodSandboxStatsResponse;
            list_metric_descriptors ListMetricDescriptors ListMetricDescriptorsRequest ListMetricDescriptorsResponse;
            list_pod_sandbox_metrics ListPodSandboxMetrics ListPodSandboxMetricsRequest ListPodSandboxMetricsResponse;
        }
    };
}

macro_rules! image_rpcs {
    ($macro:ident) => {
        $macro! {
            list_images ListImages ListImagesRequest ListImagesResponse;
            image_status ImageStatus ImageStatusRequest ImageStatusResponse;
            pull_image PullImage PullImageRequest PullImageResponse;
            remove_image RemoveImage RemoveImageRequest RemoveImageResponse;
            image_fs_info ImageFsInfo ImageFsInfoRequest ImageFsInfoResponse;
        }
    };
}

pub(crate) use {image_rpcs, runtime_rpcs};

/// Sandboxes and containers.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    async fn version(&self, request: VersionRequest) -> Result<VersionResponse, Error>;
    /// Conditions `RuntimeReady` and `NetworkReady`, and the RuntimeClass handlers that work here.
    async fn status(&self, request: StatusRequest) -> Result<StatusResponse, Error>;
    async fn runtime_config(&self, _request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
        Err(Error::unimplemented("RuntimeConfig"))
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Error>;
    /// Succeeds for a sandbox that is stopped or gone.
    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest)
    -> Result<StopPodSandboxResponse, Error>;
    /// Succeeds for a sandbox that is gone; removes its containers too.
    async fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error>;
    async fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error>;
    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest)
    -> Result<ListPodSandboxResponse, Error>;

    /// The image must be here already.
    async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error>;
    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Error>;
    /// Returns once it has ended. Succeeds for a container that has ended or is gone.
    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Error>;
    /// Succeeds for a container that is gone; kills one that runs.
    async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse, Error>;
    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Error>;
    async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse, Error>;
    async fn update_container_resources(
        &self,
        _request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Error> {
        Err(Error::unimplemented("UpdateContainerResources"))
    }
    async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error>;
    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error>;
    /// Where to run a command with streams: whoever opens the answered URL (WebSocket or SPDY/3.1) runs it.
    async fn exec(&self, _request: ExecRequest) -> Result<ExecResponse, Error> {
        Err(Error::unimplemented("Exec"))
    }
    /// Where a running container's own streams are.
    async fn attach(&self, _request: AttachRequest) -> Result<AttachResponse, Error> {
        Err(Error::unimplemented("Attach"))
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error>;
    async fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Error>;

    async fn pod_sandbox_stats(
        &self,
        _request: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse, Error> {
        Err(Error::unimplemented("PodSandboxStats"))
    }
    async fn list_pod_sandbox_stats(
        &self,
        _request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Error> {
        Err(Error::unimplemented("ListPodSandboxStats"))
    }
    /// The metrics of [`RuntimeService::list_pod_sandbox_metrics`]. Their values are whole numbers: times are in
    /// nanoseconds and say so in their name, histograms are the parts `_bucket` (label `le`), `_sum` and `_count`.
    async fn list_metric_descriptors(
        &self,
        _request: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse, Error> {
        Err(Error::unimplemented("ListMetricDescriptors"))
    }
    async fn list_pod_sandbox_metrics(
        &self,
        _request: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse, Error> {
        Err(Error::unimplemented("ListPodSandboxMetrics"))
    }

    /// Writes to a running container's standard input (made with `stdin`) until `input` ends; with `stdin_once` the
    /// container then reads the end of it. An extension of ours.
    async fn send_input(&self, _container_id: String, _input: ByteStream) -> Result<(), Error> {
        Err(Error::unimplemented("SendInput"))
    }

    /// Sets what a sandbox's containers may reach and be reached by. An extension of ours.
    async fn set_network_policy(
        &self,
        _request: SetNetworkPolicyRequest,
    ) -> Result<SetNetworkPolicyResponse, Error> {
        Err(Error::unimplemented("SetNetworkPolicy"))
    }

    /// Tells where the names and addresses of Services lead. [`Error::FailedPrecondition`] when the changes are to another
    /// version than the one known here. An extension of ours.
    async fn update_services(
        &self,
        _request: UpdateServicesRequest,
    ) -> Result<UpdateServicesResponse, Error> {
        Err(Error::unimplemented("UpdateServices"))
    }

    /// Removes what namespaces keep on this node beyond their pods, and tells which still do. An extension of ours.
    async fn forget_namespaces(
        &self,
        _request: ForgetNamespacesRequest,
    ) -> Result<ForgetNamespacesResponse, Error> {
        Err(Error::unimplemented("ForgetNamespaces"))
    }

    /// What happens from now on. By the time this returns the subscription stands: no event after is missed.
    async fn get_container_events(&self, _request: GetEventsRequest) -> Result<EventStream, Error> {
        Err(Error::unimplemented("GetContainerEvents"))
    }
}

/// Images.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error>;
    /// `image` is `None` in the answer when the image is not here; that is no error.
    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error>;
    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error>;
    /// Succeeds for an image that is not here.
    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error>;
    async fn image_fs_info(&self, request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error>;

    /// Makes an image of a wasm file under `reference`, without a registry. An extension of ours.
    async fn import_image(
        &self,
        _reference: String,
        _file: ByteStream,
    ) -> Result<ImportImageResponse, Error> {
        Err(Error::unimplemented("ImportImage"))
    }
}

macro_rules! forward_runtime {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        #[async_trait]
        impl<T: RuntimeService + ?Sized> RuntimeService for Arc<T> {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                (**self).$method(request).await
            })*
            async fn get_container_events(&self, request: GetEventsRequest) -> Result<EventStream, Error> {
                (**self).get_container_events(request).await
            }
            async fn send_input(&self, container_id: String, input: ByteStream) -> Result<(), Error> {
                (**self).send_input(container_id, input).await
            }
            async fn set_network_policy(
                &self,
                request: SetNetworkPolicyRequest,
            ) -> Result<SetNetworkPolicyResponse, Error> {
                (**self).set_network_policy(request).await
            }
            async fn update_services(
                &self,
                request: UpdateServicesRequest,
            ) -> Result<UpdateServicesResponse, Error> {
                (**self).update_services(request).await
            }
            async fn forget_namespaces(
                &self,
                request: ForgetNamespacesRequest,
            ) -> Result<ForgetNamespacesResponse, Error> {
                (**self).forget_namespaces(request).await
            }
        }
    };
}
runtime_rpcs!(forward_runtime);

macro_rules! forward_image {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        #[async_trait]
        impl<T: ImageService + ?Sized> ImageService for Arc<T> {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                (**self).$method(request).await
            })*
            async fn import_image(&self, reference: String, file: ByteStream) -> Result<ImportImageResponse, Error> {
                (**self).import_image(reference, file).await
            }
        }
    };
}
image_rpcs!(forward_image);

//! Reaches any CRI runtime over its unix socket.
use crate::service::{image_rpcs, runtime_rpcs};
use crate::{ByteStream, Error, EventStream, ImageService, MAX_MESSAGE_BYTES, RuntimeService, types::*};
use async_trait::async_trait;
use futures::StreamExt;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

/// How long a call may take beyond the time it asks for itself: the kubelet's `--runtime-request-timeout`.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A runtime on the other side of a socket. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    grpc: tonic::client::Grpc<Channel>,
}

/// A client for the runtime at `socket`. It connects with the first call and again whenever the connection breaks;
/// while nobody listens, calls answer [`Error::Unavailable`].
pub fn connect(socket: impl AsRef<Path>) -> Client {
    let socket = socket.as_ref().to_path_buf();
    let path = socket.clone();
    // The address is a form only: the connector knows one socket.
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(&path).await.map(TokioIo::new) }
        },
    ));
    let grpc = tonic::client::Grpc::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Client { socket, grpc }
}

impl Client {
    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Error> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| self.unreachable(&e))?;
        Ok(grpc)
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Error {
        let mut cause = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Error::Unavailable(format!("the runtime at {} does not answer: {cause}", self.socket.display()))
    }

    fn failed(&self, status: tonic::Status) -> Error {
        use std::error::Error as _;
        match status.source() {
            // A cause means that no answer came: the connection failed, not the call.
            Some(_) if status.code() == tonic::Code::Unavailable => self.unreachable(&status),
            _ => status.into(),
        }
    }

    async fn unary<Q, A>(&self, path: &'static str, request: Q, timeout: Option<Duration>) -> Result<A, Error>
    where
        Q: prost::Message + Default + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut grpc = self.ready().await?;
            grpc.unary(
                tonic::Request::new(request),
                PathAndQuery::from_static(path),
                ProstCodec::<Q, A>::default(),
            )
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(status))
        };
        match timeout {
            None => call.await,
            Some(limit) => match tokio::time::timeout(limit, call).await {
                Ok(answer) => answer,
                Err(_) => {
                    let rpc = path.rsplit('/').next().unwrap_or(path);
                    Err(Error::DeadlineExceeded(format!(
                        "the runtime did not answer {rpc} within {} s",
                        limit.as_secs()
                    )))
                }
            },
        }
    }
}

impl Client {
    /// A call whose request is a stream of bytes.
    async fn upload<A>(&self, path: &'static str, target: String, bytes: ByteStream) -> Result<A, Error>
    where
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        // What ended the stream early; the other side learns only that it was cut off.
        let broken = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let seen = broken.clone();
        let chunks = bytes.flat_map(move |piece| {
            futures::stream::iter(match piece {
                Ok(data) => split(data),
                Err(error) => {
                    *seen.lock() = Some(error);
                    vec![UploadChunk { aborted: true, ..Default::default() }]
                }
            })
        });
        let first = UploadChunk { target, ..Default::default() };
        let request = tonic::Request::new(futures::stream::once(async move { first }).chain(chunks));
        let codec = ProstCodec::<UploadChunk, A>::default();
        let answer = grpc.client_streaming(request, PathAndQuery::from_static(path), codec).await;
        if let Some(error) = broken.lock().take() {
            return Err(error);
        }
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(status))
    }
}

/// How long a call may take; `None` is as long as it wants.
trait Patience {
    fn patience(&self) -> Option<Duration> {
        Some(CALL_TIMEOUT)
    }
}

fn seconds_more(seconds: i64) -> Duration {
    CALL_TIMEOUT + Duration::from_secs(seconds.max(0) as u64)
}

macro_rules! usual_patience {
    ($($request:ident)*) => { $(impl Patience for $request {})* };
}
usual_patience! {
    VersionRequest StatusRequest RuntimeConfigRequest RunPodSandboxRequest RemovePodSandboxRequest
    PodSandboxStatusRequest ListPodSandboxRequest CreateContainerRequest StartContainerRequest RemoveContainerRequest
    ListContainersRequest ContainerStatusRequest UpdateContainerResourcesRequest ReopenContainerLogRequest
    ExecRequest AttachRequest ContainerStatsRequest ListContainerStatsRequest PodSandboxStatsRequest ListPodSandboxStatsRequest
    ListMetricDescriptorsRequest ListPodSandboxMetricsRequest ListImagesRequest ImageStatusRequest RemoveImageRequest
    ImageFsInfoRequest StopPodSandboxRequest SetNetworkPolicyRequest UpdateServicesRequest
    ForgetNamespacesRequest
}

impl Patience for StopContainerRequest {
    fn patience(&self) -> Option<Duration> {
        Some(seconds_more(self.timeout))
    }
}

impl Patience for ExecSyncRequest {
    fn patience(&self) -> Option<Duration> {
        (self.timeout > 0).then(|| seconds_more(self.timeout))
    }
}

impl Patience for PullImageRequest {
    /// A pull may be of any size; the runtime gives up when nothing moves.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

macro_rules! call_runtime {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        #[async_trait]
        impl RuntimeService for Client {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                let patience = request.patience();
                self.unary(concat!("/runtime.v1.RuntimeService/", stringify!($rpc)), request, patience).await
            })*

            async fn get_container_events(&self, request: GetEventsRequest) -> Result<EventStream, Error> {
                let mut grpc = self.ready().await?;
                let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
                let codec = ProstCodec::<GetEventsRequest, ContainerEventResponse>::default();
                let stream = grpc
                    .server_streaming(tonic::Request::new(request), path, codec)
                    .await
                    .map_err(|status| self.failed(status))?
                    .into_inner();
                Ok(stream.map(|event| event.map_err(Error::from)).boxed())
            }

            async fn send_input(&self, container_id: String, input: ByteStream) -> Result<(), Error> {
                let path = "/dhow.runtime.v1alpha1.ContainerInput/SendInput";
                let _: SendInputResponse = self.upload(path, container_id, input).await?;
                Ok(())
            }

            async fn set_network_policy(
                &self,
                request: SetNetworkPolicyRequest,
            ) -> Result<SetNetworkPolicyResponse, Error> {
                let patience = request.patience();
                self.unary("/dhow.runtime.v1alpha1.PodNetwork/SetNetworkPolicy", request, patience).await
            }

            async fn update_services(
                &self,
                request: UpdateServicesRequest,
            ) -> Result<UpdateServicesResponse, Error> {
                let patience = request.patience();
                self.unary("/dhow.runtime.v1alpha1.PodNetwork/UpdateServices", request, patience).await
            }

            async fn forget_namespaces(
                &self,
                request: ForgetNamespacesRequest,
            ) -> Result<ForgetNamespacesResponse, Error> {
                let patience = request.patience();
                self.unary("/dhow.runtime.v1alpha1.NamespaceData/ForgetNamespaces", request, patience).await
            }
        }
    };
}
runtime_rpcs!(call_runtime);

/// Pieces well below [`MAX_MESSAGE_BYTES`], however the file came.
fn split(mut data: bytes::Bytes) -> Vec<UploadChunk> {
    const PIECE: usize = 1024 * 1024;
    let mut chunks = Vec::with_capacity(data.len() / PIECE + 1);
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(PIECE));
        chunks.push(UploadChunk { data: piece, ..Default::default() });
    }
    chunks
}

macro_rules! call_images {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        #[async_trait]
        impl ImageService for Client {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                let patience = request.patience();
                self.unary(concat!("/runtime.v1.ImageService/", stringify!($rpc)), request, patience).await
            })*

            async fn import_image(&self, reference: String, file: ByteStream) -> Result<ImportImageResponse, Error> {
                self.upload("/dhow.runtime.v1alpha1.ImageImport/ImportImage", reference, file).await
            }
        }
    };
}
image_rpcs!(call_images);

//! Serves any implementation over gRPC on a unix socket.
use crate::service::{image_rpcs, runtime_rpcs};
use crate::{ByteStream, Error, ImageService, MAX_MESSAGE_BYTES, RuntimeService, types::*};
use futures::{Stream, StreamExt, future::BoxFuture};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic_prost::ProstCodec;

/// How long calls under way may go on after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// Between two failures to take a connection: a tenth of a second is not felt by a client that has to come again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then lets calls under way finish. The socket's file is the caller's to remove.
pub async fn serve(
    listener: UnixListener,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let serving = tonic::transport::Server::builder()
        .add_service(Served(InputServer { runtime: runtime.clone() }))
        .add_service(Served(NetworkServer { runtime: runtime.clone() }))
        .add_service(Served(NamespaceServer { runtime: runtime.clone() }))
        .add_service(Served(RuntimeServer { runtime, shutdown: shutdown.clone() }))
        .add_service(Served(ImageServer { images: images.clone() }))
        .add_service(Served(ImportServer { images }))
        .serve_with_incoming_shutdown(incoming(listener), shutdown.clone().cancelled_owned());
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        _ = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    };
    result.map_err(|e| Error::Internal(format!("serving CRI: {e}")))
}

/// The connections. A process out of descriptors gets an error for every accept, at once: the pause leaves it the
/// processor to do something about it.
fn incoming(listener: UnixListener) -> impl Stream<Item = std::io::Result<UnixStream>> {
    UnixListenerStream::new(listener).then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "the CRI socket takes no connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        accepted
    })
}

#[derive(Clone)]
struct RuntimeServer {
    runtime: Arc<dyn RuntimeService>,
    shutdown: CancellationToken,
}

#[derive(Clone)]
struct ImageServer {
    images: Arc<dyn ImageService>,
}

#[derive(Clone)]
struct InputServer {
    runtime: Arc<dyn RuntimeService>,
}

#[derive(Clone)]
struct NetworkServer {
    runtime: Arc<dyn RuntimeService>,
}

#[derive(Clone)]
struct NamespaceServer {
    runtime: Arc<dyn RuntimeService>,
}

#[derive(Clone)]
struct ImportServer {
    images: Arc<dyn ImageService>,
}

type Answer = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

/// One gRPC service of the socket.
trait Rpcs: Clone + Send + Sync + 'static {
    /// How the paths of its calls begin.
    const NAME: &'static str;

    fn answer(&self, request: http::Request<Body>) -> Answer;
}

/// What tonic asks of a service; it is the same for each.
#[derive(Clone)]
struct Served<S>(S);

impl<S: Rpcs> tonic::server::NamedService for Served<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Rpcs> tower::Service<http::Request<Body>> for Served<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        self.0.answer(request)
    }
}

fn grpc<Q, A>() -> tonic::server::Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
{
    tonic::server::Grpc::new(ProstCodec::default())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Answers a unary call by `handle`.
fn unary<Q, A, F, Fut>(request: http::Request<Body>, handle: F) -> Answer
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    F: FnOnce(Q) -> Fut + Send + 'static,
    Fut: Future<Output = Result<A, Error>> + Send + 'static,
{
    Box::pin(async move {
        // tonic asks for a service it may call again; a call is answered once.
        let mut handle = Some(handle);
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let handle = handle.take();
            async move {
                match handle {
                    Some(handle) => {
                        handle(request.into_inner()).await.map(tonic::Response::new).map_err(Into::into)
                    }
                    None => Err(tonic::Status::internal("one call was answered twice")),
                }
            }
        });
        Ok(grpc::<Q, A>().unary(service, request).await)
    })
}

fn unknown_method() -> Answer {
    Box::pin(async { Ok(tonic::Status::unimplemented("this runtime does not know that call").into_http()) })
}

macro_rules! serve_runtime {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        impl Rpcs for RuntimeServer {
            const NAME: &'static str = "runtime.v1.RuntimeService";

            fn answer(&self, request: http::Request<Body>) -> Answer {
                let runtime = self.runtime.clone();
                match request.uri().path() {
                    $(concat!("/runtime.v1.RuntimeService/", stringify!($rpc)) => {
                        unary(request, move |message: $request| async move { runtime.$method(message).await })
                    })*
                    "/runtime.v1.RuntimeService/GetContainerEvents" => events(runtime, self.shutdown.clone(), request),
                    _ => unknown_method(),
                }
            }
        }
    };
}
runtime_rpcs!(serve_runtime);

fn events(
    runtime: Arc<dyn RuntimeService>,
    shutdown: CancellationToken,
    request: http::Request<Body>,
) -> Answer {
    Box::pin(async move {
        let service = tower::service_fn(move |request: tonic::Request<GetEventsRequest>| {
            let (runtime, shutdown) = (runtime.clone(), shutdown.clone());
            async move {
                let stream = runtime.get_container_events(request.into_inner()).await?;
                // A stream without end would keep the connection, and so the shutdown, waiting.
                let stream = stream
                    .map(|event| event.map_err(tonic::Status::from))
                    .take_until(shutdown.cancelled_owned());
                Ok::<_, tonic::Status>(tonic::Response::new(stream.boxed()))
            }
        });
        Ok(grpc::<GetEventsRequest, ContainerEventResponse>().server_streaming(service, request).await)
    })
}

macro_rules! serve_images {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        impl Rpcs for ImageServer {
            const NAME: &'static str = "runtime.v1.ImageService";

            fn answer(&self, request: http::Request<Body>) -> Answer {
                let images = self.images.clone();
                match request.uri().path() {
                    $(concat!("/runtime.v1.ImageService/", stringify!($rpc)) => {
                        unary(request, move |message: $request| async move { images.$method(message).await })
                    })*
                    _ => unknown_method(),
                }
            }
        }
    };
}
image_rpcs!(serve_images);

/// Answers a call whose request is a stream of bytes.
fn upload<A, F, Fut>(request: http::Request<Body>, handle: F) -> Answer
where
    A: prost::Message + Default + Send + 'static,
    F: Fn(String, ByteStream) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<A, Error>> + Send + 'static,
{
    Box::pin(async move {
        let service = tower::service_fn(move |request: tonic::Request<tonic::Streaming<UploadChunk>>| {
            let handle = handle.clone();
            async move {
                let mut chunks = request.into_inner();
                let first = chunks.message().await?;
                let first = first
                    .ok_or_else(|| tonic::Status::invalid_argument("an upload without a first message"))?;
                let target = first.target.clone();
                let bytes = futures::stream::once(async move { Ok(first) })
                    .chain(chunks)
                    .map(|chunk| match chunk {
                        Ok(chunk) if chunk.aborted => {
                            Err(Error::InvalidArgument("the sender could not read to the end".into()))
                        }
                        Ok(chunk) => Ok(chunk.data),
                        Err(status) => Err(status.into()),
                    })
                    .boxed();
                let answer = handle(target, bytes).await?;
                Ok::<_, tonic::Status>(tonic::Response::new(answer))
            }
        });
        Ok(grpc::<UploadChunk, A>().client_streaming(service, request).await)
    })
}

impl Rpcs for ImportServer {
    const NAME: &'static str = "dhow.runtime.v1alpha1.ImageImport";

    fn answer(&self, request: http::Request<Body>) -> Answer {
        let images = self.images.clone();
        match request.uri().path() {
            "/dhow.runtime.v1alpha1.ImageImport/ImportImage" => upload(request, move |reference, file| {
                let images = images.clone();
                async move { images.import_image(reference, file).await }
            }),
            _ => unknown_method(),
        }
    }
}

impl Rpcs for InputServer {
    const NAME: &'static str = "dhow.runtime.v1alpha1.ContainerInput";

    fn answer(&self, request: http::Request<Body>) -> Answer {
        let runtime = self.runtime.clone();
        match request.uri().path() {
            "/dhow.runtime.v1alpha1.ContainerInput/SendInput" => upload(request, move |container, input| {
                let runtime = runtime.clone();
                async move { runtime.send_input(container, input).await.map(|()| SendInputResponse {}) }
            }),
            _ => unknown_method(),
        }
    }
}

impl Rpcs for NetworkServer {
    const NAME: &'static str = "dhow.runtime.v1alpha1.PodNetwork";

    fn answer(&self, request: http::Request<Body>) -> Answer {
        let runtime = self.runtime.clone();
        match request.uri().path() {
            "/dhow.runtime.v1alpha1.PodNetwork/SetNetworkPolicy" => {
                unary(request, move |message| async move { runtime.set_network_policy(message).await })
            }
            "/dhow.runtime.v1alpha1.PodNetwork/UpdateServices" => {
                unary(request, move |message| async move { runtime.update_services(message).await })
            }
            _ => unknown_method(),
        }
    }
}

impl Rpcs for NamespaceServer {
    const NAME: &'static str = "dhow.runtime.v1alpha1.NamespaceData";

    fn answer(&self, request: http::Request<Body>) -> Answer {
        let runtime = self.runtime.clone();
        match request.uri().path() {
            "/dhow.runtime.v1alpha1.NamespaceData/ForgetNamespaces" => {
                unary(request, move |message| async move { runtime.forget_namespaces(message).await })
            }
            _ => unknown_method(),
        }
    }
}

//! A runtime whose calls are told to somebody: which, how long, whether it failed.
use crate::service::{image_rpcs, runtime_rpcs};
use crate::{ByteStream, Error, EventStream, ImageService, RuntimeService, types::*};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Who is told of calls.
pub trait Observer: Send + Sync + 'static {
    /// A call ended. `operation` is the trait's method: `run_pod_sandbox`.
    fn called(&self, operation: &'static str, took: Duration, failed: bool);
}

/// Passes calls on and tells its observer of each.
#[derive(Clone)]
pub struct Observed<T> {
    inner: T,
    observer: Arc<dyn Observer>,
}

impl<T> Observed<T> {
    pub fn new(inner: T, observer: Arc<dyn Observer>) -> Self {
        Self { inner, observer }
    }

    async fn tell<A>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<A, Error>>,
    ) -> Result<A, Error> {
        let began = Instant::now();
        let result = call.await;
        self.observer.called(operation, began.elapsed(), result.is_err());
        result
    }
}

macro_rules! observe_runtime {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        #[async_trait]
        impl<T: RuntimeService> RuntimeService for Observed<T> {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                self.tell(stringify!($method), self.inner.$method(request)).await
            })*
            async fn get_container_events(&self, request: GetEventsRequest) -> Result<EventStream, Error> {
                self.tell("get_container_events", self.inner.get_container_events(request)).await
            }
            async fn send_input(&self, container_id: String, input: ByteStream) -> Result<(), Error> {
                self.tell("send_input", self.inner.send_input(container_id, input)).await
            }
            async fn forget_namespaces(
                &self,
                request: ForgetNamespacesRequest,
            ) -> Result<ForgetNamespacesResponse, Error> {
                self.tell("forget_namespaces", self.inner.forget_namespaces(request)).await
            }
        }
    };
}
runtime_rpcs!(observe_runtime);

macro_rules! observe_images {
    ($($method:ident $rpc:ident $request:ident $response:ident;)*) => {
        #[async_trait]
        impl<T: ImageService> ImageService for Observed<T> {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                self.tell(stringify!($method), self.inner.$method(request)).await
            })*
            async fn import_image(&self, reference: String, file: ByteStream) -> Result<ImportImageResponse, Error> {
                self.tell("import_image", self.inner.import_image(reference, file)).await
            }
        }
    };
}
image_rpcs!(observe_images);

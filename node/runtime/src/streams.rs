//! The streaming server of this runtime: made when it is first wanted, and what it calls back.
use crate::error::from_disk;
use crate::open::{Inner, Runtime};
use async_trait::async_trait;
use cri::Error;
use std::sync::{Arc, Weak};
use streaming::{Client, Handler, Outcome, Request, Server, Target};

impl Runtime {
    /// Where a client finds the streams it asked for.
    pub(crate) async fn streams_url(&self, request: Request) -> Result<String, Error> {
        let inner = &self.inner;
        let starting = || async {
            let handler = Arc::new(Containers(Arc::downgrade(inner)));
            let (tasks, shutdown) = (inner.tasks.clone(), inner.shutdown.clone());
            Server::start(handler, inner.config.random.clone(), tasks, shutdown).await
        };
        let server = inner.streaming.get_or_try_init(starting).await;
        let server = server.map_err(from_disk("listening for clients of containers' streams"))?;
        server.url(request).map_err(|full| Error::ResourceExhausted(full.to_string()))
    }
}

/// The containers as the streaming server sees them. It must not keep the runtime that keeps it.
struct Containers(Weak<Inner>);

#[async_trait]
impl Handler for Containers {
    async fn handle(&self, request: Request, client: Client) -> Outcome {
        let Some(inner) = self.0.upgrade() else {
            return Outcome::Failed("the runtime is shutting down".to_owned());
        };
        let runtime = Runtime { inner };
        let done = match &request.target {
            Target::Exec { command } => runtime.exec_streams(&request, command, client).await,
            Target::Attach => runtime.attach_streams(&request, client).await,
        };
        done.map_or_else(|error| Outcome::Failed(error.to_string()), Outcome::Exited)
    }
}

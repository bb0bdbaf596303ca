//! The API server as a process that dies and comes back over the same store.
use crate::answers;
use crate::door::{Asked, Body, BoxError, Net, full};
use crate::gate::{Gate, UnderWay};
use crate::journal::Journal;
use crate::rng::Rng;
use crate::watches;
use apiserver::{ApiServer, Config, UserInfo};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use machinery::ambient::Ambient;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use store::{Committed, Error, Events, Expect, Intercept, Intercepted, Op, Store};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower::ServiceExt;

pub struct Server {
    store: Arc<dyn Store>,
    ambient: Ambient,
    journal: Arc<Journal>,
    running: Mutex<Option<Running>>,
}

struct Running {
    api: ApiServer,
    gate: Gate,
    tasks: JoinSet<()>,
}

impl Server {
    pub fn new(store: Arc<dyn Store>, ambient: Ambient, journal: Arc<Journal>) -> Self {
        Self { store, ambient, journal, running: Mutex::new(None) }
    }

    /// Starts a server process; it knows nothing but what the store holds.
    pub fn start(&self) -> Gate {
        let gate = Gate::open("apiserver", self.journal.clone());
        let store = Arc::new(Intercepted::new(self.store.clone(), gate.clone()));
        let api = ApiServer::new(Config::new(store, self.ambient.clone()));
        let mut tasks = JoinSet::new();
        let server = api.clone();
        tasks.spawn(async move {
            while let Err(error) = server.ensure_bootstrap().await {
                tracing::debug!(%error, "bootstrapping again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        *self.running.lock() = Some(Running { api, gate: gate.clone(), tasks });
        gate
    }

    /// Lets go of a process that died: every request it was at and every watch ends where it is.
    pub fn bury(&self) {
        drop(self.running.lock().take());
    }

    /// Hands a request to the server. `None`: there is none.
    pub fn carry_out(
        &self,
        user: UserInfo,
        request: Request<Bytes>,
        asked: Asked,
        net: Arc<Net>,
        under_way: UnderWay,
    ) -> Option<impl Future<Output = Result<Response<Body>, oneshot::error::RecvError>> + use<>> {
        let mut running = self.running.lock();
        let running = running.as_mut().filter(|r| !r.gate.is_dead())?;
        let (service, gate) = (running.api.service(user), running.gate.clone());
        let (sender, answer) = oneshot::channel();
        while running.tasks.try_join_next().is_some() {}
        running.tasks.spawn(async move {
            let request = request.map(Full::new);
            let Ok(response) = service.oneshot(request).await;
            let (parts, body) = response.into_parts();
            let body = if asked.watches() && parts.status == 200 {
                watches::checked(body, gate.token(), net, &asked)
            } else {
                match body.collect().await {
                    Ok(body) => {
                        let bytes = body.to_bytes();
                        answers::check(&net.observer, &asked, parts.status.as_u16(), &bytes);
                        full(bytes)
                    }
                    Err(error) => {
                        let error: BoxError = error;
                        return net.journal.broke("an answer has a whole body", error);
                    }
                }
            };
            drop(under_way);
            // Nobody waits for it any more when its sender died.
            let _ = sender.send(Response::from_parts(parts, body));
        });
        Some(answer)
    }
}

/// The server's way to its store, closed when it dies.
#[async_trait]
impl Intercept for Gate {
    async fn before_read(&self) -> Result<(), Error> {
        self.came_back(None, "").await;
        Ok(())
    }

    async fn commit(&self, inner: &dyn Store, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        let what = format!("commit of {key}");
        let side = self.pass(&what).await;
        let committed = inner.commit(key, expect, op).await;
        self.came_back(side, &what).await;
        committed
    }

    fn events(&self, _: &str, events: Events) -> Events {
        let dead = self.token();
        events.take_until(async move { dead.cancelled().await }).boxed()
    }
}

/// Time that follows tokio's clock from 2026 on, and the run's random numbers.
pub fn ambient(rng: Rng) -> Ambient {
    const BEGINNING: jiff::Timestamp = jiff::Timestamp::constant(1_767_225_600, 0);
    let start = tokio::time::Instant::now();
    Ambient::new(
        move || BEGINNING + jiff::SignedDuration::try_from(start.elapsed()).unwrap_or_default(),
        move || rng.next(),
    )
}

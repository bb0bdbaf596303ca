//! HTTP/2 connections: one to a backend, shared by its requests.
use super::{Error, Failed, IDLE_TIMEOUT, MAX_HEAD_BYTES, connect};
use crate::proxy::upload::Upload;
use crate::server::Tracked;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Backends with a connection at a time: as many as may be idle over HTTP/1.1.
const MAX_CONNECTIONS: usize = crate::server::MAX_CONNECTIONS / 4;

/// What one answer, and all answers of a connection, may hold here before their clients read it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

struct Shared {
    sender: SendRequest<Upload>,
    used: Instant,
}

pub(super) struct Http2Pool {
    connections: Mutex<HashMap<SocketAddr, Shared>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Http2Pool {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { connections: Mutex::default(), tasks, stop }
    }

    fn take(&self, address: SocketAddr) -> Option<SendRequest<Upload>> {
        let mut connections = self.connections.lock();
        let shared = connections.get_mut(&address)?;
        if shared.sender.is_closed() {
            connections.remove(&address);
            return None;
        }
        shared.used = Instant::now();
        Some(shared.sender.clone())
    }

    /// Two requests may open a connection each at the same time; the later one stays, the other ends with its request.
    async fn open(&self, address: SocketAddr) -> Result<SendRequest<Upload>, Error> {
        let stream = connect(address).await?;
        let (sender, connection) = Builder::new(Tracked(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Handshake)?;
        let stop = self.stop.clone();
        // What went wrong is seen by the requests it carries.
        self.tasks.spawn(async move {
            let _ = stop.run_until_cancelled(connection).await;
        });
        let mut connections = self.connections.lock();
        if connections.len() < MAX_CONNECTIONS {
            connections.insert(address, Shared { sender: sender.clone(), used: Instant::now() });
        }
        Ok(sender)
    }

    pub(super) async fn send(
        &self,
        address: SocketAddr,
        request: Request<Upload>,
        fresh: bool,
    ) -> Result<Response<Incoming>, Failed> {
        let kept = if fresh { None } else { self.take(address) };
        let (mut sender, reused) = match kept {
            Some(sender) => (sender, true),
            None => match self.open(address).await {
                Ok(sender) => (sender, false),
                Err(error) => return Err(Failed { error, unsent: Some(request), reused: false }),
            },
        };
        sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message();
            Failed { error: Error::Broken(failed.into_error()), unsent, reused }
        })
    }

    /// Without its handle here a connection ends when its last request has.
    pub(super) fn keep_only(&self, addresses: &HashSet<SocketAddr>) {
        self.connections.lock().retain(|address, _| addresses.contains(address));
    }

    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        // One that a long request uses is only forgotten here: the request keeps it.
        self.connections
            .lock()
            .retain(|_, c| now.duration_since(c.used) < IDLE_TIMEOUT && !c.sender.is_closed());
    }
}

//! HTTP/1.1 connections: each carries one request at a time and is driven by whoever uses it.
use super::{Error, Failed, IDLE_TIMEOUT, MAX_HEAD_BYTES, connect};
use crate::proxy::upload::Upload;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Idle connections kept to one backend, for the next burst: more than a benchmark's 64 clients leave idle at a time.
const IDLE_PER_BACKEND: usize = 128;

/// Idle connections in all: a quarter of the clients the gateway takes, so that descriptors are left for those.
const MAX_IDLE: usize = crate::server::MAX_CONNECTIONS / 4;

/// A connection, with the handle through which it is given requests.
struct Link {
    sender: SendRequest<Upload>,
    /// Taken away when it has ended.
    connection: Option<Connection<TokioIo<TcpStream>, Upload>>,
}

impl Link {
    async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = connect(address).await?;
        let (sender, connection) = Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Handshake)?;
        Ok(Self { sender, connection: Some(connection) })
    }

    /// Does what can be done now. Whatever comes of it is seen at the sender or at the answer's body.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether it can take a request. Nobody waits for it now.
    fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }
}

struct Idle {
    link: Link,
    since: Instant,
}

#[derive(Default)]
struct Kept {
    by_address: HashMap<SocketAddr, Vec<Idle>>,
    count: usize,
}

/// The connections that carry nothing now.
#[derive(Default)]
pub(super) struct Http1Pool(Mutex<Kept>);

impl Http1Pool {
    /// The one used last: the others may grow old.
    fn take(&self, address: SocketAddr) -> Option<Link> {
        loop {
            let mut idle = {
                let mut kept = self.0.lock();
                let idle = kept.by_address.get_mut(&address)?.pop()?;
                kept.count -= 1;
                idle
            };
            if idle.link.is_usable() {
                return Some(idle.link);
            }
        }
    }

    fn put(&self, address: SocketAddr, link: Link) {
        let mut kept = self.0.lock();
        if kept.count >= MAX_IDLE {
            return;
        }
        let idle = kept.by_address.entry(address).or_default();
        if idle.len() < IDLE_PER_BACKEND {
            idle.push(Idle { link, since: Instant::now() });
            kept.count += 1;
        }
    }

    fn retain(&self, keep: impl Fn(&SocketAddr, &Idle) -> bool) {
        let mut gone = Vec::new();
        {
            let mut kept = self.0.lock();
            kept.by_address.retain(|address, idle| {
                gone.extend(idle.extract_if(.., |idle| !keep(address, idle)));
                !idle.is_empty()
            });
            kept.count -= gone.len();
        }
        // Sockets are closed without the lock.
        drop(gone);
    }

    pub(super) fn keep_only(&self, addresses: &HashSet<SocketAddr>) {
        self.retain(|address, _| addresses.contains(address));
    }

    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        self.retain(|_, idle| now.duration_since(idle.since) < IDLE_TIMEOUT);
    }

    pub(super) async fn send(
        self: &Arc<Self>,
        address: SocketAddr,
        request: Request<Upload>,
        fresh: bool,
    ) -> Result<Response<Http1Body>, Failed> {
        let kept = if fresh { None } else { self.take(address) };
        let (mut link, reused) = match kept {
            Some(link) => (link, true),
            None => match Link::open(address).await {
                Ok(link) => (link, false),
                Err(error) => return Err(Failed { error, unsent: Some(request), reused: false }),
            },
        };
        let outcome = {
            let mut sending = pin!(link.sender.try_send_request(request));
            let connection = &mut link.connection;
            poll_fn(|cx| {
                if let Some(driven) = connection
                    && Pin::new(driven).poll(cx).is_ready()
                {
                    *connection = None;
                }
                // Only the connection makes it ready, and that was polled just now: nothing else may wake this task.
                sending.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })
            .await
        };
        match outcome {
            Ok(answer) => Ok(answer.map(|body| {
                let mut body =
                    Http1Body { body, link: Some(link), pool: self.clone(), address, ended: false };
                body.look_at_end();
                body
            })),
            Err(mut failed) => {
                let unsent = failed.take_message();
                Err(Failed { error: Error::Broken(failed.into_error()), unsent, reused })
            }
        }
    }
}

/// An answer's body, and the connection it comes over. When the body has ended, the connection goes back to the pool;
/// when it is dropped before, the connection is closed, which tells the backend to stop.
pub(crate) struct Http1Body {
    body: Incoming,
    link: Option<Link>,
    pool: Arc<Http1Pool>,
    address: SocketAddr,
    ended: bool,
}

impl Http1Body {
    /// Gives the connection back as soon as nothing more comes.
    fn look_at_end(&mut self) {
        if (self.ended || self.body.is_end_stream())
            && let Some(mut link) = self.link.take()
            && link.is_usable()
        {
            self.pool.put(self.address, link);
        }
    }

    /// The next piece. Whoever asks drives the connection.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let nobody = &mut Context::from_waker(Waker::noop());
        let mut polled = Pin::new(&mut self.body).poll_frame(nobody);
        if polled.is_pending()
            && let Some(link) = &mut self.link
        {
            link.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(nobody);
            // The connection reads on only once it has been told that more is wanted, which the first look did.
            if polled.is_pending() {
                link.drive(cx);
                polled = Pin::new(&mut self.body).poll_frame(nobody);
            }
        }
        match &polled {
            Poll::Ready(None) => self.ended = true,
            // Nobody knows what would come next on it.
            Poll::Ready(Some(Err(_))) => self.link = None,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        if polled.is_ready() {
            self.look_at_end();
        }
        polled
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What drives the connection of an upgrade until it has become something else or has ended.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) async fn send_upgrade(
    address: SocketAddr,
    request: Request<Upload>,
) -> Result<(Response<Incoming>, Driver), Failed> {
    let Link { mut sender, connection } = match Link::open(address).await {
        Ok(link) => link,
        Err(error) => return Err(Failed { error, unsent: Some(request), reused: false }),
    };
    let mut driver: Driver = Box::pin(async move {
        if let Some(connection) = connection {
            // What went wrong is seen by those who wait for the answer.
            let _ = connection.with_upgrades().await;
        }
    });
    let mut sending = Box::pin(sender.try_send_request(request));
    let mut ended = false;
    let outcome = poll_fn(|cx| {
        if !ended {
            ended = driver.as_mut().poll(cx).is_ready();
        }
        sending.as_mut().poll(cx)
    })
    .await;
    drop(sending);
    match outcome {
        Ok(answer) => {
            let driver: Driver = Box::pin(async move {
                // The handle must live as long as the connection is to carry the answer.
                let _sender = sender;
                if !ended {
                    driver.await;
                }
            });
            Ok((answer, driver))
        }
        Err(mut failed) => {
            let unsent = failed.take_message();
            Err(Failed { error: Error::Broken(failed.into_error()), unsent, reused: false })
        }
    }
}

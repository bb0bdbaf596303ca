//! How much is let in at once.
use machinery::status::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The server's limits. Each has upstream's value where upstream has one.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `--max-requests-inflight`.
    pub reads_in_flight: usize,
    /// `--max-mutating-requests-inflight`. Upstream's 200; the store's group commit is best with 64 to 256 writers.
    pub writes_in_flight: usize,
    /// Watches, log and proxy streams at once. One costs about 10 kB (a task, two buffers): 10 000 are 100 MB. A
    /// thousand nodes hold about ten each.
    pub long_running: usize,
    /// Connections at once. A connection is a file descriptor and about 60 kB of TLS and HTTP buffers: 2 000 are
    /// 120 MB, and leave half of a common limit of 4 096 descriptors to the store and the rest of the process.
    pub connections: usize,
    /// HTTP/2 streams of one connection; upstream's 100. A client with more waits, it is not refused.
    pub streams_per_connection: u32,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long the head of a request may take to arrive, and how long an HTTP/1.1 connection may idle.
    pub header_timeout: Duration,
    /// How long a request that is not a stream may take, all in all; upstream's `--request-timeout`.
    pub request_timeout: Duration,
    /// How long a watch without `timeoutSeconds` goes on at least (`--min-request-timeout`); up to twice as long,
    /// so that clients that came together do not come back together.
    pub min_watch_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads_in_flight: 400,
            writes_in_flight: 200,
            long_running: 10_000,
            connections: 2_000,
            streams_per_connection: 100,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            min_watch_timeout: Duration::from_secs(1800),
        }
    }
}

/// What kind of request takes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    Write,
    LongRunning,
}

/// The places that are left.
pub(crate) struct InFlight {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    long_running: Arc<Semaphore>,
}

impl InFlight {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(limits.reads_in_flight)),
            writes: Arc::new(Semaphore::new(limits.writes_in_flight)),
            long_running: Arc::new(Semaphore::new(limits.long_running)),
        }
    }

    /// A place, or the 429 that tells the client to come back in a second.
    pub(crate) fn enter(&self, class: Class) -> Result<OwnedSemaphorePermit, Status> {
        let places = match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
            Class::LongRunning => &self.long_running,
        };
        places
            .clone()
            .try_acquire_owned()
            .map_err(|_| Status::too_many_requests("too many requests, please try again later", 1))
    }
}

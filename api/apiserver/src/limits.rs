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
    /// How long a connection's first request, and the head of every request, may take to arrive; and how long an
    /// HTTP/1.1 connection may idle.
    pub header_timeout: Duration,
    /// How long a connection that has been used may answer nothing before it is closed; upstream's `IdleTimeout`.
    pub idle_timeout: Duration,
    /// How long a request that is not a stream may take, all in all; upstream's `--request-timeout`.
    pub request_timeout: Duration,
    /// How long a request may wait for its turn before it is refused; upstream's queues allow a quarter of the
    /// request timeout.
    pub max_queue_wait: Duration,
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
            idle_timeout: Duration::from_secs(90),
            request_timeout: Duration::from_secs(60),
            max_queue_wait: Duration::from_secs(15),
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

/// The places that are left, and the queues for them.
pub(crate) struct InFlight {
    reads: Places,
    writes: Places,
    long_running: Places,
}

struct Places {
    free: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    max_wait: Duration,
}

impl Places {
    fn new(places: usize, queued: usize, max_wait: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), queue: Arc::new(Semaphore::new(queued)), max_wait }
    }

    async fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return Ok(place);
        }
        let full = || Status::too_many_requests("too many requests, please try again later", 1);
        let _queued = self.queue.try_acquire().map_err(|_| full())?;
        match tokio::time::timeout(self.max_wait, self.free.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(full()),
        }
    }
}

/// How many may wait for each place: a burst of ten times what is answered at once (a node's kubelet reporting
/// 2 000 pods) passes, at a few ms a write, within a second.
const QUEUED_PER_PLACE: usize = 10;

impl InFlight {
    pub(crate) fn new(limits: &Limits) -> Self {
        let queued =
            |places: usize| Places::new(places, places.max(1) * QUEUED_PER_PLACE, limits.max_queue_wait);
        Self {
            reads: queued(limits.reads_in_flight),
            writes: queued(limits.writes_in_flight),
            // A stream may hold its place for ever: waiting for it is no use.
            long_running: Places::new(limits.long_running, 0, Duration::ZERO),
        }
    }

    /// A place, when there is one in time, or the 429 that tells the client to come back in a second.
    pub(crate) async fn enter(&self, class: Class) -> Result<OwnedSemaphorePermit, Status> {
        match class {
            Class::Read => self.reads.enter().await,
            Class::Write => self.writes.enter().await,
            Class::LongRunning => self.long_running.enter().await,
        }
    }
}

//! The applier that needs no privileges: a listener for each frontend, and a task that carries each connection.
use crate::rules::{Frontend, Ruleset};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections carried at once. Each costs two descriptors and two 8 KiB buffers: 4096 are 8192 of the 20,000
/// descriptors a process may commonly have, and 64 MiB when all of them are busy.
const MAX_CONNECTIONS: usize = 4096;

/// How long a backend may take to accept; then the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Backends tried for one connection.
const MAX_TRIES: usize = 3;

/// A frontend that could not be bound.
pub(crate) struct Refused {
    pub namespace: String,
    pub service: String,
    pub address: SocketAddr,
    pub error: std::io::Error,
}

impl Refused {
    /// What a person needs to know.
    pub(crate) fn why(&self) -> String {
        match self.error.kind() {
            std::io::ErrorKind::PermissionDenied => format!(
                "ports below 1024 need root, or `sysctl net.ipv4.ip_unprivileged_port_start={}`",
                self.address.port()
            ),
            std::io::ErrorKind::AddrInUse => "another program of this machine listens there".to_owned(),
            _ => self.error.to_string(),
        }
    }
}

/// What connections of one frontend look at.
struct Shared {
    frontend: RwLock<Frontend>,
    next: AtomicUsize,
}

struct Listening {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// The listeners of this node.
pub(crate) struct Userspace {
    listening: BTreeMap<SocketAddr, Listening>,
    refused: BTreeMap<SocketAddr, std::io::ErrorKind>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Default for Userspace {
    fn default() -> Self {
        Self {
            listening: BTreeMap::new(),
            refused: BTreeMap::new(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }
}

impl Userspace {
    /// Makes the listeners fit the ruleset. Gives back what could not be bound, each failure once.
    pub(crate) async fn apply(&mut self, ruleset: &Ruleset) -> Vec<Refused> {
        // A listener without backends would accept what it cannot carry: closed, the kernel refuses for it.
        let wanted = |address: &SocketAddr| ruleset.frontends.get(address).filter(|f| !f.backends.is_empty());
        self.listening.retain(|address, listening| {
            let keep = wanted(address).is_some();
            if !keep {
                listening.stop.cancel();
            }
            keep
        });
        self.refused.retain(|address, _| wanted(address).is_some());
        let mut refused = Vec::new();
        for (address, frontend) in ruleset.frontends.iter().filter(|(_, f)| !f.backends.is_empty()) {
            if let Some(listening) = self.listening.get(address) {
                let current = &listening.shared.frontend;
                if *current.read() != *frontend {
                    *current.write() = frontend.clone();
                }
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    self.refused.remove(address);
                    let shared = Arc::new(Shared {
                        frontend: RwLock::new(frontend.clone()),
                        next: AtomicUsize::new(0),
                    });
                    let stop = self.stop.child_token();
                    self.tasks.spawn(accept(
                        listener,
                        shared.clone(),
                        self.connections.clone(),
                        self.tasks.clone(),
                        stop.clone(),
                        self.stop.clone(),
                    ));
                    self.listening.insert(*address, Listening { shared, stop });
                }
                Err(error) => {
                    if self.refused.insert(*address, error.kind()) != Some(error.kind()) {
                        refused.push(Refused {
                            namespace: frontend.namespace.clone(),
                            service: frontend.service.clone(),
                            address: *address,
                            error,
                        });
                    }
                }
            }
        }
        refused
    }

    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Ends every listener and connection.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    stop_connections: CancellationToken,
) {
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((client, peer)) => {
                    // Beyond the limit, clients wait in the kernel's backlog rather than being turned away.
                    let Ok(permit) = connections.clone().acquire_owned().await else { return };
                    let (shared, stop) = (shared.clone(), stop_connections.clone());
                    tasks.spawn(async move {
                        stop.run_until_cancelled(carry(client, peer, &shared)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    // Out of descriptors, mostly: some will be freed.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Carries one connection until both sides have ended it.
async fn carry(mut client: TcpStream, peer: SocketAddr, shared: &Shared) {
    let frontend = shared.frontend.read().clone();
    let first = if frontend.client_affinity {
        let mut hasher = DefaultHasher::new();
        peer.ip().hash(&mut hasher);
        hasher.finish() as usize
    } else {
        shared.next.fetch_add(1, Ordering::Relaxed)
    };
    let tries = frontend.backends.len().min(MAX_TRIES);
    for offset in 0..tries {
        let backend = frontend.backends[first.wrapping_add(offset) % frontend.backends.len()];
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend)).await {
            Ok(Ok(mut server)) => {
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                // Either side going away is the ordinary end of a connection.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                return;
            }
            Ok(Err(error)) => {
                tracing::debug!(service = %frontend.service, %backend, %error, "cannot connect")
            }
            Err(_) => tracing::debug!(service = %frontend.service, %backend, "connecting takes too long"),
        }
    }
    // A reset says "refused" where a clean end would say "answered with nothing".
    let _ = client.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers each connection with `name`.
    async fn backend(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(name.as_bytes()).await;
            }
        });
        address
    }

    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut text = String::new();
        TcpStream::connect(address).await?.read_to_string(&mut text).await?;
        Ok(text)
    }

    fn ruleset(address: SocketAddr, backends: Vec<SocketAddr>) -> Ruleset {
        let frontend = Frontend {
            namespace: "a".into(),
            service: "web".into(),
            port_name: String::new(),
            backends,
            client_affinity: false,
        };
        Ruleset { frontends: [(address, frontend)].into() }
    }

    async fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address")
    }

    #[tokio::test]
    async fn connections_go_round_and_pass_over_a_dead_backend() {
        let (a, b, dead) = (backend("a").await, backend("b").await, free_address().await);
        let address = free_address().await;
        let mut userspace = Userspace::default();
        assert!(userspace.apply(&ruleset(address, vec![a, b])).await.is_empty());
        let answers = [ask(address).await.expect("answer"), ask(address).await.expect("answer")];
        assert_eq!(answers, ["a", "b"]);
        assert!(userspace.apply(&ruleset(address, vec![dead, b])).await.is_empty());
        for _ in 0..4 {
            assert_eq!(ask(address).await.expect("answer"), "b");
        }
        userspace.stop().await;
    }

    #[tokio::test]
    async fn without_backends_connections_are_refused_and_later_served_again() {
        let (a, address) = (backend("a").await, free_address().await);
        let mut userspace = Userspace::default();
        userspace.apply(&ruleset(address, vec![a])).await;
        assert_eq!(ask(address).await.expect("answer"), "a");
        userspace.apply(&ruleset(address, vec![])).await;
        userspace.tasks.close();
        userspace.tasks.wait().await;
        assert!(ask(address).await.is_err());
        userspace.tasks.reopen();
        userspace.apply(&ruleset(address, vec![a])).await;
        assert_eq!(ask(address).await.expect("answer"), "a");
        userspace.stop().await;
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_reported_once() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let rules = ruleset(taken.local_addr().expect("address"), vec![free_address().await]);
        let mut userspace = Userspace::default();
        let refused = userspace.apply(&rules).await;
        assert_eq!(refused.len(), 1);
        assert!(refused[0].why().contains("another program"), "{}", refused[0].why());
        assert!(userspace.apply(&rules).await.is_empty());
        assert!(userspace.has_refused());
    }
}

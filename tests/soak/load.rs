//! Clients that ask innocent functions without a pause worth the name, and those that wake the hostile ones.
use crate::connection::{Answer, Connection, Error};
use crate::fleet::{Asked, Function};
use crate::latency::Latencies;
use crate::outage::Failure;
use crate::rng::Rng;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The longest a client waits: a function may take five seconds, and the gateway tells so when they are over.
const PATIENCE: Duration = Duration::from_secs(10);
/// More failures than this are counted, not kept.
const MAX_FAILURES: usize = 100_000;

/// How a request reaches its function.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// By its host name.
    Gateway(SocketAddr),
    /// At the addresses of pods that stay, by the number of the function.
    Pods(Rc<Vec<SocketAddr>>),
    /// At the addresses of their Services.
    Services(Rc<Vec<SocketAddr>>),
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Pods(_) => "pod",
            Self::Services(_) => "service",
        }
    }
}

/// What clients have seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Of answered requests, by way.
    pub(crate) latencies: RefCell<BTreeMap<&'static str, Latencies>>,
    pub(crate) failures: RefCell<Vec<Failure>>,
    pub(crate) failed: Cell<usize>,
    /// Answers of hostile guests by status; 0: the connection ended.
    pub(crate) hostile: RefCell<BTreeMap<u16, usize>>,
}

impl Seen {
    fn failed(&self, failure: Failure) {
        self.failed.set(self.failed.get() + 1);
        if self.failures.borrow().len() < MAX_FAILURES {
            self.failures.borrow_mut().push(failure);
        }
    }
    pub(crate) fn answered(&self) -> usize {
        self.latencies.borrow().values().map(Latencies::len).sum()
    }
}

/// One client.
pub(crate) struct Client {
    pub(crate) functions: Rc<Vec<Function>>,
    pub(crate) way: Way,
    pub(crate) rng: Rng,
    /// Between two requests.
    pub(crate) pause: Duration,
    /// Every request of this number fails on purpose: does the soak tell?
    pub(crate) spoil: Option<u64>,
}

impl Client {
    pub(crate) async fn run(self, seen: Rc<Seen>, stop: CancellationToken) {
        let mut number = 0_u64;
        let mut kept: Option<(SocketAddr, Connection, u64)> = None;
        while !stop.is_cancelled() {
            number += 1;
            let (one, address) = match &self.way {
                Way::Gateway(gateway) => (self.rng.below(self.functions.len() as u64) as usize, *gateway),
                Way::Pods(addresses) | Way::Services(addresses) => {
                    let one = self.rng.below(addresses.len() as u64) as usize;
                    (one, addresses[one])
                }
            };
            if let Some(asked) = self.functions[one].ask() {
                let path = format!("/{number}");
                kept = self.request(&self.functions[one], address, &path, asked, kept.take(), &seen).await;
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    /// One request, on the connection that was kept if it leads there; the connection if it can serve again.
    async fn request(
        &self,
        function: &Function,
        address: SocketAddr,
        path: &str,
        asked: Asked<'_>,
        kept: Option<(SocketAddr, Connection, u64)>,
        seen: &Seen,
    ) -> Option<(SocketAddr, Connection, u64)> {
        let mut kept = kept.filter(|(to, _, left)| *to == address && *left > 0);
        let host = function.host();
        let began = Instant::now();
        let outcome = tokio::time::timeout(PATIENCE, async {
            loop {
                let (mut connection, left) = match kept.take() {
                    Some((_, connection, left)) => (connection, left),
                    None => (Connection::open(address).await?, self.rng.below(50)),
                };
                match connection.get(&host, path).await {
                    // It was closed while it was idle, which a server may do: the request is still ours.
                    Err(Error::NotSent) => continue,
                    answer => return answer.map(|a| (a, connection, left)),
                }
            }
        })
        .await;
        let spoilt = self.spoil.is_some_and(|n| path.ends_with(&format!("/{n}")));
        let cause = match outcome {
            _ if spoilt => "spoilt on purpose".to_owned(),
            Ok(Ok((Answer { status: 200, text }, connection, left))) => match asked.check(path, &text) {
                Ok(()) => {
                    let taken = began.elapsed();
                    seen.latencies.borrow_mut().entry(self.way.name()).or_default().add(taken);
                    return (left > 0).then(|| (address, connection, left - 1));
                }
                Err(wrong) => wrong,
            },
            Ok(Ok((answer, ..))) => format!("{}: {}", answer.status, answer.text.trim()),
            Ok(Err(Error::NotSent)) => "not sent".to_owned(),
            Ok(Err(Error::Failed(why))) => why,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        seen.failed(Failure {
            function: function.name.clone(),
            via: self.way.name(),
            began,
            ended: Instant::now(),
            cause,
        });
        None
    }
}

/// Asks hostile functions one after another. What they answer is their business; that they are answered is not.
pub(crate) async fn provoke(
    gateway: SocketAddr,
    hosts: Vec<String>,
    seen: Rc<Seen>,
    unanswered: Rc<dyn Fn(String)>,
    stop: CancellationToken,
) {
    for host in hosts.iter().cycle() {
        if stop.is_cancelled() {
            return;
        }
        let asked = async { Connection::open(gateway).await?.get(host, "/").await };
        let status = match tokio::time::timeout(2 * PATIENCE, asked).await {
            Ok(Ok(answer)) => answer.status,
            Ok(Err(_)) => 0,
            Err(_) => {
                unanswered(format!("{host} kept its client waiting for more than {:?}", 2 * PATIENCE));
                0
            }
        };
        *seen.hostile.borrow_mut().entry(status).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

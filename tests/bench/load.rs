//! A number of clients, each of which asks again as soon as it has its answer.
use crate::connection::{Answer, Connection};
use crate::samples::Samples;
use anyhow::Result;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::time::{Duration, Instant};

pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) latencies: Samples,
}

/// When the clients stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// This many answers of all clients together.
    Answers(u64),
}

/// Lets every connection be a client. `request` gets a number that no other request of this load has; `check` refuses
/// an answer that is not what a client wants: an error would be fast.
pub(crate) async fn run(
    connections: &mut [Connection],
    until: Until,
    request: impl Fn(u64) -> Result<Request<Full<Bytes>>>,
    check: impl Fn(&Answer) -> Result<()>,
) -> Result<Load> {
    let next = std::cell::Cell::new(0);
    let begin = Instant::now();
    let clients = connections.iter_mut().map(async |connection| {
        let mut latencies = Samples::default();
        loop {
            let number: u64 = next.get();
            let done = match until {
                Until::Elapsed(duration) => begin.elapsed() >= duration,
                Until::Answers(count) => number >= count,
            };
            if done {
                return anyhow::Ok(latencies);
            }
            next.set(number + 1);
            let request = request(number)?;
            let sent = Instant::now();
            let answer = connection.send(request).await?;
            latencies.add(sent.elapsed());
            check(&answer)?;
        }
    });
    let mut latencies = Samples::default();
    for client in futures::future::try_join_all(clients).await? {
        latencies.extend(client);
    }
    Ok(Load { per_second: latencies.len() as f64 / begin.elapsed().as_secs_f64(), latencies })
}

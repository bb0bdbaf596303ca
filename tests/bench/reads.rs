//! Gets by 64 clients and lists of 5,000 objects, against etcd's.
use crate::Plan;
use crate::cluster::{Cluster, json_request};
use crate::connection::{Answer, Connection, Protocol};
use crate::etcd::{self, Etcd};
use crate::figure::{Figure, rounded};
use crate::load::{self, Until};
use crate::samples::{Samples, median, rounds};
use crate::writes::{CLIENTS, VALUE_BYTES, check_created, create_config_map};
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use std::time::Instant;

const OBJECTS: u64 = 5000;
const ROUNDS: usize = 3;
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

fn name(number: u64) -> String {
    format!("read-{:05}", number % OBJECTS)
}

fn get(path: &str) -> Result<Request<Full<Bytes>>> {
    json_request(Method::GET, path, Vec::new())
}

fn check(answer: &Answer) -> Result<()> {
    ensure!(answer.status.is_success(), "get: {}", answer.status);
    Ok(())
}

async fn timed(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> Result<(Answer, std::time::Duration)> {
    let begin = Instant::now();
    let answer = connection.send(request).await?;
    Ok((answer, begin.elapsed()))
}

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    let etcd = Etcd::start(plan).await?;
    let mut https = cluster.connections(CLIENTS, Protocol::Http2).await?;
    let mut grpc = etcd.connections(CLIENTS).await?;
    let value = [b'x'; VALUE_BYTES];
    let all = Until::Answers(OBJECTS);
    load::run(&mut https, all, |n| create_config_map("default", &name(n)), check_created).await?;
    load::run(&mut grpc, all, |n| etcd::put(&name(n), &value), etcd::check).await?;

    let until = Until::Elapsed(plan.seconds(5));
    let (mut gets, mut ranges) = <(Vec<f64>, Vec<f64>)>::default();
    let (mut get_times, mut range_times) = <(Samples, Samples)>::default();
    for _ in 0..ROUNDS {
        let load =
            load::run(&mut https, until, |n| get(&format!("{COLLECTION}/{}", name(n * 7919))), check).await?;
        gets.push(load.per_second);
        get_times.extend(load.latencies);
        let load = load::run(&mut grpc, until, |n| etcd::get(&name(n * 7919)), etcd::check).await?;
        ranges.push(load.per_second);
        range_times.extend(load.latencies);
    }

    let (mut lists, mut whole_ranges) = <(Samples, Samples)>::default();
    let mut bytes = 0;
    for _ in 0..plan.times(10) {
        let (answer, elapsed) = timed(&mut https[0], get(COLLECTION)?).await?;
        check(&answer)?;
        bytes = answer.body.len();
        ensure!(bytes as u64 > OBJECTS * VALUE_BYTES as u64, "the list is not whole: {bytes} bytes");
        lists.add(elapsed);
        let (answer, elapsed) = timed(&mut grpc[0], etcd::range("read-", "read.")?).await?;
        etcd::check(&answer)?;
        ensure!(answer.body.len() as u64 > OBJECTS * VALUE_BYTES as u64, "the range is not whole");
        whole_ranges.add(elapsed);
    }
    drop((https, grpc));
    cluster.stop().await?;
    let latency = |samples: &Samples| {
        format!(
            "p50 {} ms, p99 {} ms",
            rounded(samples.percentile_ms(50.0)),
            rounded(samples.percentile_ms(99.0))
        )
    };
    Ok(vec![
        Figure::new("gets of 1 KiB ConfigMaps, 64 clients, HTTPS, HTTP/2", median(&gets), "per second")
            .beside(format!("rounds {}; {}", rounds(&gets), latency(&get_times)))
            .yardstick(
                format!(
                    "etcd, linearizable gets, 64 clients over gRPC (rounds {}; {})",
                    rounds(&ranges),
                    latency(&range_times)
                ),
                median(&ranges),
            ),
        Figure::new("list of 5,000 ConfigMaps of 1 KiB, median", lists.percentile_ms(50.0), "ms")
            .beside(format!("p90 {}; {:.1} MB", rounded(lists.percentile_ms(90.0)), bytes as f64 / 1e6))
            .yardstick("etcd, range of 5,000 keys", whole_ranges.percentile_ms(50.0)),
    ])
}

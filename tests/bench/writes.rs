//! Creates of ConfigMaps of 1 KiB by 64 clients, against etcd's puts of as much by as many.
use crate::Plan;
use crate::cluster::{Cluster, json_request};
use crate::connection::{Answer, Connection, Protocol};
use crate::etcd::{self, Etcd};
use crate::figure::{Figure, rounded};
use crate::load::{self, Until};
use crate::samples::{Samples, median, rounds};
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use std::fmt::Write as _;

pub(crate) const CLIENTS: usize = 64;
pub(crate) const VALUE_BYTES: usize = 1024;
const ROUNDS: usize = 3;

/// 1 KiB of data, and what makes it a ConfigMap.
pub(crate) fn create_config_map(namespace: &str, name: &str) -> Result<Request<Full<Bytes>>> {
    let mut body = String::with_capacity(VALUE_BYTES + 256);
    write!(
        body,
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"{namespace}"}},"data":{{"value":"{:x<VALUE_BYTES$}"}}}}"#,
        ""
    )?;
    json_request(Method::POST, &format!("/api/v1/namespaces/{namespace}/configmaps"), body.into_bytes())
}

pub(crate) fn check_created(answer: &Answer) -> Result<()> {
    ensure!(
        answer.status == StatusCode::CREATED,
        "create: {} {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );
    Ok(())
}

#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    latencies: Samples,
}

impl Series {
    fn add(&mut self, load: load::Load) {
        self.rates.push(load.per_second);
        self.latencies.extend(load.latencies);
    }
    fn beside(&self) -> String {
        format!(
            "rounds {}; p50 {} ms, p99 {} ms",
            rounds(&self.rates),
            rounded(self.latencies.percentile_ms(50.0)),
            rounded(self.latencies.percentile_ms(99.0))
        )
    }
}

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    let etcd = Etcd::start(plan).await?;
    let mut http1 = cluster.connections(CLIENTS, Protocol::Http1).await?;
    let mut http2 = cluster.connections(CLIENTS, Protocol::Http2).await?;
    let mut grpc = etcd.connections(CLIENTS).await?;
    let until = Until::Elapsed(plan.seconds(6));
    let value = [b'x'; VALUE_BYTES];
    let (mut creates1, mut creates2, mut puts) = <(Series, Series, Series)>::default();
    for round in 0..ROUNDS {
        let creates = async |connections: &mut [Connection], kind: &str| {
            load::run(
                connections,
                until,
                |number| create_config_map("default", &format!("write-{kind}-{round}-{number}")),
                check_created,
            )
            .await
        };
        creates1.add(creates(&mut http1, "h1").await?);
        puts.add(
            load::run(
                &mut grpc,
                until,
                |number| etcd::put(&format!("/registry/configmaps/default/write-{round}-{number}"), &value),
                etcd::check,
            )
            .await?,
        );
        creates2.add(creates(&mut http2, "h2").await?);
    }
    drop((http1, http2, grpc));
    cluster.stop().await?;
    let yardstick = median(&puts.rates);
    let name = format!("etcd, puts of 1 KiB, 64 clients over gRPC ({})", puts.beside());
    Ok([("HTTP/1.1", creates1), ("HTTP/2", creates2)]
        .into_iter()
        .map(|(protocol, series)| {
            Figure::new(
                format!("creates of 1 KiB ConfigMaps, 64 clients, HTTPS, {protocol}"),
                median(&series.rates),
                "per second",
            )
            .beside(series.beside())
            .yardstick(name.clone(), yardstick)
            .times_yardstick(0.3)
        })
        .collect())
}

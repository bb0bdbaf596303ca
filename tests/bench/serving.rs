//! Requests that a component answers: on the address of its pod, and through the gateway.
use crate::Plan;
use crate::cluster::Cluster;
use crate::figure::{Figure, rounded};
use crate::nginx::Nginx;
use crate::samples::{median, rounds};
use crate::wasmtime_serve::WasmtimeServe;
use crate::wrk::{self, Wrk};
use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;

/// Two addresses in turn, each warmed up before: what the first and what the second did.
async fn in_turn(
    plan: &Plan,
    first: (&str, Option<&str>),
    second: (&str, Option<&str>),
) -> Result<(Vec<Wrk>, Vec<Wrk>)> {
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    for (url, host) in [first, second] {
        wrk::run(plan, url, host, Duration::from_secs(1)).await?;
    }
    for _ in 0..ROUNDS {
        firsts.push(wrk::run(plan, first.0, first.1, plan.seconds(10)).await?);
        seconds.push(wrk::run(plan, second.0, second.1, plan.seconds(10)).await?);
    }
    Ok((firsts, seconds))
}

fn rates(rounds: &[Wrk]) -> Vec<f64> {
    rounds.iter().map(|round| round.per_second).collect()
}

fn beside(each: &[Wrk]) -> String {
    let middle = |of: fn(&Wrk) -> f64| rounded(median(&each.iter().map(of).collect::<Vec<_>>()));
    format!(
        "rounds {}; p50 {} ms, p99 {} ms",
        rounds(&rates(each)),
        middle(|w| w.p50_ms),
        middle(|w| w.p99_ms)
    )
}

fn figure(what: &str, ours: &[Wrk], yardstick: &str, theirs: &[Wrk]) -> Figure {
    Figure::new(what, median(&rates(ours)), "requests/s")
        .beside(beside(ours))
        .yardstick(format!("{yardstick} ({})", beside(theirs)), median(&rates(theirs)))
}

/// Requests one instance serves where instances are reused: what `wasmtime serve` takes for WASI 0.3 by itself.
const REUSE: u32 = 128;

pub(crate) async fn on_the_pod_address(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    let image = cluster.import_guest(plan).await?;
    let url = format!("http://{}:8080/", cluster.ready_pod("serving", &image).await?);
    let reusing = format!("http://{}:8080/", cluster.ready_pod_reusing("reusing", &image, REUSE).await?);
    let wasmtime = WasmtimeServe::start(plan, &[]).await?;
    let (ours, theirs) = in_turn(plan, (&url, None), (&wasmtime.url, None)).await?;
    drop(wasmtime);
    let wasmtime = WasmtimeServe::start(plan, &["--max-instance-reuse-count", &REUSE.to_string()]).await?;
    let (reused, theirs_reused) = in_turn(plan, (&reusing, None), (&wasmtime.url, None)).await?;
    cluster.stop().await?;
    let p99 = |each: &[Wrk]| median(&each.iter().map(|round| round.p99_ms).collect::<Vec<_>>());
    let serve = "`wasmtime serve` of the same component";
    let serve_reusing = format!("`wasmtime serve --max-instance-reuse-count {REUSE}`");
    let what = "hello-http on the pod's address, wrk with 64 connections";
    Ok(vec![
        figure(what, &ours, serve, &theirs).times_yardstick(2.0),
        Figure::new("the same, p99", p99(&ours), "ms")
            .yardstick(serve, p99(&theirs))
            .at_most_times_yardstick(0.7),
        figure(
            &format!("the same, each instance serving up to {REUSE} requests"),
            &reused,
            &serve_reusing,
            &theirs_reused,
        )
        .times_yardstick(0.95),
        Figure::new("the same, p99", p99(&reused), "ms").yardstick(serve_reusing, p99(&theirs_reused)),
    ])
}

pub(crate) async fn through_the_gateway(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    let image = cluster.import_guest(plan).await?;
    let direct = format!("http://{}:8080/", cluster.ready_pod("beside", &image).await?);
    let function = json!({
        "apiVersion": "dhow.dev/v1alpha1",
        "kind": "Function",
        "metadata": { "name": "hello", "namespace": "default" },
        "spec": { "image": image },
    });
    let path = "/apis/dhow.dev/v1alpha1/namespaces/default/functions";
    let begin = Instant::now();
    cluster.ask(Method::POST, path, function).await?;
    let limit = Duration::from_secs(60);
    let serves = async {
        loop {
            let seen = cluster.ask(Method::GET, &format!("{path}/hello"), Value::Null).await?;
            let conditions = seen["status"]["conditions"].as_array();
            if conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True") {
                return anyhow::Ok(begin.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let served = tokio::time::timeout(limit, serves).await.context("the function is not Ready")??;
    let url = format!("http://127.0.0.1:{}/", cluster.gateway_port);
    let host = format!("hello.localhost:{}", cluster.gateway_port);
    let wasmtime = WasmtimeServe::start(plan, &[]).await?;
    let backend = wasmtime.url.trim_start_matches("http://").trim_end_matches('/');
    let nginx = Nginx::start(plan, backend).await?;
    let (gateway, proxied) = in_turn(plan, (&url, Some(&host)), (&nginx.url, None)).await?;
    let (again, pod) = in_turn(plan, (&url, Some(&host)), (&direct, None)).await?;
    cluster.stop().await?;
    Ok(vec![
        figure(
            "hello-http through the gateway, wrk with 64 connections",
            &gateway,
            "nginx before `wasmtime serve` of the same component",
            &proxied,
        )
        .times_yardstick(1.0),
        figure("the same, beside the function without a gateway", &again, "the pod's own address", &pod),
        Figure::new("create of a Function to Ready, image on the node", served.as_secs_f64() * 1e3, "ms"),
    ])
}

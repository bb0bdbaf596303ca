//! What a pod that answers HTTP feels of neighbours that compute for ever.
use crate::Plan;
use crate::cluster::{Cluster, json_request, pod};
use crate::connection::Protocol;
use crate::figure::{Figure, rounded};
use crate::samples::{median, rounds};
use crate::watch::{Event, Watch};
use crate::wrk::{self, Wrk};
use anyhow::{Context, Result, ensure};
use http::Method;
use std::collections::BTreeSet;
use std::time::Duration;

const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A command that never ends and never calls the host.
const LOOP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    let image = cluster.import_guest(plan).await?;
    let endless = cluster.import("endless", wat::parse_str(LOOP)?).await?;
    let url = format!("http://{}:8080/", cluster.ready_pod("victim", &image).await?);
    wrk::run(plan, &url, None, Duration::from_secs(1)).await?;
    let cores = std::thread::available_parallelism()?.get();
    let (mut quiet, mut loud) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        quiet.push(wrk::run(plan, &url, None, plan.seconds(10)).await?);
        let names: Vec<String> = (0..cores).map(|n| format!("endless-{round}-{n}")).collect();
        start(&cluster, &names, &endless).await?;
        loud.push(wrk::run(plan, &url, None, plan.seconds(10)).await?);
        remove(&cluster, &names).await?;
    }
    cluster.stop().await?;
    let middle = |each: &[Wrk], of: fn(&Wrk) -> f64| median(&each.iter().map(of).collect::<Vec<_>>());
    let beside = |each: &[Wrk]| {
        format!(
            "rounds {}; p50 {} ms, {} requests/s",
            rounds(&each.iter().map(|w| w.p99_ms).collect::<Vec<_>>()),
            rounded(middle(each, |w| w.p50_ms)),
            rounded(middle(each, |w| w.per_second))
        )
    };
    let what = format!("hello-http beside {cores} pods in an endless loop, one for each core: p99");
    Ok(vec![
        Figure::new(what, middle(&loud, |w| w.p99_ms), "ms")
            .beside(beside(&loud))
            .yardstick(
                format!("the same without neighbours ({})", beside(&quiet)),
                middle(&quiet, |w| w.p99_ms),
            )
            .at_most_times_yardstick(1.5),
    ])
}

/// Pods that ask for nothing, and are Ready once they run.
async fn start(cluster: &Cluster, names: &[String], image: &str) -> Result<()> {
    let mut watch = Watch::of(cluster, PODS).await?;
    for name in names {
        cluster.ask(Method::POST, PODS, pod(name, image)).await?;
    }
    all(names, &mut watch, "Ready", Event::ready).await
}

async fn remove(cluster: &Cluster, names: &[String]) -> Result<()> {
    let mut watch = Watch::of(cluster, PODS).await?;
    let mut connection = cluster.connect(Protocol::Http2).await?;
    for name in names {
        let request =
            json_request(Method::DELETE, &format!("{PODS}/{name}?gracePeriodSeconds=0"), Vec::new())?;
        let answer = connection.send(request).await?;
        ensure!(answer.status.is_success(), "delete {name}: {}", answer.status);
    }
    all(names, &mut watch, "gone", |event| event.kind == "DELETED").await
}

/// Waits until each of them has been seen so, in whatever order.
async fn all(names: &[String], watch: &mut Watch, what: &str, is: impl Fn(&Event) -> bool) -> Result<()> {
    let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let seeing = async {
        while !missing.is_empty() {
            let event = watch.next().await?;
            if is(&event) {
                missing.remove(event.name());
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, seeing).await.with_context(|| format!("not all of {names:?} are {what}"))?
}

//! From the create of a wasm pod, its image on the node, to the watch event that says Ready: one at a time, and a
//! hundred each second.
use crate::Plan;
use crate::cluster::{Cluster, create_pod, pod};
use crate::connection::{Connection, Protocol};
use crate::figure::{Figure, rounded};
use crate::samples::Samples;
use crate::watch::Watch;
use crate::writes::check_created;
use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &["--max-pods", "1000"]).await?;
    let image = cluster.import_guest(plan).await?;
    // The first compiles; that is once a node and image, and not what is asked here.
    let first = Instant::now();
    cluster.ready_pod("pod-first", &image).await?;
    let first = first.elapsed().as_secs_f64() * 1e3;
    let mut figures = vec![through_the_api(plan, &cluster, &image).await?];
    figures.push(at_a_rate(plan, &cluster, &image).await?);
    figures.push(Figure::new("the first pod of an image, with its compilation", first, "ms"));
    if let Some(kubectl) = &plan.programs.kubectl {
        figures.extend(through_kubectl(plan, &cluster, kubectl, &image).await?);
    }
    cluster.stop().await?;
    Ok(figures)
}

async fn through_the_api(plan: &Plan, cluster: &Cluster, image: &str) -> Result<Figure> {
    let mut watch = Watch::of(cluster, "/api/v1/namespaces/default/pods").await?;
    let mut connection = cluster.connect(Protocol::Http2).await?;
    let (mut created, mut scheduled, mut ready) = <(Samples, Samples, Samples)>::default();
    for n in 0..plan.times(50) {
        let name = format!("pod-{n}");
        let begin = Instant::now();
        let creating = async {
            let answer = connection.send(create_pod(&name, image)?).await?;
            check_created(&answer)?;
            anyhow::Ok(begin.elapsed())
        };
        let waiting = async {
            watch.until(|event| event.is_scheduled(&name)).await?;
            let scheduled = begin.elapsed();
            watch.until(|event| event.is_ready(&name)).await?;
            anyhow::Ok((scheduled, begin.elapsed()))
        };
        let both = async { tokio::try_join!(creating, waiting) };
        let (c, (s, r)) =
            tokio::time::timeout(LIMIT, both).await.with_context(|| format!("{name} is not Ready"))??;
        created.add(c);
        scheduled.add(s);
        ready.add(r);
        remove(&mut connection, &mut watch, &name).await?;
    }
    Ok(Figure::new("create of a wasm pod to Ready, through the API, p50", ready.percentile_ms(50.0), "ms")
        .beside(format!(
            "p99 {}; of it until created {}, scheduled {}; {} pods one after another",
            rounded(ready.percentile_ms(99.0)),
            rounded(created.percentile_ms(50.0)),
            rounded(scheduled.percentile_ms(50.0)),
            ready.len()
        ))
        .at_most(10.0))
}

/// Creates sent at their moments, whether or not those before them were answered.
async fn at_a_rate(plan: &Plan, cluster: &Cluster, image: &str) -> Result<Figure> {
    const EACH: Duration = Duration::from_millis(10);
    const CONNECTIONS: usize = 8;
    let count = plan.times(500);
    let mut watch = Watch::of(cluster, "/api/v1/namespaces/default/pods").await?;
    let mut connections = cluster.connections(CONNECTIONS, Protocol::Http2).await?;
    let begin = Instant::now() + EACH;
    let moment = |number: usize| begin + EACH * u32::try_from(number).unwrap_or(u32::MAX);
    let creating = connections.iter_mut().enumerate().map(async |(first, connection)| {
        for number in (first..count).step_by(CONNECTIONS) {
            tokio::time::sleep_until(moment(number).into()).await;
            check_created(&connection.send(create_pod(&format!("rate-{number}"), image)?).await?)?;
        }
        anyhow::Ok(())
    });
    let waiting = async {
        let mut seen = std::collections::BTreeSet::new();
        let mut ready = Samples::default();
        while seen.len() < count {
            let event = watch.next().await?;
            let number = event.name().strip_prefix("rate-").and_then(|number| number.parse().ok());
            if let Some(number) = number.filter(|_| event.ready())
                && seen.insert(number)
            {
                // From the moment it was due: a client that falls behind has waited too.
                ready.add(moment(number).elapsed());
            }
        }
        anyhow::Ok(ready)
    };
    let both = async { tokio::try_join!(futures::future::try_join_all(creating), waiting) };
    let (_, ready) = tokio::time::timeout(LIMIT, both).await.context("not all pods are Ready")??;
    Ok(Figure::new("the same, 100 creates each second, p99", ready.percentile_ms(99.0), "ms")
        .beside(format!("p50 {}; {count} pods", rounded(ready.percentile_ms(50.0))))
        .at_most(50.0))
}

/// Deletes a pod and waits until it is gone, so that its end does not disturb the next one's beginning.
async fn remove(connection: &mut Connection, watch: &mut Watch, name: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let answer = connection.send(crate::cluster::json_request(Method::DELETE, &path, Vec::new())?).await?;
    ensure!(answer.status.is_success(), "delete: {}", answer.status);
    let gone = watch.until(|event| event.kind == "DELETED" && event.name() == name);
    tokio::time::timeout(LIMIT, gone).await.with_context(|| format!("{name} does not go"))??;
    Ok(())
}

/// With the time that kubectl takes by itself, which is no work of ours: it is shown beside.
async fn through_kubectl(
    plan: &Plan,
    cluster: &Cluster,
    kubectl: &std::path::Path,
    image: &str,
) -> Result<Vec<Figure>> {
    let mut watch = Watch::of(cluster, "/api/v1/namespaces/default/pods").await?;
    let mut connection = cluster.connect(Protocol::Http2).await?;
    let (mut process, mut ready, mut empty) = <(Samples, Samples, Samples)>::default();
    for n in 0..plan.times(10) {
        let name = format!("kubectl-{n}");
        let manifest = cluster.folder().join("pod.json");
        std::fs::write(&manifest, Value::to_string(&pod(&name, image)))?;
        let mut create = Command::new(kubectl);
        create
            .arg("create")
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig())
            .arg("-f")
            .arg(&manifest)
            .kill_on_drop(true);
        let begin = Instant::now();
        let running = async {
            let output = create.output().await?;
            ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
            anyhow::Ok(begin.elapsed())
        };
        let waiting = async {
            watch.until(|event| event.is_ready(&name)).await?;
            anyhow::Ok(begin.elapsed())
        };
        let both = async { tokio::try_join!(running, waiting) };
        let (p, r) =
            tokio::time::timeout(LIMIT, both).await.with_context(|| format!("{name} is not Ready"))??;
        process.add(p);
        ready.add(r);
        remove(&mut connection, &mut watch, &name).await?;
        let begin = Instant::now();
        let version = Command::new(kubectl).args(["version", "--client"]).kill_on_drop(true).output();
        tokio::time::timeout(LIMIT, version).await??;
        empty.add(begin.elapsed());
    }
    Ok(vec![
        Figure::new(
            "the same by `kubectl create`, from its exec to Ready, p50",
            ready.percentile_ms(50.0),
            "ms",
        )
        .beside(format!(
            "p90 {}; kubectl itself ran {}",
            rounded(ready.percentile_ms(90.0)),
            rounded(process.percentile_ms(50.0))
        ))
        .yardstick("`kubectl version --client`, which asks nobody", empty.percentile_ms(50.0)),
    ])
}

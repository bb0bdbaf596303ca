//! What comes first: the first request of a pod, and the first pod of a program that is not compiled yet.
use crate::Plan;
use crate::cluster::Cluster;
use crate::figure::{Figure, rounded};
use crate::guard::Guard;
use crate::samples::Samples;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = first_request(plan).await?;
    figures.push(first_pod(plan).await?);
    Ok(figures)
}

async fn first_request(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &["--max-pods", "1000"]).await?;
    let image = cluster.import_guest(plan).await?;
    let (mut first, mut warm) = <(Samples, Samples)>::default();
    for n in 0..plan.times(200) {
        let address = format!("{}:8080", cluster.ready_pod(&format!("pod-{n}"), &image).await?);
        // What Ready set going has ended.
        tokio::time::sleep(Duration::from_millis(20)).await;
        first.add(ask(&address).await?);
        for _ in 0..5 {
            warm.add(ask(&address).await?);
        }
    }
    cluster.stop().await?;
    let p99 = first.percentile_ms(99.0) - warm.percentile_ms(99.0);
    Ok(vec![
        Figure::new("first request to a pod that never served, p99, above that of a warm one", p99, "ms")
            .beside(format!(
                "first: p50 {} ms, p99 {} ms of {}; warm: p50 {} ms, p99 {} ms; a connection each",
                rounded(first.percentile_ms(50.0)),
                rounded(first.percentile_ms(99.0)),
                first.len(),
                rounded(warm.percentile_ms(50.0)),
                rounded(warm.percentile_ms(99.0))
            ))
            .at_most(1.0),
    ])
}

/// From the connect to the last byte of the answer.
pub(crate) async fn ask(address: &str) -> Result<Duration> {
    let begin = Instant::now();
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, asking).await.context("no answer")??;
    let took = begin.elapsed();
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(took)
}

/// Programs that differ in a custom section alone, so that each is compiled.
async fn first_pod(plan: &Plan) -> Result<Figure> {
    let cluster = Cluster::start(plan, &[]).await?;
    let program = std::fs::read(&plan.programs.guest)?;
    // The namespace's service account, and whatever else a first pod waits for.
    let image = cluster.import_guest(plan).await?;
    cluster.ready_pod("pod-first", &image).await?;
    let guard = Guard::new("bench-compile");
    let (file, out) = (guard.folder().join("hello.wasm"), guard.folder().join("hello.cwasm"));
    std::fs::write(&file, &program)?;
    let (mut ours, mut theirs) = <(Samples, Samples)>::default();
    for n in 0..u8::try_from(plan.times(20))? {
        let mut variant = program.clone();
        // A custom section (id 0) of three bytes: a name of one byte, and the number.
        variant.extend([0, 3, 1, b'n', n]);
        let image = cluster.import(&format!("variant-{n}"), variant).await?;
        let begin = Instant::now();
        cluster.ready_pod(&format!("cold-{n}"), &image).await?;
        ours.add(begin.elapsed());
        let begin = Instant::now();
        let mut compile = Command::new(&plan.programs.wasmtime);
        let compiling = compile.arg("compile").arg(&file).arg("-o").arg(&out).kill_on_drop(true).output();
        let output = tokio::time::timeout(LIMIT, compiling).await.context("wasmtime compile")??;
        ensure!(output.status.success(), "wasmtime compile: {}", String::from_utf8_lossy(&output.stderr));
        theirs.add(begin.elapsed());
    }
    cluster.stop().await?;
    let beside =
        |samples: &Samples| format!("p90 {} of {}", rounded(samples.percentile_ms(90.0)), samples.len());
    let what = format!(
        "cold start: create of a pod to Ready, its {} KB component not compiled yet, p50",
        program.len() / 1000
    );
    Ok(Figure::new(what, ours.percentile_ms(50.0), "ms")
        .beside(beside(&ours))
        .yardstick(format!("`wasmtime compile` of it ({})", beside(&theirs)), theirs.percentile_ms(50.0))
        .at_most_times_yardstick(1.5))
}

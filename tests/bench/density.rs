//! Many pods that answer HTTP and are not asked.
use crate::Plan;
use crate::cluster::{Cluster, create_pod};
use crate::connection::Protocol;
use crate::figure::{Figure, rounded};
use crate::idle::mebibytes;
use crate::load::{self, Until};
use crate::processes::{processor_time, proportional_bytes};
use crate::samples::Samples;
use crate::watch::Watch;
use crate::writes::check_created;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(180);

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let count = plan.times(500);
    let cluster = Cluster::start(plan, &["--max-pods", "1000"]).await?;
    let image = cluster.import_guest(plan).await?;
    cluster.ready_pod("first", &image).await?;
    tokio::time::sleep(plan.seconds(10)).await;
    let before = proportional_bytes(&cluster.processes()?)?;

    let mut watch = Watch::of(&cluster, "/api/v1/namespaces/default/pods").await?;
    let mut connections = cluster.connections(8, Protocol::Http2).await?;
    let begin = Instant::now();
    let creating = load::run(
        &mut connections,
        Until::Answers(count as u64),
        |number| create_pod(&format!("idle-{number}"), &image),
        check_created,
    );
    let waiting = async {
        let mut ready = BTreeSet::new();
        let mut moments = Samples::default();
        while ready.len() < count {
            let event = watch.next().await?;
            if event.ready() && ready.insert(event.name().to_owned()) {
                moments.add(begin.elapsed());
            }
        }
        anyhow::Ok(moments)
    };
    let both = async { tokio::try_join!(creating, waiting) };
    let (_, moments) = tokio::time::timeout(LIMIT, both).await.context("not all pods are Ready")??;

    tokio::time::sleep(plan.seconds(15)).await;
    let pids = cluster.processes()?;
    let after = proportional_bytes(&pids)?;
    let (start, used_before) = (Instant::now(), processor_time(&pids));
    tokio::time::sleep(plan.seconds(20)).await;
    let used = processor_time(&pids).saturating_sub(used_before);
    let percent = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    cluster.stop().await?;
    Ok(vec![
        Figure::new(
            format!("{count} pods created at once to all Ready"),
            moments.percentile_ms(100.0) / 1e3,
            "s",
        )
        .beside(format!("half of them after {} s", rounded(moments.percentile_ms(50.0) / 1e3))),
        Figure::new(
            "memory of an idle HTTP pod",
            (mebibytes(after) - mebibytes(before)) * 1024.0 / count as f64,
            "KiB",
        )
        .beside(format!(
            "all processes {} MiB before, {} MiB with {count} pods",
            rounded(mebibytes(before)),
            rounded(mebibytes(after))
        )),
        Figure::new(format!("processor time with {count} idle HTTP pods"), percent, "% of a core"),
    ])
}

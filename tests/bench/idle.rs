//! What a cluster costs that nobody uses.
use crate::Plan;
use crate::cluster::Cluster;
use crate::figure::{Figure, rounded};
use crate::processes::{processor_time, proportional_bytes};
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Instant;

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    tokio::time::sleep(plan.seconds(30)).await;
    let pids = cluster.processes()?;
    let (begin, before) = (Instant::now(), processor_time(&pids));
    tokio::time::sleep(plan.seconds(30)).await;
    let used = processor_time(&pids).saturating_sub(before);
    let percent = used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    let memory = mebibytes(proportional_bytes(&pids)?);
    let each = each_of(&pids)?;
    cluster.stop().await?;
    Ok(vec![
        // 80 MB are 76.3 MiB.
        Figure::new("proportional memory of all processes, idle", memory * MB_PER_MIB, "MB")
            .beside(each)
            .at_most(80.0),
        Figure::new("processor time, idle", percent, "% of a core").at_most(1.0),
    ])
}

const MB_PER_MIB: f64 = 1.048_576;

/// The share of each process.
pub(crate) fn each_of(pids: &BTreeSet<u32>) -> Result<String> {
    let share = |pid: &u32| anyhow::Ok(rounded(mebibytes(proportional_bytes(&[*pid].into())?)));
    Ok(format!("each, in MiB: {}", pids.iter().map(share).collect::<Result<Vec<_>>>()?.join(", ")))
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

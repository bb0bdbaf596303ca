//! From exec to the line that says that the node is Ready and the gateway answers, on a fresh directory.
use crate::Plan;
use crate::cluster::Cluster;
use crate::figure::{Figure, rounded};
use crate::samples::Samples;
use anyhow::Result;

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let mut samples = Samples::default();
    for _ in 0..plan.times(10) {
        let cluster = Cluster::start(plan, &[]).await?;
        samples.add(cluster.ready_after);
        cluster.stop().await?;
    }
    Ok(vec![
        Figure::new("exec to `dhow is ready`, fresh directory, median", samples.percentile_ms(50.0), "ms")
            .beside(format!(
                "p90 {}, fastest {} of {}",
                rounded(samples.percentile_ms(90.0)),
                rounded(samples.percentile_ms(0.0)),
                samples.len()
            ))
            .at_most(500.0),
    ])
}

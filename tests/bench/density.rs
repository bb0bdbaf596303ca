//! Ten thousand pods of one Deployment that answer HTTP and are not asked.
use crate::Plan;
use crate::cluster::Cluster;
use crate::figure::{Figure, rounded};
use crate::idle::{each_of, mebibytes};
use crate::processes::{processor_time, proportional_bytes};
use crate::watch::Watch;
use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(300);
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let count = plan.times(10_000);
    let cluster = Cluster::start(plan, &["--max-pods", "10000"]).await?;
    let image = cluster.import_guest(plan).await?;
    tokio::time::sleep(plan.seconds(10)).await;
    let before = proportional_bytes(&cluster.processes()?)?;

    let mut watch = Watch::of(&cluster, DEPLOYMENTS).await?;
    let begin = Instant::now();
    cluster
        .ask(
            Method::POST,
            DEPLOYMENTS,
            json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": { "name": "idle", "namespace": "default" },
                "spec": {
                    "replicas": count,
                    "selector": { "matchLabels": { "app": "idle" } },
                    "template": {
                        "metadata": { "labels": { "app": "idle" } },
                        "spec": { "containers": [
                            { "name": "hello", "image": image, "ports": [{ "containerPort": 8080 }] },
                        ]},
                    },
                },
            }),
        )
        .await?;
    let mut half = None;
    let all = async {
        loop {
            let event = watch.next().await?;
            let ready = event.object["status"]["readyReplicas"].as_u64().unwrap_or_default();
            if half.is_none() && ready * 2 >= count as u64 {
                half = Some(begin.elapsed());
            }
            if ready == count as u64 {
                return anyhow::Ok(begin.elapsed());
            }
        }
    };
    let took = tokio::time::timeout(LIMIT, all).await.context("not all pods are Ready")??;
    let mut figures = vec![
        Figure::new(
            format!("{count} pods of one Deployment, from its create to all Ready"),
            took.as_secs_f64(),
            "s",
        )
        .beside(format!("half of them after {} s", rounded(half.unwrap_or(took).as_secs_f64()))),
    ];
    if let Some(kubectl) = &plan.programs.kubectl {
        let words = ["rollout", "status", "deployment/idle"];
        figures.push(Figure::new(
            "`kubectl rollout status` of it",
            said(&cluster, kubectl, &words, 1).await?,
            "s",
        ));
        let words = ["get", "pods"];
        figures.push(Figure::new(
            "`kubectl get pods`",
            said(&cluster, kubectl, &words, count + 1).await?,
            "s",
        ));
    }

    tokio::time::sleep(plan.seconds(30)).await;
    let pods = cluster.ask(Method::GET, "/api/v1/namespaces/default/pods?limit=1", Value::Null).await?;
    let address = pods["items"][0]["status"]["podIP"].as_str().context("an address")?;
    crate::cold::ask(&format!("{address}:8080")).await?;
    let pids = cluster.processes()?;
    let after = proportional_bytes(&pids)?;
    let (start, used_before) = (Instant::now(), processor_time(&pids));
    tokio::time::sleep(plan.seconds(30)).await;
    let used = processor_time(&pids).saturating_sub(used_before);
    let percent = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    let each = each_of(&pids)?;
    cluster.stop().await?;
    figures.extend([
        Figure::new(
            "memory of an idle HTTP pod",
            (mebibytes(after) - mebibytes(before)) * 1024.0 / count as f64,
            "KiB",
        )
        .beside(format!(
            "all processes {} MiB before, {} MiB with {count} pods ({each})",
            rounded(mebibytes(before)),
            rounded(mebibytes(after))
        ))
        .at_most(64.0),
        Figure::new(format!("processor time with {count} idle HTTP pods"), percent, "% of a core")
            .at_most(2.0),
    ]);
    Ok(figures)
}

/// How many seconds a kubectl takes that succeeds and prints so many lines at least.
async fn said(cluster: &Cluster, kubectl: &Path, words: &[&str], lines: usize) -> Result<f64> {
    let begin = Instant::now();
    let mut command = Command::new(kubectl);
    command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(words).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.context("kubectl does not end")??;
    ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).lines().count();
    ensure!(printed >= lines, "kubectl {words:?} printed {printed} lines of {lines}");
    Ok(begin.elapsed().as_secs_f64())
}

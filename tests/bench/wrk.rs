//! wrk, and what it says.
use crate::Plan;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::process::Command;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wrk {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Two threads, 64 connections; a round with answers other than 2xx and 3xx, or with broken connections, is none.
pub(crate) async fn run(plan: &Plan, url: &str, host: Option<&str>, duration: Duration) -> Result<Wrk> {
    let mut command = Command::new(&plan.programs.wrk);
    command.args(["-t2", "-c64", "--latency", &format!("-d{}s", duration.as_secs().max(1))]);
    if let Some(host) = host {
        command.arg("-H").arg(format!("Host: {host}"));
    }
    let running = command.arg(url).kill_on_drop(true).output();
    let output = tokio::time::timeout(duration * 2 + Duration::from_secs(10), running)
        .await
        .context("wrk does not end")??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk: {said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(!said.contains("Non-2xx"), "{url} answers with errors: {said}");
    ensure!(!said.contains("Socket errors"), "{url} breaks connections: {said}");
    parse(&said).with_context(|| format!("not understood: {said}"))
}

fn parse(said: &str) -> Option<Wrk> {
    let word = |begin: &str| {
        said.lines()
            .find_map(|line| line.trim().strip_prefix(begin)?.split_whitespace().next().map(str::to_owned))
    };
    Some(Wrk {
        per_second: word("Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(&word("50%")?)?,
        p99_ms: milliseconds(&word("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Some(number.parse::<f64>().ok()? * factor);
        }
    }
    None
}

//! Each component as a process of its own, with upstream's flag names where there are some.
pub(crate) mod apiserver;
pub(crate) mod autoscaling;
pub(crate) mod controller_manager;
pub(crate) mod gateway;
pub(crate) mod kube_proxy;
pub(crate) mod kubelet;
pub(crate) mod runtime;
pub(crate) mod scheduler;

use anyhow::{Context, Result};
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Runs a component until SIGINT or SIGTERM.
async fn until_signal<F: Future>(component: impl FnOnce(CancellationToken) -> F) -> Result<F::Output> {
    let mut stop = crate::ambient::StopSignal::new().context("signals cannot be listened to")?;
    let shutdown = CancellationToken::new();
    let running = component(shutdown.clone());
    tokio::pin!(running);
    tokio::select! {
        output = &mut running => Ok(output),
        _ = stop.recv() => {
            shutdown.cancel();
            Ok(running.await)
        }
    }
}

/// The name of this machine, as kubelet has it: lower case.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    // A name that could not be a Node's (RFC 1123) would fail later and less clearly.
    if machinery::validation::dns_subdomain(&name).is_ok() { name } else { "localhost".to_owned() }
}

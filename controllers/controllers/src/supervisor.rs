//! Keeps the controllers running: a task each, started again when it fails.
use crate::context::Context;
use crate::{CONTROLLERS, Config};
use client::{Client, Informers, LeaderElector, Recorder};
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::ambient::Ambient;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The longest wait before a controller is started again.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A controller that ran for so long was well: its next failure waits as if it were the first.
const WELL_AFTER: Duration = Duration::from_secs(300);

pub(crate) async fn run(
    config: Config,
    client: Client,
    informers: Informers,
    ambient: Ambient,
    shutdown: CancellationToken,
) {
    for name in config.unknown_controllers() {
        tracing::warn!(name, known = CONTROLLERS.join(", "), "no such controller");
    }
    let config = Arc::new(config);
    let name = "kube-controller-manager";
    let recorder = Recorder::new(client.clone(), ambient.clone(), name, "", shutdown.clone());
    let manager = Context { config: config.clone(), client, informers, ambient, recorder, shutdown };
    loop {
        let lead = |stop: CancellationToken| run_all(Context { shutdown: stop, ..manager.clone() });
        let Some(identity) = &config.leader_identity else {
            lead(manager.shutdown.clone()).await;
            break;
        };
        let (client, ambient) = (manager.client.clone(), manager.ambient.clone());
        let elector = LeaderElector::new(client, "kube-system", name, identity, ambient)
            .with_timing(config.lease_timing)
            .with_recorder(manager.recorder.clone());
        // Controllers that lost their Lease stand for election again: all they know comes from the informers.
        if elector.lead(manager.shutdown.clone(), lead).await {
            break;
        }
    }
    manager.recorder.ended().await;
}

/// Runs every enabled controller until the context's shutdown.
async fn run_all(manager: Context) {
    let mut tasks = JoinSet::new();
    let mut recorders = Vec::new();
    for name in CONTROLLERS.iter().copied().filter(|name| manager.config.is_enabled(name)) {
        let component = format!("{name}-controller");
        let stop = manager.shutdown.clone();
        let recorder = Recorder::new(manager.client.clone(), manager.ambient.clone(), &component, "", stop);
        recorders.push(recorder.clone());
        tasks.spawn(keep_running(name, Context { recorder, ..manager.clone() }));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            // keep_running catches what controllers do; this is a fault in it.
            tracing::error!(%error, "a controller's task failed");
        }
    }
    for recorder in recorders {
        recorder.ended().await;
    }
}

async fn keep_running(name: &'static str, ctx: Context) {
    let mut backoff = ctx.config.restart_backoff;
    loop {
        let started = tokio::time::Instant::now();
        tracing::debug!(controller = name, "starting");
        let ended = AssertUnwindSafe(start(name, ctx.clone())).catch_unwind().await;
        if ctx.shutdown.is_cancelled() {
            return;
        }
        match ended {
            Ok(()) => tracing::error!(controller = name, "ended by itself and is started again"),
            Err(_) => tracing::error!(controller = name, "panicked and is started again"),
        }
        if started.elapsed() >= WELL_AFTER {
            backoff = ctx.config.restart_backoff;
        }
        if ctx.shutdown.run_until_cancelled(tokio::time::sleep(backoff)).await.is_none() {
            return;
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

fn start(name: &'static str, ctx: Context) -> BoxFuture<'static, ()> {
    match name {
        "deployment" => crate::deployment::run(ctx).boxed(),
        "endpointslice" => crate::endpointslice::run(ctx).boxed(),
        "function" => crate::function::run(ctx).boxed(),
        "functionqueue" => crate::trigger::queue::run(ctx).boxed(),
        "functiontrigger" => crate::trigger::run(ctx).boxed(),
        "garbagecollector" => crate::garbagecollector::run(ctx).boxed(),
        "horizontalpodautoscaler" => crate::horizontalpodautoscaler::run(ctx).boxed(),
        "job" => crate::job::run(ctx).boxed(),
        "namespace" => crate::namespace::run(ctx).boxed(),
        "nodelifecycle" => crate::nodelifecycle::run(ctx).boxed(),
        "podgc" => crate::podgc::run(ctx).boxed(),
        "replicaset" => crate::replicaset::run(ctx).boxed(),
        "serviceaccount" => crate::serviceaccount::run(ctx).boxed(),
        other => unreachable!("{other} is not in CONTROLLERS"),
    }
}

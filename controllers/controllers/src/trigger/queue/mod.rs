//! Queue triggers of Functions: messages of Redis streams, delivered at least once.
//!
//! ```text
//!   Function.spec.triggers ─► Settings ─► Consumer ─ XREADGROUP ─► POST to a pod ─ 2xx ─► XACK
//!                                            ▲                         └─ else ─► later again (XCLAIM)
//!                                            └── started and stopped here         └─► dead-letter stream
//! ```
//! Invariant: of each trigger one consumer runs at a time, in the controllers that lead; a new one begins when the one
//! before has ended. What is under way stands in Redis, so that whoever leads next goes on.
mod bounded;
mod consumer;
mod message;
mod metrics;
mod plan;
mod redis;
mod report;
mod settings;
mod surroundings;
#[cfg(test)]
mod tests;

use super::TriggerKey;
use super::call::{Caller, TcpCaller};
use crate::context::Context;
use crate::reconcile::{Outcome, feed, feed_own, object, work};
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{Change, EventType, Informer, ObjectKey, SERVICE_NAME, WorkQueue};
use consumer::Consumer;
pub use metrics::QueueMetrics;
use parking_lot::Mutex;
use report::Said;
use settings::Settings;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use surroundings::Cluster;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Functions worked on at a time.
const WORKERS: usize = 5;
/// A trigger that found no place looks for one so often.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// A consumer that runs, or ends.
struct Running {
    settings: Settings,
    wake: Arc<Notify>,
    stop: CancellationToken,
}

struct Controller {
    ctx: Context,
    functions: Informer<Function>,
    slices: Informer<EndpointSlice>,
    caller: Arc<dyn Caller>,
    queue: WorkQueue<ObjectKey>,
    running: Mutex<HashMap<TriggerKey, Running>>,
    consumers: TaskTracker,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let queue = ctx.queue::<ObjectKey>();
    let c = Arc::new(Controller {
        functions: ctx.informer(),
        slices: ctx.informer(),
        caller: Arc::new(TcpCaller),
        queue: queue.clone(),
        running: Mutex::default(),
        consumers: TaskTracker::new(),
        ctx,
    });
    let functions = feed_own(c.functions.clone(), queue.clone());
    let slices = feed(c.slices.clone(), queue.clone(), |change| c.wake(change));
    let workers = async {
        if c.functions.synced().await && c.slices.synced().await {
            work("functionqueue", &queue, WORKERS, |key| c.clone().sync_function(key)).await;
        }
    };
    tokio::join!(functions, slices, workers);
    c.consumers.close();
    c.consumers.wait().await;
}

/// What the function's queue triggers ask for.
fn wanted(key: &ObjectKey, function: &Function) -> BTreeMap<String, Settings> {
    let of = |name: &str, queue| (name.to_owned(), Settings::of(key, function, name, queue));
    let triggers = function.spec.triggers.iter();
    triggers.filter_map(|t| t.queue.as_ref().map(|queue| of(&t.name, queue))).collect()
}

impl Controller {
    /// Has consumers look where their pods are, when those of a revision have changed. No key is worth a pass.
    fn wake(&self, change: &Change<EndpointSlice>) -> Option<ObjectKey> {
        let Some(slice) = object(change) else {
            self.running.lock().values().for_each(|r| r.wake.notify_one());
            return None;
        };
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let namespace = slice.metadata.namespace.as_deref()?;
        for ((function, _), running) in &*self.running.lock() {
            if function.namespace == namespace && service.starts_with(&function.name) {
                running.wake.notify_one();
            }
        }
        None
    }

    async fn sync_function(self: Arc<Self>, key: ObjectKey) -> Outcome {
        let function = self.functions.get(&key.namespace, &key.name);
        let function = function.filter(|f| f.metadata.deletion_timestamp.is_none());
        let mut wanted = function.as_ref().map(|f| wanted(&key, f)).unwrap_or_default();
        let mut gone = BTreeSet::new();
        for ((of, name), running) in self.running.lock().iter().filter(|((of, _), _)| *of == key) {
            match wanted.get(name) {
                Some(settings) if *settings == running.settings => running.wake.notify_one(),
                // Its end brings this function here again.
                _ => running.stop.cancel(),
            }
            if wanted.remove(name).is_none() {
                gone.insert((of.clone(), name.clone()));
            }
        }
        gone.iter().for_each(|trigger| self.ctx.config.queue_metrics.forget(trigger));
        let Some(function) = function else { return Ok(None) };
        let mut again = None;
        for (name, settings) in wanted {
            let consuming = self.consuming();
            match plan::plan_start(&consuming, &key.namespace) {
                Ok(()) => self.start((key.clone(), name), settings, function.clone()),
                Err(why) => {
                    let said = Said::not_ready("TooManyTriggers", why);
                    report::write(&self.ctx, &settings, &said).await;
                    again = Some(TRY_AGAIN);
                }
            }
        }
        Ok(again)
    }

    /// Consumers of each namespace.
    fn consuming(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for (function, _) in self.running.lock().keys() {
            *all.entry(function.namespace.clone()).or_default() += 1;
        }
        all
    }

    fn start(self: &Arc<Self>, trigger: TriggerKey, settings: Settings, function: Arc<Function>) {
        let (wake, stop) = (Arc::new(Notify::new()), self.ctx.shutdown.child_token());
        let running = Running { settings: settings.clone(), wake: wake.clone(), stop: stop.clone() };
        if self.running.lock().contains_key(&trigger) {
            return;
        }
        self.running.lock().insert(trigger.clone(), running);
        let (said, seen) = watch::channel(None);
        let recorder = self.ctx.recorder.clone();
        let consumer = Consumer {
            settings: settings.clone(),
            surroundings: Arc::new(Cluster {
                ctx: self.ctx.clone(),
                functions: self.functions.clone(),
                slices: self.slices.clone(),
                settings: settings.clone(),
            }),
            caller: self.caller.clone(),
            ambient: self.ctx.ambient.clone(),
            counters: self.ctx.config.queue_metrics.of(&trigger),
            said,
            wake,
            stop: stop.clone(),
            shutdown: self.ctx.shutdown.clone(),
            dead: Box::new(move |text| recorder.event(&*function, EventType::Warning, "DeadLettered", text)),
        };
        // Freed whatever becomes of the consumer, so that another can begin.
        let place = Place { controller: self.clone(), trigger };
        let report = report::follow(self.ctx.clone(), settings, seen, stop);
        self.consumers.spawn(async move {
            tokio::join!(consumer.run(), report);
            drop(place);
        });
    }
}

/// One trigger's place among the consumers.
struct Place {
    controller: Arc<Controller>,
    trigger: TriggerKey,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.controller.running.lock().remove(&self.trigger);
        // A consumer that panicked would do so again.
        let rest = if std::thread::panicking() { TRY_AGAIN } else { Duration::ZERO };
        self.controller.queue.add_after(self.trigger.0.clone(), rest);
    }
}

//! Triggers of Functions: what calls them at certain times. For messages of a queue: [`queue`].
//!
//! ```text
//!   Function.spec.triggers ─► plan: due? ─► status.triggers: lastScheduleTime ─► POST to a pod ─► lastResult
//! ```
//! Invariant: the planned time of a call is written before the call is made, so that no call is made twice. A call
//! that was under way when this process died is not made again.
mod call;
mod place;
mod plan;
pub(crate) mod queue;
mod status;

use crate::context::Context;
use crate::error::Error;
use crate::reconcile::{Outcome, feed_own, work};
use call::{Call, Caller, TcpCaller};
use client::dhow::v1alpha1::{CronTrigger, Function, FunctionStatus, Trigger};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{EventType, Informer, ObjectKey, WorkQueue};
use http::{HeaderName, HeaderValue, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use plan::Known;
use status::{status_mut, status_of, time, write_live};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Functions worked on at a time.
const WORKERS: usize = 5;
/// Calls of one trigger under way at a time, where its policy allows several: a function that hangs is called no
/// further after so many.
const MAX_ACTIVE: usize = 16;
const SCHEDULED: HeaderName = HeaderName::from_static("x-dhow-scheduled-time");

/// A trigger of a function.
type TriggerKey = (ObjectKey, String);

struct Controller {
    ctx: Context,
    functions: Informer<Function>,
    slices: Informer<EndpointSlice>,
    caller: Arc<dyn Caller>,
    queue: WorkQueue<ObjectKey>,
    /// Calls under way; cancelling a token ends its call.
    active: Mutex<HashMap<TriggerKey, HashMap<u64, CancellationToken>>>,
    /// The number of the next call.
    number: AtomicU64,
    calls: TaskTracker,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    run_with(ctx, Arc::new(TcpCaller)).await;
}

async fn run_with(ctx: Context, caller: Arc<dyn Caller>) {
    let queue = ctx.queue::<ObjectKey>();
    let c = Arc::new(Controller {
        functions: ctx.informer(),
        slices: ctx.informer(),
        caller,
        queue: queue.clone(),
        active: Mutex::default(),
        number: AtomicU64::new(0),
        calls: TaskTracker::new(),
        ctx,
    });
    let functions = feed_own(c.functions.clone(), queue.clone());
    let workers = async {
        if c.functions.synced().await && c.slices.synced().await {
            work("functiontrigger", &queue, WORKERS, |key| c.clone().sync_function(key)).await;
        }
    };
    tokio::join!(functions, workers);
    c.calls.close();
    c.calls.wait().await;
}

/// What tells the function that its schedule calls it; `scheduled` is the planned time, RFC 3339.
fn cron_headers(trigger: &str, scheduled: &str) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = vec![(header::USER_AGENT, HeaderValue::from_static("dhow-cron"))];
    // Both are plain words, checked by the server; whatever is not is left out rather than the call.
    for (name, value) in [(call::TRIGGER, trigger), (SCHEDULED, scheduled)] {
        headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    }
    headers
}

impl Controller {
    async fn sync_function(self: Arc<Self>, key: ObjectKey) -> Outcome {
        let Some(function) = self.functions.get(&key.namespace, &key.name) else {
            self.end_calls(|(of, _)| *of == key);
            return Ok(None);
        };
        let triggers = &function.spec.triggers;
        let gone = |name: &str| !triggers.iter().any(|t| t.name == *name);
        self.end_calls(|(of, name)| *of == key && gone(name));
        if function.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut again: Option<Duration> = None;
        for Trigger { name, cron, .. } in triggers {
            let Some(cron) = cron else { continue };
            if let Some(wait) = self.sync_cron(&key, &function, name, cron).await? {
                again = Some(again.map_or(wait, |known| known.min(wait)));
            }
        }
        Ok(again)
    }

    /// One trigger; when to look again.
    async fn sync_cron(
        self: &Arc<Self>,
        key: &ObjectKey,
        function: &Function,
        name: &str,
        cron: &CronTrigger,
    ) -> Outcome {
        let now = self.ctx.now();
        let status = function.status.clone().unwrap_or_default();
        let Some(since) = status_of(&status, name).and_then(|s| s.since.clone()) else {
            // Times from before the trigger was there are not made up for. Its own event brings the rest.
            self.write(key, function, |status| status_mut(status, name).since = Some(time(now))).await?;
            return Ok(None);
        };
        let own: TriggerKey = (key.clone(), name.to_owned());
        let known = Known {
            last: status_of(&status, name).and_then(|s| s.last_schedule_time.clone()).map(|t| t.0),
            since: since.0,
            active: self.active.lock().get(&own).map_or(0, HashMap::len),
        };
        let plan = match plan::plan_trigger(cron, known, now) {
            Ok(plan) => plan,
            Err(why) => {
                let text = format!("trigger {name} has a schedule that cannot be read: {why}");
                self.ctx.recorder.event(function, EventType::Warning, "BadSchedule", text);
                return Ok(None);
            }
        };
        if let Some(due) = plan.call {
            if plan.end_others {
                self.end_calls(|other| *other == own);
            } else if known.active >= MAX_ACTIVE {
                let text = format!("trigger {name} left a call out: {MAX_ACTIVE} of its calls are under way");
                self.ctx.recorder.event(function, EventType::Warning, "TooManyCalls", text);
            }
            let planned = time(due);
            self.write(key, function, |status| {
                status_mut(status, name).last_schedule_time = Some(planned.clone())
            })
            .await?;
            if plan.end_others || known.active < MAX_ACTIVE {
                self.begin(own, function, cron, due);
            }
        }
        let wait = plan.next.and_then(|next| Duration::try_from(next.duration_since(self.ctx.now())).ok());
        // A clock that is behind would have the schedule come again at once.
        Ok(plan.next.map(|_| wait.unwrap_or_default().max(Duration::from_millis(1))))
    }

    /// Makes a call; its outcome goes into the status, and the function is looked at again.
    fn begin(self: &Arc<Self>, own: TriggerKey, function: &Function, cron: &CronTrigger, due: Timestamp) {
        let (key, name) = own.clone();
        let place = place::of(&self.slices, &self.ctx.ambient, &key, function);
        let call = Call {
            addresses: place.addresses,
            host: place.host,
            path: cron.path.clone().unwrap_or_else(|| "/".into()),
            headers: cron_headers(&name, &due.to_string()),
            body: cron.body.clone().unwrap_or_default().into(),
            timeout: function.spec.timeout_or_default(),
        };
        let end = self.ctx.shutdown.child_token();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.active.lock().entry(own.clone()).or_default().insert(number, end.clone());
        let (this, uid) = (self.clone(), function.metadata.uid.clone());
        self.calls.spawn(async move {
            let outcome = end.run_until_cancelled(this.caller.call(call)).await;
            this.forget_ended(&own, number);
            if this.ctx.shutdown.is_cancelled() {
                return;
            }
            let (text, succeeded) = match outcome {
                Some(Ok(code)) => (format!("answered {code}"), (200..300).contains(&code)),
                Some(Err(why)) => (why.to_string(), false),
                None => ("ended for the next call".to_owned(), false),
            };
            let now = time(this.ctx.now());
            let written = write_live(&this.ctx, &key, uid.as_deref(), |status| {
                let own = status_mut(status, &name);
                own.last_result = Some(text.clone());
                if succeeded {
                    own.last_successful_time = Some(now.clone());
                }
            })
            .await;
            if let Err(error) = written {
                tracing::warn!(function = %key, trigger = name, error = error.chain(), "an outcome was not written");
            }
            this.queue.add(key);
        });
    }

    fn end_calls(&self, chosen: impl Fn(&TriggerKey) -> bool) {
        for (_, calls) in self.active.lock().iter().filter(|(own, _)| chosen(own)) {
            calls.values().for_each(CancellationToken::cancel);
        }
    }

    fn forget_ended(&self, own: &TriggerKey, number: u64) {
        let mut active = self.active.lock();
        if let Some(calls) = active.get_mut(own) {
            calls.remove(&number);
            if calls.is_empty() {
                active.remove(own);
            }
        }
    }

    async fn write(
        &self,
        key: &ObjectKey,
        function: &Function,
        change: impl FnOnce(&mut FunctionStatus),
    ) -> Result<(), Error> {
        status::write(&self.ctx, key, function, change).await
    }
}

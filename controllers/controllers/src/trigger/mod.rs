//! Triggers of Functions: what calls them at certain times.
//!
//! ```text
//!   Function.spec.triggers ─► plan: due? ─► status.triggers: lastScheduleTime ─► POST to a pod ─► lastResult
//! ```
//! Invariant: the planned time of a call is written before the call is made, so that no call is made twice. A call
//! that was under way when this process died is not made again.
mod call;
mod plan;

use crate::context::Context;
use crate::error::{Doing, Error};
use crate::function::PORT_NAME;
use crate::reconcile::{Outcome, feed_own, work};
use call::{Call, Caller, TcpCaller};
use client::dhow::v1alpha1::{CronTrigger, Function, FunctionStatus, Trigger, TriggerStatus};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use client::kube::api::{Api, PostParams};
use client::{EventType, Informer, ObjectKey, ServiceEndpoints, WorkQueue};
use jiff::Timestamp;
use parking_lot::Mutex;
use plan::Known;
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
/// Attempts to write an outcome while others write to the same Function; each takes milliseconds.
const WRITES: usize = 20;

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

fn status_of<'a>(status: &'a FunctionStatus, trigger: &str) -> Option<&'a TriggerStatus> {
    status.triggers.iter().find(|t| t.name == trigger)
}

/// The status of a trigger, made if there is none.
fn status_mut<'a>(status: &'a mut FunctionStatus, trigger: &str) -> &'a mut TriggerStatus {
    let at = status.triggers.iter().position(|t| t.name == trigger).unwrap_or_else(|| {
        status.triggers.push(TriggerStatus { name: trigger.to_owned(), ..TriggerStatus::default() });
        status.triggers.len() - 1
    });
    &mut status.triggers[at]
}

/// As the server keeps times.
fn time(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
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
        for Trigger { name, cron } in triggers {
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
        let call = Call {
            path: cron.path.clone().unwrap_or_else(|| "/".into()),
            body: cron.body.clone().unwrap_or_default(),
            trigger: name.clone(),
            scheduled: due.to_string(),
            timeout: function.spec.timeout_or_default(),
            ..self.place(&key, function)
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
                Some(Err(why)) => (why, false),
                None => ("ended for the next call".to_owned(), false),
            };
            let now = time(this.ctx.now());
            let written = this
                .write_live(&key, uid.as_deref(), |status| {
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

    /// Where the function is called: pods of the revision with the largest share, beginning with any of them.
    fn place(&self, key: &ObjectKey, function: &Function) -> Call {
        let traffic = function.status.as_ref().map(|s| s.traffic.as_slice()).unwrap_or_default();
        let primary = traffic.iter().filter(|t| t.headers.is_empty()).max_by_key(|t| t.percent);
        let service = primary.map_or(key.name.as_str(), |t| t.service.as_str());
        // Slices are named after their Service; those of another whose name begins alike are passed over.
        let slices = self.slices.list_with_prefix(&key.namespace, &format!("{service}-"));
        let mut addresses = ServiceEndpoints::of(&slices).addresses(&key.namespace, service, PORT_NAME);
        if !addresses.is_empty() {
            let random = usize::try_from(self.ctx.ambient.random() >> 1).unwrap_or(0);
            let first = random % addresses.len();
            addresses.rotate_left(first);
        }
        Call {
            addresses,
            host: format!("{service}.{}.svc", key.namespace),
            path: String::new(),
            body: String::new(),
            trigger: String::new(),
            scheduled: String::new(),
            timeout: Duration::ZERO,
        }
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

    /// Writes to the status of the function as it was seen: fails if somebody else wrote meanwhile.
    async fn write(
        &self,
        key: &ObjectKey,
        function: &Function,
        change: impl FnOnce(&mut FunctionStatus),
    ) -> Result<(), Error> {
        let api: Api<Function> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let mut wanted = function.clone();
        change(wanted.status.get_or_insert_default());
        match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error).doing(|| format!("write the status of function {key}")),
        }
    }

    /// Writes to the status of the function as it is, if it is still the same one.
    async fn write_live(
        &self,
        key: &ObjectKey,
        uid: Option<&str>,
        change: impl Fn(&mut FunctionStatus),
    ) -> Result<(), Error> {
        let api: Api<Function> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let mut last = Err(Error::NotYet(format!("function {key} is written by others all the time")));
        for _ in 0..WRITES {
            let live = match api.get(&key.name).await {
                Ok(live) if live.metadata.uid.as_deref() == uid => live,
                Ok(_) => return Ok(()),
                Err(error) if client::is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error).doing(|| format!("read function {key}")),
            };
            last = self.write(key, &live, &change).await;
            match &last {
                Err(error) if error.is_race() => {}
                Err(error) if error.is_not_found() => return Ok(()),
                _ => return last,
            }
        }
        last
    }
}

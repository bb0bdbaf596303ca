//! One trigger's loop: takes messages, calls the function, acknowledges or gives up.
//!
//! ```text
//!   connect ─► session: settle ─► look at pending ones ─► take new ones ─► wait ─┐
//!      ▲          │        ▲                                                     │
//!      │ later    │ Redis  └── a call ended, a message is there, pods changed ◄──┘
//!      └──────────┘ is gone
//! ```
//! Invariant: a message is acknowledged after a pod has answered 2xx to it, or after the dead-letter stream holds it,
//! and never before. What a call came to is kept until Redis has been told; a process that dies before is one that
//! makes the call again. Redis gone means that nothing is taken, and one attempt to connect at a time, later each time.
use super::super::call::{Call, Caller, Failure as CallFailure};
use super::message::{self, Envelope};
use super::metrics::Counters;
use super::plan::{self, Plan, Rules};
use super::redis::{Connection, Failure, MAX_FIELDS, MAX_MESSAGE_BYTES, Message, PAGE};
use super::report::Said;
use super::settings::Settings;
use super::surroundings::Surroundings;
use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::ambient::Ambient;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Of messages under way; no more are taken until some have ended.
pub(super) const MAX_BYTES: usize = 2 << 20;
/// Messages that failed and wait for their next attempt: beyond it no new ones are taken, so that a function that always
/// fails does not work its way through the whole stream, and what is looked through every second stays short.
const MAX_WAITING: usize = 1000;
/// Pages of pending messages in one look.
const MAX_PAGES: usize = 4;
/// Between two looks at pending messages while there are some that nobody is at; the backoff is in whole seconds.
const LOOK: Duration = Duration::from_secs(1);
/// The same while there are none: others of the group may leave some behind.
const SELDOM: Duration = Duration::from_secs(30);
/// Waits between attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// To read a Secret and a Service and to ask DNS.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(10);
/// What calls under way are given when their trigger is changed or removed.
const GRACE: Duration = Duration::from_secs(30);

/// What is to be told to Redis.
#[derive(Debug)]
enum Settle {
    Acknowledge(String),
    /// Counted as so many attempts.
    PutOff(String, u64),
    /// With the reason and the attempts that were made.
    Bury(String, String, u64),
}

/// How a call ended.
struct Ended {
    id: String,
    attempt: u64,
    result: Result<u16, CallFailure>,
}

pub(super) struct Consumer {
    pub(super) settings: Settings,
    pub(super) surroundings: Arc<dyn Surroundings>,
    pub(super) caller: Arc<dyn Caller>,
    pub(super) ambient: Ambient,
    pub(super) counters: Arc<Counters>,
    pub(super) said: watch::Sender<Option<Said>>,
    /// Told when pods or traffic may have changed.
    pub(super) wake: Arc<Notify>,
    /// No more messages; calls under way are given [`GRACE`].
    pub(super) stop: CancellationToken,
    /// At once.
    pub(super) shutdown: CancellationToken,
    /// What is to be told of messages that were given up.
    pub(super) dead: Box<dyn Fn(String) + Send + Sync>,
}

/// What is under way, whatever becomes of the connection.
#[derive(Default)]
struct Work {
    calls: JoinSet<Ended>,
    /// Messages that are called for or not settled yet, with their bytes.
    held: HashMap<String, usize>,
    bytes: usize,
    settles: VecDeque<Settle>,
    /// Failed, and to be tried again, with when that was.
    waiting: HashMap<String, Instant>,
    /// When what is left is given up, once the consumer is stopped.
    stop_at: Option<Instant>,
    last_result: Option<String>,
    last_success: Option<jiff::Timestamp>,
}

impl Work {
    fn hold(&mut self, id: &str, bytes: usize) {
        self.waiting.remove(id);
        self.bytes += bytes;
        if let Some(before) = self.held.insert(id.to_owned(), bytes) {
            self.bytes -= before;
        }
    }

    fn release(&mut self, id: &str) {
        self.bytes -= self.held.remove(id).unwrap_or(0);
    }

    /// Whether nothing more is to be done, or may be, by a consumer that was stopped.
    fn is_over(&mut self) -> bool {
        let until = *self.stop_at.get_or_insert_with(|| Instant::now() + GRACE);
        self.held.is_empty() || Instant::now() >= until
    }
}

impl Consumer {
    /// Until it is stopped.
    pub(super) async fn run(self) {
        let mut work = Work::default();
        let mut wait = FIRST_RETRY;
        loop {
            let Some(ended) = self.shutdown.run_until_cancelled(self.session(&mut work, &mut wait)).await
            else {
                return;
            };
            self.counters.connected.store(false, Relaxed);
            match ended {
                Ok(()) => return,
                Err(why) => self.say_failed(&work, &why),
            }
            if self.stop.is_cancelled() && work.is_over() {
                return;
            }
            // Between half of the time and all of it: triggers of the same Redis do not come back all at once.
            let half = wait / 2;
            let rest = half + half.mul_f64((self.ambient.random() % 1000) as f64 / 1000.0);
            tokio::select! {
                () = sleep(rest) => {}
                () = self.shutdown.cancelled() => return,
                () = self.stop.cancelled(), if !self.stop.is_cancelled() => {}
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    /// From one connection to its end. `Ok`: there is nothing more to do.
    async fn session(&self, work: &mut Work, wait: &mut Duration) -> Result<(), Failure> {
        let backend = tokio::time::timeout(BACKEND_TIMEOUT, self.surroundings.backend()).await;
        let backend = backend.unwrap_or_else(|_| {
            let text = format!("where Redis is was not found out within {} s", BACKEND_TIMEOUT.as_secs());
            Err(Failure::Unavailable(text))
        })?;
        let mut redis = Connection::open(&backend, &self.settings).await?;
        self.counters.connected.store(true, Relaxed);
        let mut look_at = Instant::now();
        let mut after: Option<String> = None;
        let mut message_waits: Option<BoxFuture<'static, Result<(), Failure>>> = None;
        loop {
            while let Some(ended) = work.calls.try_join_next() {
                self.ended(work, ended);
            }
            while let Some(settle) = work.settles.front() {
                let id = self.settle(&mut redis, settle).await?;
                work.release(&id);
                if let Some(Settle::PutOff(id, _)) = work.settles.pop_front() {
                    work.waiting.insert(id, Instant::now());
                }
            }
            if self.stop.is_cancelled() {
                if work.is_over() {
                    return Ok(());
                }
                let until = work.stop_at.unwrap_or_else(Instant::now);
                tokio::select! {
                    Some(ended) = work.calls.join_next() => self.ended(work, ended),
                    () = sleep_until(until) => {}
                }
                continue;
            }
            let place = self.surroundings.place();
            let mut is_empty = false;
            if place.addresses.is_empty() {
                let text = "no pod of the function is ready; its messages stay in the stream".to_owned();
                self.say(work, false, "NoPods", text, None);
                look_at = look_at.max(Instant::now() + LOOK);
            } else {
                if Instant::now() >= look_at && self.room(work) > 0 {
                    look_at = self.look(&mut redis, &backend.shown, work, &mut after).await?;
                }
                if self.room(work) > 0 && work.waiting.len() < MAX_WAITING {
                    let taken = redis.take(self.room(work), MAX_BYTES - work.bytes).await?;
                    *wait = FIRST_RETRY;
                    is_empty = taken.messages.is_empty();
                    let held = i64::try_from(work.held.len()).unwrap_or(i64::MAX);
                    // Nobody of this process is at some: whose they are is seen at the next look.
                    let others = taken.pending > held + i64::try_from(taken.messages.len()).unwrap_or(0);
                    if others {
                        look_at = look_at.min(Instant::now() + LOOK);
                    }
                    self.counters.pending.store(taken.pending, Relaxed);
                    self.counters.lag.store(taken.lag.unwrap_or(-1), Relaxed);
                    for message in taken.messages {
                        self.begin(work, message, &backend.shown);
                    }
                    let text = format!("messages of {} are delivered", self.settings.stream);
                    self.say(work, true, "Consuming", text, Some((taken.pending, taken.lag)));
                    match is_empty {
                        true => {
                            message_waits.get_or_insert_with(|| redis.wait(&taken.last).boxed());
                        }
                        false => continue,
                    }
                }
            }
            if !work.settles.is_empty() {
                continue;
            }
            // Without room there is a call whose end makes some.
            let (has_calls, has_room) = (!work.calls.is_empty(), self.room(work) > 0);
            tokio::select! {
                Some(ended) = work.calls.join_next(), if has_calls => self.ended(work, ended),
                waited = until_there_is_one(&mut message_waits), if is_empty => {
                    message_waits = None;
                    waited?;
                }
                () = self.wake.notified() => {}
                () = self.stop.cancelled() => {}
                () = sleep_until(look_at), if has_room => {}
            }
        }
    }

    /// How many more messages may be under way.
    fn room(&self, work: &Work) -> usize {
        if work.bytes >= MAX_BYTES { 0 } else { self.settings.concurrency.saturating_sub(work.held.len()) }
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            consumer: &self.settings.consumer,
            max_attempts: self.settings.max_attempts,
            backoff: self.settings.backoff,
            visibility: self.settings.visibility,
        }
    }

    /// Looks at pending messages, `after` the last one that was looked at, and delivers those again that are due. When
    /// to look next.
    async fn look(
        &self,
        redis: &mut Connection,
        shown: &str,
        work: &mut Work,
        after: &mut Option<String>,
    ) -> Result<Instant, Failure> {
        // Those that wait no longer are done, or another consumer's.
        work.waiting.retain(|_, since| since.elapsed() < self.settings.visibility * 2);
        for _ in 0..MAX_PAGES {
            let rules = self.rules();
            let page = redis.pending(rules.backoff, after.as_deref()).await?;
            *after = page.last().map(|p| p.id.clone()).filter(|_| page.len() == PAGE);
            let held = |id: &str| work.held.contains_key(id);
            let Plan { claim, give_up, .. } = plan::plan_pending(&page, held, self.room(work), rules);
            for (id, attempts) in give_up {
                let text = format!(
                    "it was given out {attempts} times, and the last time nobody said what became of it"
                );
                work.hold(&id, 0);
                work.settles.push_back(Settle::Bury(id, text, attempts));
            }
            if !claim.is_empty() {
                for message in redis.claim(&claim, MAX_BYTES - work.bytes.min(MAX_BYTES)).await? {
                    self.begin(work, message, shown);
                }
                if self.room(work) == 0 {
                    // More may be due: on from the last one claimed, as soon as there is room.
                    *after = claim.last().map(|(id, _)| id.clone());
                    return Ok(Instant::now());
                }
            }
            if after.is_none() || self.room(work) == 0 {
                break;
            }
        }
        let soon = after.is_some() || !work.waiting.is_empty();
        Ok(Instant::now() + if soon { LOOK } else { SELDOM })
    }

    /// Calls the function for a message.
    fn begin(&self, work: &mut Work, message: Message, redis: &str) {
        let Message { id, bytes, attempt, fields } = message;
        work.hold(&id, if fields.is_some() { bytes } else { 0 });
        let s = &self.settings;
        let envelope = Envelope {
            id: &id,
            stream: &s.stream,
            redis,
            trigger: &s.trigger,
            attempt,
            max_attempts: s.max_attempts,
        };
        let request = match fields {
            Some(fields) => message::request(fields, envelope),
            None if bytes > MAX_MESSAGE_BYTES => {
                Err(format!("it has {bytes} bytes; {MAX_MESSAGE_BYTES} are delivered at most"))
            }
            None => Err(format!("it has too many fields; {MAX_FIELDS} are delivered at most")),
        };
        let (headers, body) = match request {
            Ok(request) => request,
            Err(why) => return work.settles.push_back(Settle::Bury(id, why, attempt - 1)),
        };
        let place = self.surroundings.place();
        let call = Call {
            addresses: place.addresses,
            host: place.host,
            path: s.path.clone(),
            headers,
            body,
            timeout: s.timeout,
        };
        let caller = self.caller.clone();
        work.calls.spawn(async move {
            let called = AssertUnwindSafe(caller.call(call)).catch_unwind().await;
            let result =
                called.unwrap_or_else(|_| Err(CallFailure::Broken("the call ended in a panic".into())));
            Ended { id, attempt, result }
        });
    }

    fn ended(&self, work: &mut Work, ended: Result<Ended, tokio::task::JoinError>) {
        let Ended { id, attempt, result } = match ended {
            Ok(ended) => ended,
            // A call catches its panics, and is aborted with this consumer only.
            Err(error) => return tracing::error!(%error, "a call of a queue trigger was lost"),
        };
        let why = match result {
            Ok(code) if (200..300).contains(&code) => {
                self.counters.delivered.fetch_add(1, Relaxed);
                work.last_result = Some(format!("answered {code}"));
                work.last_success = Some(self.ambient.now());
                // Before what Redis may refuse: it was delivered.
                return work.settles.push_front(Settle::Acknowledge(id));
            }
            Ok(code) => format!("answered {code}"),
            Err(CallFailure::Unreached(why)) => {
                // The function knows nothing of it: that was no attempt.
                work.last_result = Some(why);
                return work.settles.push_back(Settle::PutOff(id, attempt - 1));
            }
            Err(CallFailure::Broken(why)) => why,
        };
        self.counters.failed.fetch_add(1, Relaxed);
        work.settles.push_back(match attempt >= self.settings.max_attempts {
            true => Settle::Bury(id, why.clone(), attempt),
            false => Settle::PutOff(id, attempt),
        });
        work.last_result = Some(why);
    }

    /// Tells Redis; which message it was about.
    async fn settle(&self, redis: &mut Connection, settle: &Settle) -> Result<String, Failure> {
        match settle {
            Settle::Acknowledge(id) => {
                redis.acknowledge(id).await?;
                Ok(id.clone())
            }
            Settle::PutOff(id, attempts) => {
                redis.put_off(id, *attempts).await?;
                Ok(id.clone())
            }
            Settle::Bury(id, why, attempts) => {
                let s = &self.settings;
                let notes = [
                    ("dhow-reason", why.clone()),
                    ("dhow-attempts", attempts.to_string()),
                    ("dhow-stream", s.stream.clone()),
                    ("dhow-id", id.clone()),
                    ("dhow-group", s.group.clone()),
                    ("dhow-function", s.function.to_string()),
                ];
                if redis.bury(id, &notes).await? {
                    self.counters.dead_lettered.fetch_add(1, Relaxed);
                    (self.dead)(format!(
                        "message {id} of {} went to {} after {attempts} attempts: {why}",
                        s.stream, s.dead_letter_stream
                    ));
                }
                Ok(id.clone())
            }
        }
    }

    fn say(
        &self,
        work: &Work,
        is_ready: bool,
        reason: &'static str,
        message: String,
        figures: Option<(i64, Option<i64>)>,
    ) {
        let said = Said {
            is_ready,
            reason,
            message,
            last_result: work.last_result.clone(),
            last_success: work.last_success,
            pending: figures.map(|(pending, _)| pending),
            lag: figures.and_then(|(_, lag)| lag),
        };
        self.said.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&said);
            *old = Some(said);
            changed
        });
    }

    fn say_failed(&self, work: &Work, why: &Failure) {
        let reason = match why {
            Failure::Unavailable(_) => "RedisUnavailable",
            Failure::Refused(_) => "RedisRefused",
            Failure::Misconfigured(_) => "Misconfigured",
            Failure::TooLongToWaitFor => return,
        };
        self.say(work, false, reason, why.to_string(), None);
    }
}

async fn until_there_is_one(
    wait: &mut Option<BoxFuture<'static, Result<(), Failure>>>,
) -> Result<(), Failure> {
    match wait {
        Some(wait) => wait.await,
        None => std::future::pending().await,
    }
}

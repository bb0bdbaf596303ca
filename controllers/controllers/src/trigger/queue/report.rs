//! What a consumer says of itself, and when it is written into the function's status.
use super::super::status::{status_mut, time, write_live};
use super::settings::Settings;
use crate::context::Context;
use client::dhow::v1alpha1::TriggerStatus;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const READY: &str = "Ready";
/// Between two writes of figures; that Redis is gone, or back, is written at once.
const INTERVAL: Duration = Duration::from_secs(10);

/// How a trigger stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) is_ready: bool,
    /// One word.
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) last_result: Option<String>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) pending: Option<i64>,
    pub(super) lag: Option<i64>,
}

impl Said {
    pub(super) fn not_ready(reason: &'static str, message: String) -> Self {
        Self {
            is_ready: false,
            reason,
            message,
            last_result: None,
            last_success: None,
            pending: None,
            lag: None,
        }
    }

    fn state(&self) -> (bool, &'static str, &str) {
        (self.is_ready, self.reason, &self.message)
    }
}

/// Puts it into the status. Figures that are not known stay as they were.
pub(super) fn apply(said: &Said, status: &mut TriggerStatus, now: Timestamp) {
    let value = if said.is_ready { "True" } else { "False" };
    let old = status.conditions.iter().find(|c| c.type_ == READY && c.status == value);
    let condition = Condition {
        type_: READY.to_owned(),
        status: value.to_owned(),
        reason: said.reason.to_owned(),
        message: said.message.clone(),
        observed_generation: None,
        last_transition_time: old.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
    };
    status.conditions = vec![condition];
    status.since.get_or_insert_with(|| time(now));
    if said.last_result.is_some() {
        status.last_result.clone_from(&said.last_result);
    }
    if let Some(at) = said.last_success {
        status.last_successful_time = Some(time(at));
    }
    if said.pending.is_some() {
        (status.pending_messages, status.lag_messages) = (said.pending, said.lag);
    }
}

/// Writes what is said of one trigger.
pub(super) async fn write(ctx: &Context, settings: &Settings, said: &Said) {
    let now = ctx.now();
    let written = write_live(ctx, &settings.function, Some(&settings.uid), |status| {
        apply(said, status_mut(status, &settings.trigger), now);
    })
    .await;
    if let Err(error) = written {
        let (function, trigger) = (&settings.function, &settings.trigger);
        tracing::warn!(%function, trigger, error = error.chain(), "the state of a trigger was not written");
    }
}

/// Writes what a consumer says until it ends. `stop`: it ends because nobody wants it any more.
pub(super) async fn follow(
    ctx: Context,
    settings: Settings,
    mut said: watch::Receiver<Option<Said>>,
    stop: CancellationToken,
) {
    let mut written: Option<Said> = None;
    while said.changed().await.is_ok() {
        let Some(now) = said.borrow_and_update().clone() else { continue };
        if written.as_ref() == Some(&now) || stop.is_cancelled() {
            continue;
        }
        write(&ctx, &settings, &now).await;
        let state = |said: &Option<Said>| said.as_ref().is_none_or(|s| s.state() != now.state());
        let ended = matches!(tokio::time::timeout(INTERVAL, said.wait_for(state)).await, Ok(Err(_)));
        if ended {
            break;
        }
        written = Some(now);
        // What was seen while resting is new to the loop.
        said.mark_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_change_stays_while_nothing_changes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut status = TriggerStatus::default();
        let mut said = Said::not_ready("RedisUnavailable", "it is gone".into());
        apply(&said, &mut status, at(1));
        said.message = "it is still gone".into();
        apply(&said, &mut status, at(2));
        assert_eq!(status.conditions[0].last_transition_time, time(at(1)));
        assert_eq!(status.conditions[0].message, "it is still gone");
        (said.is_ready, said.pending) = (true, Some(3));
        apply(&said, &mut status, at(3));
        assert_eq!(status.conditions[0].last_transition_time, time(at(3)));
        assert_eq!((status.pending_messages, status.lag_messages), (Some(3), None));
        apply(&Said::not_ready("x", String::new()), &mut status, at(4));
        assert_eq!(status.pending_messages, Some(3), "what was known last");
        assert_eq!(status.since, Some(time(at(1))));
    }
}

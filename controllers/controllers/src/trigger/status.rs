//! What is said of a trigger in its function's status, and how it gets there.
use crate::context::Context;
use crate::error::{Doing, Error};
use client::ObjectKey;
use client::dhow::v1alpha1::{Function, FunctionStatus, TriggerStatus};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use client::kube::api::{Api, PostParams};
use jiff::Timestamp;

/// Attempts to write an outcome while others write to the same Function; each takes milliseconds.
const WRITES: usize = 20;

pub(super) fn status_of<'a>(status: &'a FunctionStatus, trigger: &str) -> Option<&'a TriggerStatus> {
    status.triggers.iter().find(|t| t.name == trigger)
}

/// The status of a trigger, made if there is none.
pub(super) fn status_mut<'a>(status: &'a mut FunctionStatus, trigger: &str) -> &'a mut TriggerStatus {
    let at = status.triggers.iter().position(|t| t.name == trigger).unwrap_or_else(|| {
        status.triggers.push(TriggerStatus { name: trigger.to_owned(), ..TriggerStatus::default() });
        status.triggers.len() - 1
    });
    &mut status.triggers[at]
}

/// As the server keeps times.
pub(super) fn time(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

/// Writes to the status of the function as it was seen: fails if somebody else wrote meanwhile.
pub(super) async fn write(
    ctx: &Context,
    key: &ObjectKey,
    function: &Function,
    change: impl FnOnce(&mut FunctionStatus),
) -> Result<(), Error> {
    let api: Api<Function> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mut wanted = function.clone();
    change(wanted.status.get_or_insert_default());
    if wanted == *function {
        return Ok(());
    }
    match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error).doing(|| format!("write the status of function {key}")),
    }
}

/// Writes to the status of the function as it is, if it is still the same one.
pub(super) async fn write_live(
    ctx: &Context,
    key: &ObjectKey,
    uid: Option<&str>,
    change: impl Fn(&mut FunctionStatus),
) -> Result<(), Error> {
    let api: Api<Function> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mut last = Err(Error::NotYet(format!("function {key} is written by others all the time")));
    for _ in 0..WRITES {
        let live = match api.get(&key.name).await {
            Ok(live) if live.metadata.uid.as_deref() == uid => live,
            Ok(_) => return Ok(()),
            Err(error) if client::is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("read function {key}")),
        };
        last = write(ctx, key, &live, &change).await;
        match &last {
            Err(error) if error.is_race() => {}
            Err(error) if error.is_not_found() => return Ok(()),
            _ => return last,
        }
    }
    last
}

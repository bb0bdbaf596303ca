//! Deleting a pod because of what happened around it, and saying so in its status first.
use crate::context::Context;
use crate::error::{Doing, Error};
use crate::pod;
use client::ObjectKey;
use client::k8s_openapi::api::core::v1::{Pod, PodCondition};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use client::kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

/// How a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Its kubelet ends it in its grace period.
    Gracefully,
    /// No kubelet will: it is marked Failed and removed at once.
    AtOnce,
}

/// Deletes this very pod, with a DisruptionTarget condition that says why.
pub(crate) async fn delete(
    ctx: &Context,
    p: &Pod,
    manner: Manner,
    reason: &str,
    message: &str,
) -> Result<(), Error> {
    let key = ObjectKey::of(p);
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    if !pod::is_terminal(p) && pod::condition(p, "DisruptionTarget").is_none() {
        let mut conditions = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.push(PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(ctx.now())),
            ..PodCondition::default()
        });
        let mut status = json!({ "conditions": conditions });
        if manner == Manner::AtOnce {
            status["phase"] = json!("Failed");
        }
        let patch = json!({
            "metadata": { "uid": p.metadata.uid, "resourceVersion": p.metadata.resource_version },
            "status": status,
        });
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(error) if client::is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("mark pod {key} as disrupted")),
        }
    }
    let params = DeleteParams {
        grace_period_seconds: (manner == Manner::AtOnce).then_some(0),
        preconditions: Some(Preconditions { uid: p.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(()),
        Err(error) => Err(error).doing(|| format!("delete pod {key}")),
    }
}

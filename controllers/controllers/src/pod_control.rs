//! Making and deleting the pods of a controller, with the events people look for.
use crate::context::Context;
use crate::error::{Doing, Error};
use crate::expectations::Seen;
use crate::pod;
use client::k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::kube::Resource;
use client::kube::api::{Api, DeleteParams, PostParams, Preconditions};
use client::{EventType, ObjectKey};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

/// The longest prefix of a generated name: 63 less the five characters the server adds.
const MAX_PREFIX: usize = 58;

/// A pod of `template` for the controller `key`, to be named by the server.
pub(crate) fn from_template(key: &ObjectKey, template: &PodTemplateSpec, reference: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let prefix: String = key.name.chars().take(MAX_PREFIX - 1).collect();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(key.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates a pod and says so in an event on its controller.
pub(crate) async fn create<O: Resource<DynamicType = ()>>(
    ctx: &Context,
    owner: &O,
    pod: &Pod,
) -> Result<Pod, Error> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let made = api
        .create(&PostParams::default(), pod)
        .await
        .doing(|| format!("create a pod of {}", ObjectKey::of(owner)));
    match &made {
        Ok(pod) => {
            let name = pod.metadata.name.as_deref().unwrap_or("");
            ctx.recorder.event(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        Err(error) if error.is_namespace_terminating() => {}
        Err(error) => {
            let text = format!("Error creating: {}", error.server_message());
            ctx.recorder.event(owner, EventType::Warning, "FailedCreate", text);
        }
    }
    made
}

/// Deletes a pod, this very one, and says so. One that is gone is deleted.
pub(crate) async fn delete<O: Resource<DynamicType = ()>>(
    ctx: &Context,
    owner: &O,
    pod: &Pod,
) -> Result<(), Error> {
    let key = ObjectKey::of(pod);
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Ok(_) => {
            let text = format!("Deleted pod: {}", key.name);
            ctx.recorder.event(owner, EventType::Normal, "SuccessfulDelete", text);
            Ok(())
        }
        // A conflict says that the name belongs to another pod by now.
        Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(()),
        Err(error) => {
            let failed = Err(error).doing(|| format!("delete pod {key}"));
            if let Err(error) = &failed {
                let text = format!("Error deleting: {}", error.server_message());
                ctx.recorder.event(owner, EventType::Warning, "FailedDelete", text);
            }
            failed
        }
    }
}

/// How an informer's pods show the one with a uid. The index is made at the first question: mostly there is none.
pub(crate) fn seen(pods: &[Arc<Pod>]) -> impl Fn(&str) -> Seen {
    let index: OnceCell<HashMap<&str, Seen>> = OnceCell::new();
    let show = |p: &Pod| if pod::is_active(p) { Seen::Active } else { Seen::Inactive };
    move |uid| {
        let index = index.get_or_init(|| {
            pods.iter().filter_map(|p| Some((p.metadata.uid.as_deref()?, show(p)))).collect()
        });
        index.get(uid).copied().unwrap_or(Seen::Not)
    }
}

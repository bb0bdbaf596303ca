//! `pods/<name>/binding`: the scheduler's decision, made once.
use super::read_posted;
use crate::body::RequestBody;
use crate::registry::Request;
use crate::registry::update::{Door, change};
use crate::respond::{self, Answer};
use http::StatusCode;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};

pub(crate) async fn create(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let dry_run = request.query.dry_run()?;
    let binding = read_posted(request, body, "Binding").await?;
    let now = meta::time(request.server.ambient.now());
    change(request, Door::Internal, dry_run, |pod| bind(request, pod, &binding, &now)).await?;
    Ok(respond::success(StatusCode::CREATED, Value::Null))
}

fn bind(request: &Request<'_>, pod: &Value, binding: &Value, now: &str) -> Result<Value, Status> {
    let name = meta::name(pod);
    let conflict = |why: String| Status::conflict(request.row, name, &why);
    let node = binding.pointer("/target/name").and_then(Value::as_str).filter(|n| !n.is_empty());
    let Some(node) = node else { return Err(Status::bad_request("target.name: Required value")) };
    match binding.pointer("/target/kind").and_then(Value::as_str) {
        None | Some("" | "Node") => {}
        Some(other) => {
            return Err(Status::bad_request(format!(
                "target.kind: Unsupported value: {other:?}: supported values: \"Node\", \"<empty>\""
            )));
        }
    }
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(pod) {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(pod)
        )));
    }
    if meta::is_terminating(pod) {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(bound) = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|n| !n.is_empty()) {
        return Err(conflict(format!("pod {name} is already assigned to node {bound:?}")));
    }
    let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array);
    if gates.is_some_and(|g| !g.is_empty()) {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = json!(node);
    if let Some(annotations) = binding.pointer("/metadata/annotations").and_then(Value::as_object) {
        for (key, value) in annotations {
            new["metadata"]["annotations"][key.as_str()] = value.clone();
        }
    }
    let condition =
        json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now });
    let conditions = &mut new["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|c| c.get("type").and_then(Value::as_str) != Some("PodScheduled"));
        list.push(condition);
    }
    Ok(new)
}

//! `pods/<name>/binding`: the scheduler's decision, made once.
use super::read_posted;
use crate::body::RequestBody;
use crate::registry::Request;
use crate::registry::update::{Door, change};
use crate::respond::{self, Answer};
use http::StatusCode;
use machinery::meta;
use machinery::status::Status;
use machinery::strategy::binding_applies;
use serde_json::{Value, json};

pub(crate) async fn create(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let dry_run = request.query.dry_run()?;
    let binding = read_posted(request, body, "Binding").await?;
    let now = meta::time(request.server.ambient.now());
    let bind = |pod: &Value| {
        let mut new = pod.clone();
        binding_applies(&mut new, &binding)?;
        let conditions = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        let scheduled =
            conditions.into_iter().flatten().find(|c| c.get("type").is_some_and(|t| t == "PodScheduled"));
        if let Some(condition) = scheduled {
            condition["lastTransitionTime"] = json!(now);
        }
        Ok(new)
    };
    change(request, Door::Internal, dry_run, bind).await?;
    Ok(respond::success(StatusCode::CREATED, Value::Null))
}

//! `pods/<name>/eviction`: a delete that asks. There are no PodDisruptionBudgets yet, so the answer is yes.
use super::read_posted;
use crate::body::RequestBody;
use crate::registry::Request;
use crate::registry::delete::{delete_object, options_from};
use crate::respond::{self, Answer};
use http::StatusCode;
use machinery::status::Status;
use serde_json::Value;

pub(crate) async fn create(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let eviction = read_posted(request, body, "Eviction").await?;
    let mut options = options_from(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
    options.dry_run |= request.query.dry_run()?;
    delete_object(request.server, request.row, &request.target.namespace, request.name(), &options).await?;
    Ok(respond::success(StatusCode::CREATED, Value::Null))
}

//! `namespaces/<name>/finalize`: the namespace controller says that a namespace is empty. When that was the last
//! thing to wait for, the namespace goes.
use crate::body::RequestBody;
use crate::decode;
use crate::error::stale;
use crate::registry::Request;
use crate::registry::update::{Door, change, fit_name};
use crate::respond::{self, Answer};
use http::StatusCode;
use machinery::meta;
use machinery::status::Status;
use serde_json::json;

pub(crate) async fn update(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let row = request.row;
    let dry_run = request.query.dry_run()?;
    let fields = request.query.field_validation()?;
    let format = decode::Format::of(request.headers)?;
    let bytes = decode::read(body, request.headers).await?;
    let (object, duplicates) = decode::parse(&bytes, format)?;
    let checked = decode::check(row, &row.api_version(), row.kind, row.schema, object, &duplicates, fields)?;
    let mut given = checked.object;
    fit_name(request.name(), &mut given)?;
    let updated = change(request, Door::Internal, dry_run, |old| {
        let version = meta::resource_version(&given);
        if !version.is_empty() && version != meta::resource_version(old) {
            return Err(stale(row, request.name()));
        }
        let mut new = old.clone();
        let finalizers = given.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
        new["spec"]["finalizers"] = finalizers;
        Ok(new)
    })
    .await?;
    respond::object(row, StatusCode::OK, updated.encoded, request.output, request.server.ambient.now())
}

//! Subresources that are more than a view of the object.
pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod finalize;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod streams;

use crate::body::RequestBody;
use crate::decode;
use crate::registry::Request;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

/// Reads the body of a POST to a subresource: an object of `kind`, whose name, if any, is the path's.
async fn read_posted(request: &Request<'_>, body: RequestBody, kind: &str) -> Result<Value, Status> {
    request.query.check_field_manager()?;
    let format = decode::Format::of(request.headers)?;
    let bytes = decode::read(body, request.headers).await?;
    let (object, _) = decode::parse(&bytes, format)?;
    match object.get("kind").and_then(Value::as_str) {
        None | Some("") => {}
        Some(given) if given == kind => {}
        Some(given) => {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): it is a {given}"
            )));
        }
    }
    let name = meta::name(&object);
    if !name.is_empty() && name != request.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            request.name()
        )));
    }
    Ok(object)
}

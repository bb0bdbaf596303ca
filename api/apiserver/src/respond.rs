//! Answers: objects, lists and Statuses in the form the client asked for.
use crate::body::Body;
use crate::negotiate::{Encoding, Output, Shape};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use jiff::Timestamp;
use machinery::resource::Resource;
use machinery::status::Status;
use machinery::table;
use serde_json::{Value, json};

pub(crate) type Answer = Response<Body>;

/// Bytes of a type.
pub(crate) fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

/// JSON of a value.
pub(crate) fn json(code: StatusCode, value: &Value) -> Answer {
    // A Value always serialises: its keys are strings and its numbers finite.
    bytes(code, "application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// Plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Answer {
    bytes(code, "text/plain; charset=utf-8", text.into())
}

/// An error.
pub(crate) fn error(status: &Status) -> Answer {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(code, &status.to_value());
    if let Some(seconds) = status.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// The Status of something that was done.
pub(crate) fn success(code: StatusCode, details: Value) -> Answer {
    let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    if details.is_null() {
        status["code"] = json!(code.as_u16());
    } else {
        status["details"] = details;
    }
    json(code, &status)
}

/// Characters of one warning, and of all warnings of an answer (upstream's limits): a client takes only so many
/// headers, and whoever sends a hundred thousand unknown fields has read enough after some.
const WARNING_CHARS: usize = 256;
const ALL_WARNINGS_CHARS: usize = 4096;

/// Adds `Warning` headers, as RFC 7234 and kubectl want them: `299 - "text"`.
pub(crate) fn warn(answer: &mut Answer, warnings: &[String]) {
    let mut left = ALL_WARNINGS_CHARS;
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).take(WARNING_CHARS).collect();
        left = match left.checked_sub(text.chars().count()) {
            Some(left) => left,
            None => return,
        };
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            answer.headers_mut().append(WARNING, value);
        }
    }
}

/// An object that is already JSON with its resourceVersion.
pub(crate) fn object(
    row: &Resource,
    code: StatusCode,
    encoded: Bytes,
    output: Output,
    now: Timestamp,
) -> Result<Answer, Status> {
    if output.is_plain() {
        return Ok(bytes(code, "application/json", encoded));
    }
    let value: Value = serde_json::from_slice(&encoded).map_err(Status::internal)?;
    written(code, &shaped(row, value, output, now), output)
}

/// One object in the shape asked for.
pub(crate) fn shaped(row: &Resource, value: Value, output: Output, now: Timestamp) -> Value {
    match output.shape {
        Shape::AsIs => value,
        Shape::Metadata => partial(&value),
        Shape::Table(version, include) => {
            let version_only = json!({ "resourceVersion": machinery::meta::resource_version(&value) });
            table::to_table(row, &[&value], version_only, include, version, true, now)
        }
    }
}

/// An object's PartialObjectMetadata.
pub(crate) fn partial(value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": value.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A value in the encoding asked for.
pub(crate) fn written(code: StatusCode, value: &Value, output: Output) -> Result<Answer, Status> {
    let body: Body = match output.encoding {
        Encoding::Json => serde_json::to_vec(value).map_err(Status::internal)?.into(),
        Encoding::Pretty => {
            let mut text = serde_json::to_vec_pretty(value).map_err(Status::internal)?;
            text.push(b'\n');
            text.into()
        }
        Encoding::Yaml => serde_saphyr::to_string(value).map_err(Status::internal)?.into(),
    };
    Ok(bytes(code, output.content_type(), body))
}

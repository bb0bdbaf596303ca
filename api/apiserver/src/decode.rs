//! Request bodies to objects: size and time limits, JSON, YAML and protobuf, unknown and repeated fields.
use crate::body::RequestBody;
use crate::json;
use crate::query::FieldValidation;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use machinery::resource::Resource;
use machinery::schema::{self, Schema};
use machinery::status::Status;
use serde_json::Value;
use std::time::Duration;

/// Upstream's `MaxRequestBodyBytes`: 3 MiB, twice the largest object etcd takes, so that an object that is only
/// a little too large gets the better message.
pub(crate) const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// A body may take this long to arrive: 3 MiB at 100 kB/s, half of the time a request has in all.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    /// From Content-Type; upstream takes JSON when there is none.
    pub(crate) fn of(headers: &http::HeaderMap) -> Result<Self, Status> {
        match media_type(headers) {
            None | Some("application/json") => Ok(Self::Json),
            Some("application/yaml" | "text/yaml" | "application/x-yaml") => Ok(Self::Yaml),
            Some("application/vnd.kubernetes.protobuf") => Ok(Self::Protobuf),
            Some(_) => Err(Status::unsupported_media_type(&[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ])),
        }
    }
}

/// The Content-Type without its parameters.
pub(crate) fn media_type(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = value.split(';').next().unwrap_or("").trim();
    (!kind.is_empty()).then_some(kind)
}

/// Of a body that is too large this much more is read and thrown away: a client that is cut off while it sends
/// reports a broken connection instead of our answer. 256 MiB pass over a loopback in a second.
const MAX_DISCARDED_BYTES: usize = 256 * 1024 * 1024;
/// And for no longer than this.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a body whole.
pub(crate) async fn read(mut body: RequestBody, headers: &http::HeaderMap) -> Result<Bytes, Status> {
    let collected = if http_body::Body::size_hint(&body).lower() > MAX_BODY_BYTES as u64 {
        // Who asked first whether to send it (Expect: 100-continue) need not send it.
        if headers.contains_key(http::header::EXPECT) {
            return Err(too_large());
        }
        None
    } else {
        let collect = tokio::time::timeout(BODY_TIMEOUT, collect(&mut body)).await;
        collect.unwrap_or_else(|_| {
            Err(Status::new(408, "Timeout", "the request's body did not arrive in time; send it again"))
        })?
    };
    match collected {
        Some(bytes) => Ok(bytes),
        None => {
            // Whether everything was discarded makes no difference to the answer.
            let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut body)).await;
            Err(too_large())
        }
    }
}

fn too_large() -> Status {
    Status::too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}"))
}

/// The whole body, or `None` when it is over the limit.
async fn collect(body: &mut RequestBody) -> Result<Option<Bytes>, Status> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("cannot read the request's body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        // Nearly every body comes in one piece, which then is not copied.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}

async fn discard(body: &mut RequestBody) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > MAX_DISCARDED_BYTES {
            return;
        }
    }
}

/// A body as a JSON object, with the fields that came twice.
pub(crate) fn parse(bytes: &Bytes, format: Format) -> Result<(Value, Vec<String>), Status> {
    let (value, duplicates) = match format {
        Format::Json => json::parse(bytes).map_err(|e| json_error(bytes, &e))?,
        Format::Yaml => (parse_yaml(bytes)?, Vec::new()),
        Format::Protobuf => (
            machinery::protobuf::decode(bytes)
                .map_err(|e| Status::bad_request(format!("couldn't decode the protobuf body: {e}")))?,
            Vec::new(),
        ),
    };
    if !value.is_object() {
        return Err(Status::bad_request(
            "couldn't get version/kind; json parse error: the body is not an object",
        ));
    }
    Ok((value, duplicates))
}

fn json_error(bytes: &[u8], error: &serde_json::Error) -> Status {
    // A body that says it is JSON but looks like YAML is a common slip of a hand-written curl.
    let hint = match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') | None => "",
        Some(_) => " (the body is not a JSON object; for YAML send Content-Type: application/yaml)",
    };
    Status::bad_request(format!("couldn't get version/kind; json parse error: {error}{hint}"))
}

/// YAML, as JSON. A key given twice is an error with its line: nobody means that.
pub(crate) fn parse_yaml(bytes: &[u8]) -> Result<Value, Status> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_slice_with_options::<Value>(bytes, options).map_err(|e| {
        let at = e.location().map(|l| format!("line {}: ", l.line())).unwrap_or_default();
        let text = e.without_snippet().to_string();
        Status::bad_request(format!("error converting YAML to JSON: yaml: {at}{text}"))
    })
}

/// What became of fields that should not be there.
pub(crate) struct Checked {
    pub(crate) object: Value,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// Checks an object of `row` against its schema: apiVersion and kind fit the path, types fit, and unknown or
/// repeated fields are refused, warned of or ignored. What the schema does not know is dropped.
pub(crate) fn check(
    row: &Resource,
    api_version: &str,
    kind: &str,
    schema_name: &str,
    mut object: Value,
    duplicates: &[String],
    validation: FieldValidation,
) -> Result<Checked, Status> {
    let cannot = |why: &str| {
        let version = api_version.rsplit('/').next().unwrap_or(api_version);
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    fill_type(&mut object, api_version, kind)?;
    let unknown = match schema::definition(schema_name) {
        Some(schema) => schema::decode(schema, &mut object).map_err(|e| cannot(&e.to_string()))?,
        None => {
            tracing::error!(resource = row.plural, schema = schema_name, "no schema for a served kind");
            Vec::new()
        }
    };
    let complaints = complaints(&unknown, duplicates);
    match validation {
        FieldValidation::Strict if !complaints.is_empty() => {
            Err(cannot(&format!("strict decoding error: {}", complaints.join(", "))))
        }
        FieldValidation::Warn => Ok(Checked { object, warnings: complaints }),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Checked { object, warnings: Vec::new() }),
    }
}

/// `unknown field "spec.x"`, `duplicate field "spec.y"`.
pub(crate) fn complaints(unknown: &[schema::UnknownField], duplicates: &[String]) -> Vec<String> {
    let unknown = unknown.iter().map(|f| format!("unknown field {:?}", f.0.to_string()));
    unknown.chain(duplicates.iter().map(|d| format!("duplicate field {d:?}"))).collect()
}

/// The schema of a row.
pub(crate) fn schema_of(row: &Resource) -> Result<&'static Schema, Status> {
    schema::definition(row.schema).ok_or_else(|| Status::internal(format!("no schema for {}", row.schema)))
}

/// What a value is, in words.
fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Sets apiVersion and kind where the client left them out, and refuses others.
pub(crate) fn fill_type(object: &mut Value, api_version: &str, kind: &str) -> Result<(), Status> {
    // A JSON patch may replace the whole document.
    if !object.is_object() {
        return Err(Status::bad_request(format!("{kind} must be an object, not {}", shape(object))));
    }
    for (field, expected) in [("apiVersion", api_version), ("kind", kind)] {
        match object.get(field).map(|v| v.as_str()) {
            Some(Some(given)) if given == expected => {}
            None | Some(Some("")) => object[field] = Value::String(expected.to_owned()),
            Some(given) => {
                let given = given.unwrap_or("(not a string)");
                let message = if field == "kind" {
                    format!(
                        "the object provided is unrecognized (must be of type {expected}): it is a {given}"
                    )
                } else {
                    format!(
                        "the API version in the data ({given}) does not match the expected API version ({expected})"
                    )
                };
                return Err(Status::bad_request(message));
            }
        }
    }
    Ok(())
}

//! Patch: JSON, merge and strategic merge.
use super::Request;
use super::create::fit_namespace;
use super::update::{Door, change, fit_name};
use crate::body::RequestBody;
use crate::decode;
use crate::query::FieldValidation;
use crate::respond::{self, Answer};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use machinery::patch;
use machinery::schema::{self, Schema};
use machinery::status::Status;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self, Status> {
        match decode::media_type(headers) {
            Some("application/json-patch+json") => Ok(Self::Json),
            Some("application/merge-patch+json") => Ok(Self::Merge),
            Some("application/strategic-merge-patch+json") => Ok(Self::Strategic),
            _ => Err(Status::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ])),
        }
    }
}

/// A patch that was read but not yet applied.
pub(crate) struct Patch {
    kind: Kind,
    body: Value,
    bytes: Bytes,
    duplicates: Vec<String>,
}

impl Patch {
    pub(crate) async fn read(request: &Request<'_>, body: RequestBody) -> Result<Self, Status> {
        let kind = Kind::of(request.headers)?;
        let bytes = decode::read(body, request.headers).await?;
        let (body, duplicates) = crate::json::parse(&bytes)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        let fits = if kind == Kind::Json { body.is_array() } else { body.is_object() };
        if !fits {
            let expected = if kind == Kind::Json { "an array of operations" } else { "an object" };
            return Err(Status::bad_request(format!("error decoding patch: it must be {expected}")));
        }
        Ok(Self { kind, body, bytes, duplicates })
    }

    /// `old` with the patch applied; nothing is checked yet.
    pub(crate) fn apply(&self, old: &Value, schema: &Schema) -> Result<Value, Status> {
        let mut new = old.clone();
        let result = match self.kind {
            Kind::Json => patch::json(&mut new, &self.body),
            Kind::Merge => {
                patch::merge(&mut new, &self.body);
                Ok(())
            }
            Kind::Strategic => patch::strategic(&mut new, &self.body, schema),
        };
        result.map_err(|e| match e {
            patch::Error::Malformed(why) => Status::bad_request(why),
            patch::Error::Unprocessable(why) => {
                let mut status = Status::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {why}"),
                );
                status.details =
                    json!({ "causes": [{ "reason": "UnexpectedServerResponse", "message": why }] });
                status
            }
        })?;
        Ok(new)
    }

    /// Checks the patched object against the schema; gives back warnings.
    pub(crate) fn check(
        &self,
        new: &mut Value,
        schema: &Schema,
        validation: FieldValidation,
    ) -> Result<Vec<String>, Status> {
        let unknown = schema::decode(schema, new).map_err(|e| self.refuse(&e.to_string()))?;
        let complaints = decode::complaints(&unknown, &self.duplicates);
        match validation {
            FieldValidation::Strict if !complaints.is_empty() => {
                Err(self.refuse(&format!("strict decoding error: {}", complaints.join(", "))))
            }
            FieldValidation::Warn => Ok(complaints),
            FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
        }
    }

    /// Upstream's 422 for a patch whose result does not decode: it names no object but shows the patch.
    fn refuse(&self, why: &str) -> Status {
        let shown: String = String::from_utf8_lossy(&self.bytes).chars().take(2_000).collect();
        let detail = format!("Invalid value: {shown:?}: {why}");
        let mut status = Status::new(422, "Invalid", format!(" \"\" is invalid: patch: {detail}"));
        status.details =
            json!({ "causes": [{ "reason": "FieldValueInvalid", "message": detail, "field": "patch" }] });
        status
    }
}

/// PATCH of an object or its status.
pub(crate) async fn patch(request: &Request<'_>, body: RequestBody, door: Door) -> Result<Answer, Status> {
    let row = request.row;
    let dry_run = request.query.dry_run()?;
    let validation = request.query.field_validation()?;
    request.query.check_field_manager()?;
    let patch = Patch::read(request, body).await?;
    let schema = decode::schema_of(row)?;
    let api_version = row.api_version();
    let mut warnings = Vec::new();
    let updated = change(request, door, dry_run, |old| {
        let mut new = patch.apply(old, schema)?;
        decode::fill_type(&mut new, &api_version, row.kind)?;
        warnings = patch.check(&mut new, schema, validation)?;
        fit_namespace(row, &request.target.namespace, &mut new)?;
        fit_name(request.name(), &mut new)?;
        Ok(new)
    })
    .await?;
    let now = request.server.ambient.now();
    let mut answer = respond::object(row, StatusCode::OK, updated.encoded, request.output, now)?;
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

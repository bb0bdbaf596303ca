//! metav1.Status: every error the API server answers with (apimachinery `api/errors`).
use crate::field;
use crate::resource::Resource;
use serde_json::{Value, json};

/// An error answer: an HTTP code and its Status body.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// `details`, or null.
    pub details: Value,
    /// `metadata.continue`, for an expired continue token.
    pub continue_token: Option<String>,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, continue_token: None }
    }
    /// The body, ready to send.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            v["details"] = self.details.clone();
        }
        if let Some(c) = &self.continue_token {
            v["metadata"]["continue"] = json!(c);
        }
        if self.reason.is_empty() {
            v.as_object_mut().map(|o| o.remove("reason"));
        }
        v
    }

    fn about(r: &Resource, name: &str) -> Value {
        let mut d = json!({ "name": name, "kind": r.plural });
        if !r.group.is_empty() {
            d["group"] = json!(r.group);
        }
        d
    }
    fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(r: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", r.group_resource()))
            .with(Self::about(r, name))
    }
    /// 404 for a path nobody serves.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with(json!({}))
    }
    /// 409: `pods "x" already exists`.
    pub fn already_exists(r: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", r.group_resource()))
            .with(Self::about(r, name))
    }
    /// 409: `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(r: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", r.group_resource()),
        )
        .with(Self::about(r, name))
    }
    /// 422: `Pod "x" is invalid: spec.containers: Required value`, with a cause for each field.
    pub fn invalid(r: &Resource, name: &str, errors: &[field::Error]) -> Self {
        let text = match errors {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let kind = if r.group.is_empty() { r.kind.to_owned() } else { format!("{}.{}", r.kind, r.group) };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({ "reason": e.kind.reason(), "message": e.detail, "field": e.path.to_string() }))
            .collect();
        let mut details = json!({ "name": name, "kind": r.kind, "causes": causes });
        if !r.group.is_empty() {
            details["group"] = json!(r.group);
        }
        Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {text}")).with(details)
    }
    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// 403, worded by the authorizer or an admission check.
    pub fn forbidden(r: Option<&Resource>, name: &str, message: impl Into<String>) -> Self {
        let s = Self::new(403, "Forbidden", message);
        match r {
            Some(r) => s.with(Self::about(r, name)),
            None => s.with(json!({})),
        }
    }
    /// 405.
    pub fn method_not_supported(r: &Resource, verb: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind {:?}", r.group_resource()),
        )
        .with(Self::about(r, ""))
    }
    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }
    /// 410: the resourceVersion or continue token is older than the store's history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }
    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }
    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message).with(json!({ "retryAfterSeconds": retry_after_seconds }))
    }
    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with(json!({ "causes": [{ "message": message.to_string() }] }))
    }
    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }
    /// 504: the resourceVersion asked for lies in the future.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        Self::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"))
            .with(json!({
                "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
                "retryAfterSeconds": 1
            }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};
    use crate::resource::lookup;

    fn row(group: &str, plural: &str) -> &'static Resource {
        lookup(group, "v1", plural).expect("a row")
    }

    #[test]
    fn common_errors_have_upstreams_code_reason_and_text() {
        let d = row("apps", "deployments");
        for (status, code, reason, message) in [
            (Status::not_found(d, "a"), 404, "NotFound", "deployments.apps \"a\" not found"),
            (Status::already_exists(row("", "pods"), "a"), 409, "AlreadyExists", "pods \"a\" already exists"),
            (
                Status::conflict(d, "a", "it changed"),
                409,
                "Conflict",
                "Operation cannot be fulfilled on deployments.apps \"a\": it changed",
            ),
            (Status::unauthorized(), 401, "Unauthorized", "Unauthorized"),
            (
                Status::too_large_resource_version(9, 3),
                504,
                "Timeout",
                "Timeout: Too large resource version: 9, current: 3",
            ),
        ] {
            assert_eq!((status.code, status.reason, status.message.as_str()), (code, reason, message));
        }
    }

    #[test]
    fn an_invalid_object_names_every_fault_as_a_cause() {
        let errors = [
            Error::required(Path::new("spec").child("a"), ""),
            Error::invalid(Path::new("spec").child("b"), 1, "no"),
        ];
        let s = Status::invalid(row("apps", "deployments"), "d", &errors);
        assert_eq!(
            s.message,
            "Deployment.apps \"d\" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: no]"
        );
        assert_eq!(
            s.to_value()["details"],
            json!({"name": "d", "group": "apps", "kind": "Deployment", "causes": [
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"},
            {"reason": "FieldValueInvalid", "message": "Invalid value: 1: no", "field": "spec.b"}]})
        );
        let one = Status::invalid(row("", "pods"), "p", &errors[..1]);
        assert_eq!(one.message, "Pod \"p\" is invalid: spec.a: Required value");
    }

    #[test]
    fn the_body_is_a_status_object_with_a_continue_token_where_there_is_one() {
        let mut s = Status::expired("old");
        assert_eq!(
            s.to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "old", "reason": "Expired", "code": 410})
        );
        s.continue_token = Some("t".into());
        assert_eq!(s.to_value()["metadata"], json!({"continue": "t"}));
    }
}

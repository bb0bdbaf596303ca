//! Reviews: who am I, and what may I do. Answered from the request alone; nothing is stored.
use crate::authentication::UserInfo;
use crate::authorization::{Attributes, authorize, rules};
use crate::body::RequestBody;
use crate::decode;
use crate::path::ResourceTarget;
use crate::respond::{self, Answer};
use http::{HeaderMap, StatusCode};
use machinery::status::Status;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// `kubectl auth can-i`.
    Access,
    /// `kubectl auth can-i --list`.
    Rules,
    /// `kubectl auth whoami`.
    Identity,
}

/// The review a POST asks for.
pub(crate) fn of(target: &ResourceTarget) -> Option<Review> {
    if target.verb != "create" || !target.name.is_empty() {
        return None;
    }
    match (target.group.as_str(), target.version.as_str(), target.plural.as_str()) {
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews") => Some(Review::Access),
        ("authorization.k8s.io", "v1", "selfsubjectrulesreviews") => Some(Review::Rules),
        // kubectl 1.27 knows only the older versions, which are the same.
        ("authentication.k8s.io", "v1" | "v1beta1" | "v1alpha1", "selfsubjectreviews") => {
            Some(Review::Identity)
        }
        _ => None,
    }
}

pub(crate) async fn answer(
    review: Review,
    user: &UserInfo,
    headers: &HeaderMap,
    body: RequestBody,
) -> Result<Answer, Status> {
    let format = decode::Format::of(headers)?;
    let (mut object, _) = decode::parse(&decode::read(body, headers).await?, format)?;
    object["status"] = match review {
        Review::Access => access(user, &object)?,
        Review::Rules => rules(user),
        Review::Identity => {
            let mut info = json!({ "username": user.name, "groups": user.groups });
            if !user.uid.is_empty() {
                info["uid"] = json!(user.uid);
            }
            json!({ "userInfo": info })
        }
    };
    Ok(respond::json(StatusCode::CREATED, &object))
}

fn access(user: &UserInfo, review: &Value) -> Result<Value, Status> {
    let resource = review.pointer("/spec/resourceAttributes");
    let other = review.pointer("/spec/nonResourceAttributes");
    fn text<'a>(v: &'a Value, field: &str) -> &'a str {
        v.get(field).and_then(Value::as_str).unwrap_or("")
    }
    let attributes = match (resource, other) {
        (Some(r), None) => Attributes::Resource {
            verb: text(r, "verb"),
            group: text(r, "group"),
            resource: text(r, "resource"),
            subresource: text(r, "subresource"),
            namespace: text(r, "namespace"),
            name: text(r, "name"),
        },
        (None, Some(o)) => Attributes::NonResource { verb: text(o, "verb"), path: text(o, "path") },
        _ => {
            return Err(Status::bad_request(
                "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(json!({ "allowed": authorize(user, &attributes) }))
}

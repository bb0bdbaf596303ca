//! `pods/<name>/log`: the kubelet's `/containerLogs`, streamed.
use crate::body::Body;
use crate::decode::MAX_BODY_BYTES;
use crate::kubelet;
use crate::registry::Request;
use crate::registry::read::fetch_value;
use crate::respond::{self, Answer};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Limited};
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

/// Options that go on to the kubelet, as PodLogOptions names them.
const OPTIONS: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

pub(crate) async fn get(request: &Request<'_>) -> Result<Answer, Status> {
    let server = request.server;
    let pod = fetch_value(server, request.row, &request.target.namespace, request.name()).await?;
    let container = container_of(&pod, request.query.get("container"))?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() {
        // Nobody has written anything yet; upstream's answer too.
        return Ok(respond::text(StatusCode::OK, String::new()));
    }
    if let Some(waiting) = waiting_reason(&pod, container)
        && !request.query.flag("previous")
    {
        return Err(Status::bad_request(format!(
            "container {container:?} in pod {:?} is waiting to start: {waiting}",
            request.name()
        )));
    }
    let Some(kubelets) = &server.kubelets else {
        return Err(Status::unavailable("this API server has no client certificate for kubelets"));
    };
    let authority = kubelet::authority(server, node).await?;
    let mut path = format!("/containerLogs/{}/{}/{container}", meta::namespace(&pod), request.name());
    let mut separator = '?';
    for option in OPTIONS {
        if let Some(value) = request.query.get(option) {
            path.push(separator);
            path.push_str(option);
            path.push('=');
            path.push_str(&escape(value));
            separator = '&';
        }
    }
    let empty = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let mut outgoing = http::Request::new(empty);
    *outgoing.uri_mut() = kubelet::url(&authority, &path)?;
    let answer = kubelets.send(outgoing).await.map_err(|e| kubelet::unreachable(&authority, &e))?;
    if answer.status() != StatusCode::OK {
        return Err(refused(answer).await);
    }
    let mut out = respond::text(StatusCode::OK, String::new());
    *out.body_mut() = Body::stream(answer.into_body());
    Ok(out)
}

/// The kubelet's error, a Status or plain text, as a Status of the same code.
pub(super) async fn refused(answer: http::Response<hyper::body::Incoming>) -> Status {
    let code = answer.status();
    let text = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
    let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).trim().to_owned()).unwrap_or_default();
    let told = serde_json::from_str::<Value>(&text).ok();
    let text = told.as_ref().and_then(|v| v.get("message")?.as_str()).unwrap_or(&text);
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable(text),
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", text),
        _ => Status::internal(format!("the kubelet answered {code}: {text}")),
    }
}

/// Which container is meant, worded as upstream words its refusals.
pub(super) fn container_of<'a>(pod: &'a Value, asked: Option<&str>) -> Result<&'a str, Status> {
    let name = meta::name(pod);
    let names = |field: &str| -> Vec<&'a str> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|c| c.get("name")?.as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    match asked {
        Some(asked) => containers
            .iter()
            .chain(&init)
            .chain(&names("ephemeralContainers"))
            .find(|c| **c == asked)
            .copied()
            .ok_or_else(|| Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None => match containers.as_slice() {
            [one] => Ok(*one),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
            several => {
                let init = if init.is_empty() {
                    String::new()
                } else {
                    format!(" or one of the init containers: [{}]", init.join(" "))
                };
                Err(Status::bad_request(format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]{init}",
                    several.join(" ")
                )))
            }
        },
    }
}

/// Why a container that never ran waits; the kubelet would say the same.
fn waiting_reason<'a>(pod: &'a Value, container: &str) -> Option<&'a str> {
    let statuses = ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|f| pod.pointer(&format!("/status/{f}"))?.as_array())
        .flatten();
    let status = statuses.into_iter().find(|s| s.get("name").and_then(Value::as_str) == Some(container))?;
    let ran = status.pointer("/lastState/terminated").is_some()
        || status.get("restartCount").and_then(Value::as_i64).unwrap_or(0) > 0;
    if ran {
        return None;
    }
    status.pointer("/state/waiting/reason")?.as_str()
}

/// Escapes a query value: everything but RFC 3986's unreserved characters.
pub(super) fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_must_be_named_when_there_are_several() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container_of(&pod, Some("b")).unwrap(), "b");
        assert_eq!(
            container_of(&pod, None).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(container_of(&pod, Some("c")).unwrap_err().message, "container c is not valid for pod p");
    }

    #[test]
    fn a_container_that_never_ran_waits_for_a_reason() {
        let pod = json!({"status": {"containerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}},
            {"name": "b", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ]}});
        assert_eq!(waiting_reason(&pod, "a"), Some("ContainerCreating"));
        assert_eq!(waiting_reason(&pod, "b"), None);
    }
}

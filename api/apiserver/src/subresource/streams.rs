//! `pods/<name>/exec` and `pods/<name>/attach`: the client's connection, upgraded and passed on to the pod's kubelet
//! byte for byte. What is spoken over it (WebSocket, SPDY/3.1) is between the client and the node's runtime.
use crate::kubelet;
use crate::registry::Request;
use crate::registry::read::fetch_value;
use crate::respond::Answer;
use crate::subresource::log::{container_of, escape, refused};
use crate::{Body, query::Query};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

/// What the options are called here (PodExecOptions) and at the kubelet.
const OPTIONS: &[(&str, &str)] =
    &[("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

pub(crate) async fn exec(
    request: &Request<'_>,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Status> {
    connect(request, "exec", place).await
}

pub(crate) async fn attach(
    request: &Request<'_>,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Status> {
    connect(request, "attach", place).await
}

async fn connect(
    request: &Request<'_>,
    verb: &str,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Status> {
    let server = request.server;
    let pod = fetch_value(server, request.row, &request.target.namespace, request.name()).await?;
    let (node, path) = plan(&pod, verb, request.query)?;
    let Some(upgrade) = request.upgrade else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let Some(kubelets) = &server.kubelets else {
        return Err(Status::unavailable("this API server has no client certificate for kubelets"));
    };
    let authority = kubelet::authority(server, node).await?;
    let empty = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let mut outgoing = http::Request::new(empty);
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = kubelet::url(&authority, &path)?;
    *outgoing.headers_mut() = streaming::handshake(request.headers);
    let asking = tokio::time::timeout(server.limits.request_timeout, kubelets.send(outgoing)).await;
    let asked = asking.map_err(|_| Status::new(504, "Timeout", "the kubelet did not answer in time"))?;
    let mut answer = asked.map_err(|e| kubelet::unreachable(&authority, &e))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(answer).await);
    }
    let tunnel = streaming::tunnel(upgrade.clone(), hyper::upgrade::on(&mut answer));
    let (end, stopping) = (request.end.clone(), server.shutdown.clone());
    server.tasks.spawn(async move {
        let _held = place;
        tokio::select! {
            ended = tunnel => if let Err(error) = ended {
                tracing::debug!(%error, "streams of a pod broke off");
            },
            () = end.cancelled() => {}
            () = stopping.cancelled() => {}
        }
    });
    let mut out = http::Response::new(Body::empty());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = streaming::handshake(answer.headers());
    Ok(out)
}

/// The node and the path at its kubelet, or why there is none: in upstream's words, where it has some.
fn plan<'a>(pod: &'a Value, verb: &str, query: &Query) -> Result<(&'a str, String), Status> {
    let name = meta::name(pod);
    let container = container_of(pod, query.get("container"))?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
    if matches!(phase, "Succeeded" | "Failed") {
        let text = format!("cannot {verb} into a container in a completed pod; current phase is {phase}");
        return Err(Status::bad_request(text));
    }
    let mut path = format!("/{verb}/{}/{name}/{container}?", meta::namespace(pod));
    let mut some = false;
    for (here, there) in OPTIONS {
        let tty_error = *here == "stderr" && query.flag("tty");
        if query.flag(here) && !tty_error {
            some |= *here != "tty";
            path.push_str(there);
            path.push_str("=1&");
        }
    }
    if !some {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if verb == "exec" {
        let before = path.len();
        for word in query.all("command") {
            path.push_str("command=");
            path.push_str(&escape(word));
            path.push('&');
        }
        if path.len() == before {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
    }
    path.pop();
    Ok((node, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planned(pod: &Value, verb: &str, query: &str) -> Result<String, String> {
        plan(pod, verb, &Query::parse(Some(query))).map(|(_, path)| path).map_err(|status| status.message)
    }

    fn pod(node: &str, phase: &str) -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "n"}, "status": {"phase": phase},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        })
    }

    #[test]
    fn options_are_passed_on_by_the_kubelets_names() {
        let all = "command=sh&command=-c&command=a%20%26b&container=c&stdin=true&stdout=true&stderr=true";
        assert_eq!(
            planned(&pod("x", "Running"), "exec", all).unwrap(),
            "/exec/n/p/c?input=1&output=1&error=1&command=sh&command=-c&command=a%20%26b"
        );
        let tty = "stdin=1&stdout=1&stderr=1&tty=1";
        assert_eq!(
            planned(&pod("x", "Running"), "attach", tty).unwrap(),
            "/attach/n/p/c?input=1&output=1&tty=1"
        );
    }

    #[test]
    fn what_cannot_be_is_refused_in_upstreams_words() {
        let refused = |node, phase, verb, query| planned(&pod(node, phase), verb, query).unwrap_err();
        let out = "command=x&stdout=true";
        assert_eq!(refused("", "Pending", "exec", out), "pod p does not have a host assigned");
        assert_eq!(
            refused("x", "Running", "exec", "container=d&command=x&stdout=1"),
            "container d is not valid for pod p"
        );
        assert_eq!(
            refused("x", "Succeeded", "exec", out),
            "cannot exec into a container in a completed pod; current phase is Succeeded"
        );
        assert!(refused("x", "Running", "attach", "stdin=false").contains("at least 1 of stdin"));
        assert!(refused("x", "Running", "exec", "stdout=true").contains("at least one command"));
    }
}

//! `nodes/<name>/proxy/…`: any request, passed on to the kubelet, body and answer streamed.
use crate::body::{Body, RequestBody};
use crate::kubelet;
use crate::registry::Request;
use crate::respond::Answer;
use http::header::{self, HeaderMap, HeaderName};
use machinery::status::Status;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and credentials meant for this server only.
const NOT_PASSED_ON: &[HeaderName] = &[
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::AUTHORIZATION,
];

pub(crate) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in NOT_PASSED_ON {
        kept.remove(name);
    }
    kept.remove("keep-alive");
    let own: Vec<HeaderName> =
        kept.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for name in own {
        kept.remove(name);
    }
    kept
}

pub(crate) async fn proxy(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let server = request.server;
    let Some(kubelets) = &server.kubelets else {
        return Err(Status::unavailable("this API server has no client certificate for kubelets"));
    };
    let authority = kubelet::authority(server, request.name()).await?;
    let path = if request.target.rest.is_empty() { "/" } else { request.target.rest.as_str() };
    let path_and_query = match request.raw_query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut outgoing = http::Request::new(body);
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = kubelet::url(&authority, &path_and_query)?;
    *outgoing.headers_mut() = passed_on(request.headers);
    let answer = kubelets.send(outgoing).await.map_err(|e| kubelet::unreachable(&authority, &e))?;
    let (mut parts, incoming) = answer.into_parts();
    parts.headers = passed_on(&parts.headers);
    let mut out = http::Response::new(Body::stream(incoming));
    *out.status_mut() = parts.status;
    *out.headers_mut() = parts.headers;
    Ok(out)
}

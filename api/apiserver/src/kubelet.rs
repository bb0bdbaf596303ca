//! The way to a node's kubelet: HTTPS with the server's client certificate.
use crate::body::{BoxError, RequestBody};
use crate::object;
use crate::server::Server;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use machinery::resource;
use machinery::status::Status;
use serde_json::Value;
use std::time::Duration;

/// A kubelet that does not take a connection in this time is taken for gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The kubelet's port when the node does not say.
const DEFAULT_PORT: u64 = 10_250;

pub(crate) struct KubeletClient(Client<HttpsConnector<HttpConnector>, RequestBody>);

impl KubeletClient {
    pub(crate) fn new(tls: rustls::ClientConfig) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        Self(Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(https))
    }

    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, BoxError> {
        self.0.request(request).await.map_err(Into::into)
    }
}

/// `host:port` of a node's kubelet.
pub(crate) async fn authority(server: &Server, node: &str) -> Result<String, Status> {
    let Some(nodes) = resource::lookup("", "v1", "nodes") else { return Err(Status::no_such_path()) };
    let (kv, _) =
        server.store.get(&object::key(nodes, "", node), None).await.map_err(crate::error::from_store)?;
    let kv = kv.ok_or_else(|| Status::not_found(nodes, node))?;
    let value = object::decode(nodes, &kv.value, kv.mod_revision)?;
    address_of(&value).ok_or_else(|| Status::internal(format!("node {node:?} has no address yet")))
}

/// Where a node says its kubelet listens. Upstream's order of preference ends in the internal address; ours
/// begins with it, because kubelet certificates are made for addresses.
fn address_of(node: &Value) -> Option<String> {
    let addresses = node.pointer("/status/addresses")?.as_array()?;
    let of = |kind: &str| {
        let found = addresses.iter().find(|a| a.get("type").and_then(Value::as_str) == Some(kind))?;
        found.get("address")?.as_str().filter(|a| !a.is_empty())
    };
    let host = of("InternalIP").or_else(|| of("ExternalIP")).or_else(|| of("Hostname"))?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .filter(|p| *p > 0)
        .unwrap_or(DEFAULT_PORT);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The URL of a path on a kubelet.
pub(crate) fn url(authority: &str, path_and_query: &str) -> Result<Uri, Status> {
    Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query(path_and_query)
        .build()
        .map_err(|e| Status::bad_request(format!("the path cannot be passed on to the kubelet: {e}")))
}

/// The error for a kubelet that cannot be reached, with its whole chain, because the last link says why.
pub(crate) fn unreachable(authority: &str, error: &BoxError) -> Status {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Status::new(502, "InternalError", format!("error dialing the kubelet at {authority}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_internal_address_and_the_nodes_own_port_are_used() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 12345}},
        }});
        assert_eq!(address_of(&node).unwrap(), "127.0.0.1:12345");
        assert_eq!(
            address_of(&json!({"status": {"addresses": [{"type": "InternalIP", "address": "::1"}]}}))
                .unwrap(),
            "[::1]:10250"
        );
        assert_eq!(address_of(&json!({})), None);
    }
}

//! A guest's outgoing HTTP requests.
//!
//! Invariant: connections are kept for reuse within one container only, and only as long as the pod's rules are those
//! under which they were made.
use crate::dial::{Dialer, port_of};
use crate::executor::Owned;
use crate::limits::{FIRST_BYTE_TIMEOUT, MAX_IDLE_OUTGOING};
use crate::reach::Reach;
use crate::traces::Traces;
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use network_policy::Rules;
use parking_lot::Mutex;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock};
use telemetry::SpanContext;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

type HttpClient = Client<HttpsConnector<Dialer>, WasiBody>;

/// A container's way out.
pub(crate) struct Outbound {
    reach: Arc<Reach>,
    executor: Owned,
    /// Made by the first request, since most guests make none, and anew when the rules are others than those it was made
    /// under: what it keeps open could not be made any more.
    client: Mutex<Option<(Arc<Rules>, HttpClient)>>,
}

impl Outbound {
    pub(crate) fn new(reach: Arc<Reach>, executor: Owned) -> Arc<Self> {
        Arc::new(Self { reach, executor, client: Mutex::default() })
    }

    pub(crate) fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    fn client(&self) -> HttpClient {
        let rules = self.reach.network().rules.borrow().clone();
        let mut held = self.client.lock();
        match &*held {
            Some((under, client)) if Arc::ptr_eq(under, &rules) => client.clone(),
            _ => held.insert((rules, self.build())).1.clone(),
        }
    }

    fn build(&self) -> HttpClient {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(TLS.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(Dialer::new(self.reach.clone()));
        Client::builder(self.executor.clone())
            .pool_max_idle_per_host(MAX_IDLE_OUTGOING)
            .pool_timer(TokioTimer::new())
            .build(https)
    }

    async fn send(
        self: Arc<Self>,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<http::Response<WasiBody>, Error> {
        let host = request.uri().host().ok_or(Error::HttpRequestUriInvalid)?;
        // Asked here as well as by the connector, for a kept connection does not ask.
        if !self.reach.may_call(host, port_of(request.uri())) {
            return Err(Error::HttpRequestDenied);
        }
        let wait = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
        let response = tokio::time::timeout(wait, self.client().request(request))
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(explain)?;
        Ok(response.map(|body| body.map_err(Error::from).boxed_unsync()))
    }
}

fn explain(error: hyper_util::client::legacy::Error) -> Error {
    let mut cause = error.source();
    while let Some(at) = cause {
        if let Some(io) = at.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::PermissionDenied => Error::DestinationIpProhibited,
                io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => Error::ConnectionTerminated,
                io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    Error::DestinationUnavailable
                }
                io::ErrorKind::NotFound => Error::DnsError { rcode: Some(io.to_string()), info_code: None },
                kind => Error::Connect(io::Error::new(kind, io.to_string())),
            };
        }
        cause = at.source();
    }
    tracing::debug!(error = %error, "an outgoing request of a guest failed");
    if error.is_connect() { Error::ConnectionTerminated } else { Error::HttpProtocolError }
}

/// One for all containers: it holds certificates, no connections.
static TLS: LazyLock<rustls::ClientConfig> = LazyLock::new(|| {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system certificate could not be read");
    }
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            "no system certificates: guests cannot reach https (Debian: apt-get install ca-certificates)"
        );
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("the provider supports the default versions"))
        .with_root_certificates(roots)
        .with_no_client_auth()
});

/// What a store holds of it.
pub(crate) struct OutboundHooks {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) traces: Option<Arc<Traces>>,
    /// The request that is being served.
    pub(crate) serving: Option<SpanContext>,
}

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for OutboundHooks {
    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let traces = self.traces.as_ref();
        let span = traces.and_then(|traces| traces.send(self.serving.as_ref(), &mut request));
        let sending = self.outbound.clone().send(request, options.unwrap_or_default());
        Box::new(async move {
            let outcome = sending.await;
            if let Some(span) = span {
                span.over(&outcome);
            }
            let response = outcome?;
            // The client drives its connections itself; there is nothing left for the caller to drive.
            Ok((response, Box::new(std::future::ready(Ok(()))) as Box<_>))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::Ranges;
    use std::net::{IpAddr, Ipv4Addr};

    fn outbound(reachable_loopback: Vec<(Ipv4Addr, u8)>, hosts: Option<&str>) -> Arc<Outbound> {
        let ranges = Ranges { reachable_loopback, services: Vec::new() };
        let hosts = hosts.map(|list| list.parse().unwrap());
        let pod_ip = IpAddr::V4(Ipv4Addr::new(127, 42, 0, 9));
        let reach = Reach::new(pod_ip, ranges, shim::Network::default(), hosts, Arc::default());
        Outbound::new(Arc::new(reach), Owned { tasks: Default::default(), kill: Default::default() })
    }

    async fn get(outbound: &Arc<Outbound>, url: String) -> Result<http::Response<WasiBody>, Error> {
        let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = http::Request::get(url).body(body).unwrap();
        outbound.clone().send(request, RequestOptions::default()).await
    }

    #[tokio::test]
    async fn requests_reach_what_is_permitted_and_nothing_else_by_address_or_by_name() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.42.0.9:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, from) = listener.accept().await.unwrap();
            assert_eq!(from.ip(), IpAddr::V4(Ipv4Addr::new(127, 42, 0, 9)));
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let denied = outbound(Vec::new(), None);
        for host in ["127.0.0.2", "127.42.0.8", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
            let error = get(&denied, format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(matches!(error, Error::DestinationIpProhibited), "{host}: {error:?}");
        }
        let permitted = outbound(vec![(Ipv4Addr::new(127, 0, 0, 0), 8)], None);
        let response = get(&permitted, format!("http://localhost:{port}/path?q")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
        assert!(server.await.unwrap().starts_with("GET /path?q HTTP/1.1\r\n"));
        let error = get(&permitted, "http://name.invalid/".to_owned()).await.unwrap_err();
        assert!(matches!(error, Error::DnsError { .. }), "{error:?}");
        let listed = outbound(Vec::new(), Some("api.example.com"));
        let error = get(&listed, "http://example.com/".to_owned()).await.unwrap_err();
        assert!(matches!(error, Error::HttpRequestDenied), "{error:?}");
    }
}

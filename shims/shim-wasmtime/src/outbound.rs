//! What a guest may connect to, and its outgoing HTTP requests.
//!
//! Invariant: the address decides, after the name was resolved, so that no name can be made to point at the node's
//! own services or at a cloud's metadata service. Connections are kept for reuse within one container only.
use crate::dial::Dialer;
use crate::executor::Owned;
use crate::figures::Figures;
use crate::limits::{FIRST_BYTE_TIMEOUT, MAX_IDLE_OUTGOING};
use crate::sockets::plan_destination;
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock, OnceLock};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Metadata services that are not on a link-local address: AWS over IPv6, Alibaba, Oracle, Azure.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Which addresses guests may reach.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) pod_ip: IpAddr,
    pub(crate) reachable_loopback: Vec<(Ipv4Addr, u8)>,
}

impl Policy {
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address == self.pod_ip {
            return true;
        }
        if address.is_unspecified() || address.is_multicast() || METADATA.contains(&address) {
            return false;
        }
        match address {
            IpAddr::V4(v4) if v4.is_loopback() => {
                self.reachable_loopback.iter().any(|(network, bits)| contains(*network, *bits, v4))
            }
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        }
    }
}

fn contains(network: Ipv4Addr, bits: u8, address: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
    u32::from(network) & mask == u32::from(address) & mask
}

type HttpClient = Client<HttpsConnector<Dialer>, WasiBody>;

/// A container's way out.
pub(crate) struct Outbound {
    policy: Arc<Policy>,
    figures: Arc<Figures>,
    executor: Owned,
    /// Made by the first request: most guests make none.
    client: OnceLock<HttpClient>,
}

impl Outbound {
    pub(crate) fn new(policy: Policy, executor: Owned, figures: Arc<Figures>) -> Arc<Self> {
        Arc::new(Self { policy: Arc::new(policy), figures, executor, client: OnceLock::new() })
    }

    /// Whether the guest may connect there; a refusal is counted.
    pub(crate) fn may_reach(&self, address: IpAddr) -> bool {
        let permitted = self.policy.permits(address);
        if !permitted {
            self.figures.egress_denied();
        }
        permitted
    }

    /// A guest listens on its pod's address only. Port 0 of no address is what the system asks about before a
    /// socket that was never bound connects.
    pub(crate) fn may_bind(&self, address: SocketAddr) -> bool {
        address.ip().to_canonical() == self.policy.pod_ip
            || (address.ip().is_unspecified() && address.port() == 0)
    }

    /// Never on all addresses: those are the node's.
    pub(crate) fn may_listen(&self, address: SocketAddr) -> bool {
        address.ip().to_canonical() == self.policy.pod_ip
    }

    pub(crate) fn pod_ip(&self) -> IpAddr {
        self.policy.pod_ip
    }

    fn client(&self) -> &HttpClient {
        self.client.get_or_init(|| {
            let https = HttpsConnectorBuilder::new()
                .with_tls_config(TLS.clone())
                .https_or_http()
                .enable_http1()
                .wrap_connector(Dialer::new(self.policy.clone(), self.figures.clone()));
            Client::builder(self.executor.clone())
                .pool_max_idle_per_host(MAX_IDLE_OUTGOING)
                .pool_timer(TokioTimer::new())
                .build(https)
        })
    }

    async fn send(
        self: Arc<Self>,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<http::Response<WasiBody>, Error> {
        let host = request.uri().host().ok_or(Error::HttpRequestUriInvalid)?;
        // Said at once: the client would call it a failed connection.
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
            && !self.may_reach(plan_destination(self.policy.pod_ip, SocketAddr::new(address, 0)).ip())
        {
            return Err(Error::DestinationIpProhibited);
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
pub(crate) struct OutboundHooks(pub(crate) Arc<Outbound>);

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for OutboundHooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let sending = self.0.clone().send(request, options.unwrap_or_default());
        Box::new(async move {
            let response = sending.await?;
            // The client drives its connections itself; there is nothing left for the caller to drive.
            Ok((response, Box::new(std::future::ready(Ok(()))) as Box<_>))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            pod_ip: "127.42.0.9".parse().unwrap(),
            reachable_loopback: vec![(Ipv4Addr::new(127, 42, 0, 0), 16), (Ipv4Addr::new(127, 96, 0, 0), 16)],
        }
    }

    #[test]
    fn pods_services_and_the_world_are_reachable_the_node_and_metadata_are_not() {
        let permits = |address: &str| policy().permits(address.parse().unwrap());
        for address in
            ["127.42.3.4", "127.96.0.1", "10.1.2.3", "93.184.216.34", "2606:2800::1", "::ffff:10.0.0.1"]
        {
            assert!(permits(address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.43.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!permits(address), "{address}");
        }
    }

    fn outbound(reachable_loopback: Vec<(Ipv4Addr, u8)>) -> Arc<Outbound> {
        let policy = Policy { reachable_loopback, ..policy() };
        Outbound::new(policy, Owned { tasks: Default::default(), kill: Default::default() }, Arc::default())
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
            assert_eq!(from.ip(), policy().pod_ip);
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let denied = outbound(Vec::new());
        for host in ["127.0.0.2", "127.42.0.8", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
            let error = get(&denied, format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(matches!(error, Error::DestinationIpProhibited), "{host}: {error:?}");
        }
        assert_eq!(denied.figures.stats().egress_denials, 5);
        let permitted = outbound(vec![(Ipv4Addr::new(127, 0, 0, 0), 8)]);
        let response = get(&permitted, format!("http://localhost:{port}/path?q")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
        assert!(server.await.unwrap().starts_with("GET /path?q HTTP/1.1\r\n"));
        let error = get(&permitted, "http://name.invalid/".to_owned()).await.unwrap_err();
        assert!(matches!(error, Error::DnsError { .. }), "{error:?}");
    }
}

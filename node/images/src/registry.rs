//! Talking to registries: one client for each registry, or registry and credential, and errors in our own words.
//!
//! What reads is ours ([`crate::repository`]): oci-client takes answers into memory whole. It pushes.
use crate::{Credential, Error, Reference};
use oci_client::RegistryOperation;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError as OciError, OciErrorCode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is true of all registries for this node.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Registries (`host:port`) spoken to without TLS. Those of this machine are asked which they speak.
    pub plain_http: Vec<String>,
    /// Certificate authorities trusted beside the system's.
    pub extra_roots: Vec<RootCertificate>,
}

/// A certificate in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootCertificate(pub Vec<u8>);

/// No byte for this long means that a registry is gone (the kubelet's image-pull-progress-deadline is one minute).
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("dhow/", env!("CARGO_PKG_VERSION"));
/// Asking a registry of this machine whether it speaks plain HTTP.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients kept, with their tokens: more registries and credentials than a node commonly uses.
const CLIENTS: usize = 16;

/// All registries, as seen from this node.
#[derive(Clone)]
pub(crate) struct Registries {
    config: Arc<RegistryConfig>,
    clients: Arc<Mutex<Vec<(Key, Client)>>>,
    /// By registry.
    endpoints: Arc<Mutex<Vec<(String, Endpoint)>>>,
}

/// How a registry is reached for reading.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) http: reqwest::Client,
    /// `https` or `http`.
    pub(crate) scheme: &'static str,
}

/// A client remembers credentials by registry only: another credential must be another client.
type Key = (String, Credential);

impl Registries {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self { config: Arc::new(config), clients: Arc::default(), endpoints: Arc::default() }
    }

    /// A client that may push, having proved its credential as far as the registry asks for that.
    pub(crate) async fn client(
        &self,
        reference: &Reference,
        credential: &Credential,
    ) -> Result<Client, Error> {
        let key = (reference.registry().to_string(), credential.clone());
        let known = self.clients.lock().iter().find(|(k, _)| *k == key).map(|(_, client)| client.clone());
        let client = match known {
            Some(client) => client,
            None => {
                let client = self.build(reference).await?;
                let mut clients = self.clients.lock();
                if clients.len() >= CLIENTS {
                    clients.remove(0);
                }
                clients.push((key.clone(), client.clone()));
                client
            }
        };
        match client.auth(reference.oci(), &credential.oci(), RegistryOperation::Push).await {
            Ok(_) => Ok(client),
            Err(error) => {
                // Whatever the client believes about this registry (TLS or not, tokens) may be what is wrong.
                self.clients
                    .lock()
                    .retain(|((registry, held), _)| registry != reference.registry() || held != credential);
                Err(explain(error, reference, credential))
            }
        }
    }

    /// How to read from a registry.
    pub(crate) async fn endpoint(&self, reference: &Reference) -> Result<Endpoint, Error> {
        let registry = reference.registry();
        let known = self.endpoints.lock().iter().find(|(name, _)| name == registry).map(|(_, e)| e.clone());
        if let Some(endpoint) = known {
            return Ok(endpoint);
        }
        let scheme = if self.is_plain(reference).await { "http" } else { "https" };
        let tls = |e: reqwest::Error| Error::Tls { registry: registry.to_string(), reason: root_cause(&e) };
        let mut roots = Vec::with_capacity(self.config.extra_roots.len());
        for root in &self.config.extra_roots {
            roots.push(reqwest::Certificate::from_pem(&root.0).map_err(tls)?);
        }
        let mut http = reqwest::Client::builder()
            // Nor by a redirect, or to a token service that the registry names.
            .https_only(scheme == "https")
            .tls_certs_merge(roots)
            .read_timeout(READ_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(USER_AGENT);
        if reference.is_loopback() {
            // A proxy of the environment is not asked for addresses of this machine.
            http = http.no_proxy();
        }
        let endpoint = Endpoint { http: http.build().map_err(tls)?, scheme };
        let mut endpoints = self.endpoints.lock();
        if endpoints.len() >= CLIENTS {
            endpoints.remove(0);
        }
        endpoints.push((registry.to_string(), endpoint.clone()));
        Ok(endpoint)
    }

    /// Drops what is remembered about how to reach a registry: TLS or not may be what is wrong.
    pub(crate) fn forget(&self, reference: &Reference) {
        self.endpoints.lock().retain(|(registry, _)| registry != reference.registry());
    }

    async fn is_plain(&self, reference: &Reference) -> bool {
        let registry = reference.registry();
        self.config.plain_http.iter().any(|host| host == registry)
            || (reference.is_loopback() && speaks_plain_http(registry).await)
    }

    async fn build(&self, reference: &Reference) -> Result<Client, Error> {
        let registry = reference.registry();
        let loopback = reference.is_loopback();
        let plain = self.is_plain(reference).await;
        let roots = self.config.extra_roots.iter();
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: roots
                .map(|root| Certificate { encoding: CertificateEncoding::Pem, data: root.0.clone() })
                .collect(),
            use_monolithic_push: true,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: USER_AGENT,
            // A proxy of the environment is not asked for addresses of this machine.
            http_proxy: loopback.then(|| "http://127.0.0.1:9".to_string()),
            https_proxy: loopback.then(|| "http://127.0.0.1:9".to_string()),
            no_proxy: loopback.then(|| "127.0.0.0/8,localhost,.localhost".to_string()),
            ..ClientConfig::default()
        };
        Client::try_from(config)
            .map_err(|e| Error::Tls { registry: registry.to_string(), reason: root_cause(&e) })
    }
}

/// Asks a registry of this machine. A TLS server answers a plain request with 400, an alert, or nothing.
async fn speaks_plain_http(registry: &str) -> bool {
    let address = if registry.contains(':') { registry.to_string() } else { format!("{registry}:80") };
    let ask = async {
        let mut socket = tokio::net::TcpStream::connect(&address).await?;
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {registry}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head)
    };
    match tokio::time::timeout(PROBE_TIMEOUT, ask).await {
        Ok(Ok(head)) => head.starts_with(b"HTTP/1.") && &head[9..] != b"400",
        // Nobody there at all: plain, so that the error is the connection's and not TLS's.
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

/// The innermost cause: what a person can act on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Puts a client's error into our words.
pub(crate) fn explain(error: OciError, reference: &Reference, credential: &Credential) -> Error {
    let registry = reference.registry().to_string();
    let not_found = || Error::NotFound { reference: reference.to_string() };
    let unauthorized = || Error::Unauthorized {
        registry: reference.registry().to_string(),
        reference: reference.to_string(),
        anonymous: credential.is_anonymous(),
    };
    match error {
        OciError::UnauthorizedError { .. } | OciError::AuthenticationFailure(_) => unauthorized(),
        OciError::ImageManifestNotFoundError(_) => not_found(),
        OciError::ServerError { code: 401 | 403, .. } => unauthorized(),
        OciError::ServerError { code: 404, .. } => not_found(),
        OciError::ServerError { code, message, .. } => {
            let message: String = message.trim().chars().take(200).collect();
            Error::Registry {
                registry,
                reason: format!("it answered {code} {message}").trim_end().to_string(),
            }
        }
        OciError::RegistryError { envelope, .. } => match envelope.errors.first() {
            Some(first) => match &first.code {
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::BlobUnknown
                | OciErrorCode::ManifestBlobUnknown => not_found(),
                OciErrorCode::Unauthorized | OciErrorCode::Denied => unauthorized(),
                code => Error::Registry { registry, reason: format!("{code:?}: {}", first.message) },
            },
            None => Error::Registry { registry, reason: "it answered with an error without text".into() },
        },
        OciError::DigestError(DigestError::VerificationError { expected, actual }) => {
            Error::DigestMismatch { what: format!("the manifest of {reference}"), expected, actual }
        }
        OciError::RequestError(e) if e.status().is_some() => {
            match e.status().map_or(0, |status| status.as_u16()) {
                401 | 403 => unauthorized(),
                404 => not_found(),
                code => Error::Registry { registry, reason: format!("it answered {code}") },
            }
        }
        OciError::RequestError(e) if e.is_connect() || e.is_timeout() || e.is_request() => {
            let reason =
                if e.is_timeout() { "it did not answer in time".to_string() } else { root_cause(&e) };
            Error::Unreachable { registry, reason }
        }
        OciError::RequestError(e) => Error::Unreachable { registry, reason: root_cause(&e) },
        other => Error::Registry { registry, reason: other.to_string() },
    }
}

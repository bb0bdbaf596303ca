//! Names of attributes: OpenTelemetry's semantic conventions (1.37) where they have one, `dhow.` where not.

pub const CLIENT_ADDRESS: &str = "client.address";
pub const ERROR_TYPE: &str = "error.type";
pub const COLD_START: &str = "faas.coldstart";
pub const HTTP_METHOD: &str = "http.request.method";
pub const HTTP_METHOD_ORIGINAL: &str = "http.request.method_original";
pub const HTTP_STATUS: &str = "http.response.status_code";
pub const CONTAINER: &str = "k8s.container.name";
pub const NAMESPACE: &str = "k8s.namespace.name";
pub const POD: &str = "k8s.pod.name";
pub const SERVICE: &str = "k8s.service.name";
pub const INGRESS: &str = "k8s.ingress.name";
pub const PEER_ADDRESS: &str = "network.peer.address";
pub const PEER_PORT: &str = "network.peer.port";
pub const PROTOCOL_VERSION: &str = "network.protocol.version";
pub const SERVER_ADDRESS: &str = "server.address";
pub const SERVER_PORT: &str = "server.port";
pub const URL_FULL: &str = "url.full";
pub const URL_PATH: &str = "url.path";
pub const URL_SCHEME: &str = "url.scheme";
/// The Function that a request is for.
pub const FUNCTION: &str = "dhow.function.name";
/// The revision of it that serves the request.
pub const REVISION: &str = "dhow.function.revision";
/// Where the gateway sent the request: address and port.
pub const BACKEND: &str = "dhow.backend.address";

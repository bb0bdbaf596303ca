//! Which addresses stand behind a port of a Service: read from EndpointSlices, alike by everyone who sends there.
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// EndpointSlices by the Service they belong to.
pub struct ServiceEndpoints<'a>(HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>);

impl<'a> ServiceEndpoints<'a> {
    pub fn of(slices: &'a [Arc<EndpointSlice>]) -> Self {
        let mut by_service: HashMap<_, Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let (Some(namespace), Some(service)) = (slice.metadata.namespace.as_deref(), service) {
                by_service.entry((namespace, service.as_str())).or_default().push(slice);
            }
        }
        Self(by_service)
    }

    /// Where connections to the port called `port` go: in order, each once. Ready endpoints; when none is ready,
    /// serving ones that are terminating (KEP-1669), so that the last pod of a rollout still answers.
    pub fn addresses(&self, namespace: &str, service: &str, port: &str) -> Vec<SocketAddr> {
        let (mut ready, mut terminating) = (Vec::new(), Vec::new());
        for slice in self.0.get(&(namespace, service)).into_iter().flatten() {
            let number = slice
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref().unwrap_or_default() == port)
                .and_then(|p| p.port)
                .and_then(|p| u16::try_from(p).ok());
            let Some(number) = number else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.as_ref();
                let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let is_serving = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
                let is_terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
                let list = match (is_ready, is_serving && is_terminating) {
                    (true, _) => &mut ready,
                    (false, true) => &mut terminating,
                    (false, false) => continue,
                };
                let ip = endpoint.addresses.first().and_then(|a| a.parse().ok());
                list.extend(ip.map(|ip| SocketAddr::new(ip, number)));
            }
        }
        let mut chosen = if ready.is_empty() { terminating } else { ready };
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

//! Where a trigger's calls go.
use crate::function::PORT_NAME;
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{Informer, ObjectKey, ServiceEndpoints};
use machinery::ambient::Ambient;
use std::net::SocketAddr;

/// Pods of the revision with the largest share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Of ready pods, beginning with any of them; empty if there is none.
    pub(super) addresses: Vec<SocketAddr>,
    /// `<service>.<namespace>.svc`, for the Host header.
    pub(super) host: String,
}

/// Where the function is called now.
pub(super) fn of(
    slices: &Informer<EndpointSlice>,
    ambient: &Ambient,
    key: &ObjectKey,
    function: &Function,
) -> Place {
    let traffic = function.status.as_ref().map(|s| s.traffic.as_slice()).unwrap_or_default();
    let primary = traffic.iter().filter(|t| t.headers.is_empty()).max_by_key(|t| t.percent);
    let service = primary.map_or(key.name.as_str(), |t| t.service.as_str());
    // Slices are named after their Service; those of another whose name begins alike are passed over.
    let slices = slices.list_with_prefix(&key.namespace, &format!("{service}-"));
    let mut addresses = ServiceEndpoints::of(&slices).addresses(&key.namespace, service, PORT_NAME);
    if !addresses.is_empty() {
        let random = usize::try_from(ambient.random() >> 1).unwrap_or(0);
        let first = random % addresses.len();
        addresses.rotate_left(first);
    }
    Place { addresses, host: format!("{service}.{}.svc", key.namespace) }
}

//! The routes of Ingresses, as their documentation describes them.
use super::services::{Port, Services};
use super::{PathKind, RouteTable, may_claim, normal_host};
use crate::backends::{Owner, Route};
use client::k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use std::sync::Arc;

/// Adds all Ingresses; of two that claim a host and path, the older keeps it.
pub(super) fn add(table: &mut RouteTable, ingresses: &[Arc<Ingress>], services: &mut Services<'_>) {
    let mut ingresses: Vec<_> = ingresses.iter().collect();
    ingresses.sort_by_key(|i| {
        (i.metadata.creation_timestamp.as_ref().map(|t| t.0), &i.metadata.namespace, &i.metadata.name)
    });
    for ingress in ingresses {
        let (Some(namespace), Some(name), Some(spec)) =
            (ingress.metadata.namespace.as_deref(), ingress.metadata.name.as_deref(), ingress.spec.as_ref())
        else {
            continue;
        };
        let mut to = |backend: &IngressBackend| route(namespace, name, backend, services);
        let fallback = spec.default_backend.as_ref().map(&mut to);
        if let Some(route) = &fallback {
            table.add("", "", PathKind::Fallback, route);
        }
        for rule in spec.rules.iter().flatten() {
            let host = normal_host(rule.host.as_deref().unwrap_or("")).into_owned();
            if !may_claim(namespace, &host) {
                continue;
            }
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let route = to(&path.backend);
                let text = path.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
                let kind = match path.path_type.as_str() {
                    "Exact" => PathKind::Exact,
                    // ImplementationSpecific is Prefix here.
                    _ => PathKind::Prefix,
                };
                table.add(&host, text, kind, &route);
            }
            if let (Some(route), false) = (&fallback, host.is_empty()) {
                table.add(&host, "", PathKind::Fallback, route);
            }
        }
    }
}

/// A backend that is no Service, or names one that is not there, makes a route that leads nowhere: the request is not
/// another route's.
fn route(namespace: &str, name: &str, backend: &IngressBackend, services: &mut Services<'_>) -> Arc<Route> {
    let owner = Owner { kind: "ingress", namespace: namespace.to_owned(), name: name.to_owned() };
    let backends = backend.service.as_ref().and_then(|service| {
        let port = service.port.as_ref();
        let port = match (port.and_then(|p| p.name.as_deref()), port.and_then(|p| p.number)) {
            (Some(name), _) if !name.is_empty() => Port::Name(name),
            (_, Some(number)) => Port::Number(number),
            _ => Port::First,
        };
        services.backends(namespace, &service.name, port)
    });
    services.route(owner, backends)
}

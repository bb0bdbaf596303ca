//! The routes of Functions: their hosts and paths, and who of their revisions gets what.
use super::services::{Port, Services};
use super::{PathKind, RouteTable, may_claim};
use crate::backends::{Backends, HeaderRule, Owner, Route};
use crate::split::Split;
use client::dhow::v1alpha1::Function;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Duration;

/// What a request to a function may take when `spec.timeoutSeconds` says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Adds all functions; of two that claim a host, the older keeps it.
pub(super) fn add(table: &mut RouteTable, functions: &[Arc<Function>], services: &mut Services<'_>) {
    let mut functions: Vec<_> = functions.iter().collect();
    functions.sort_by_key(|f| {
        (f.metadata.creation_timestamp.as_ref().map(|t| t.0), &f.metadata.namespace, &f.metadata.name)
    });
    for function in functions {
        let (Some(namespace), Some(name)) =
            (function.metadata.namespace.as_deref(), function.metadata.name.as_deref())
        else {
            continue;
        };
        let route = Arc::new(route(function, namespace, name, services));
        let mut hosts = vec![format!("{name}.{namespace}.localhost")];
        if namespace == "default" {
            hosts.push(format!("{name}.localhost"));
        }
        let own = function.spec.hosts.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase());
        hosts.extend(own.filter(|host| may_claim(namespace, host) && !host.ends_with(".localhost")));
        let all = [String::from("/")];
        let paths = if function.spec.paths.is_empty() { &all[..] } else { &function.spec.paths };
        for host in &hosts {
            for path in paths {
                table.add(host, path, PathKind::Prefix, &route);
            }
        }
    }
}

fn route(function: &Function, namespace: &str, name: &str, services: &mut Services<'_>) -> Route {
    let owner = Owner { kind: "function", namespace: namespace.to_owned(), name: name.to_owned() };
    let memory = services.memory(owner.to_string());
    let seconds = function.spec.timeout_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let mut rules = Vec::new();
    let mut shares: Vec<(u32, Arc<Backends>)> = Vec::new();
    let traffic = function.status.iter().flat_map(|status| &status.traffic);
    for entry in traffic {
        let Some(backends) = services.backends(namespace, &entry.service, Port::First) else { continue };
        // A revision whose pods went away just now leaves its share to the others.
        if backends.addresses.is_empty() {
            continue;
        }
        if entry.headers.is_empty() {
            shares.push((u32::try_from(entry.percent).unwrap_or(0).min(100), backends));
            continue;
        }
        let headers: Option<Vec<_>> = entry
            .headers
            .iter()
            .map(|(name, value)| {
                Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
            })
            .collect();
        // A header that cannot be in any request is in none.
        if let Some(headers) = headers {
            rules.push(HeaderRule { headers, backends });
        }
    }
    if shares.is_empty() {
        // No revision is known yet: the Service of the function's own name.
        shares.extend(services.backends(namespace, name, Port::First).map(|backends| (100, backends)));
    }
    let (weights, members): (Vec<u32>, Vec<_>) = shares.into_iter().unzip();
    Route {
        owner,
        timeout: Some(seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs)),
        rules,
        members,
        split: Split::new(&weights),
        memory,
    }
}

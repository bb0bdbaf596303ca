//! Which host and path lead where: the decision, without the doing.
//!
//! ```text
//!   host ──► its exact name ──► `*.` and the rest after one label ──► rules without a host ──► default backends
//!               │  the first of these that has a path for the request
//!               └─► longest path first; of two equally long ones, Exact before Prefix; then who is older
//! ```
mod functions;
mod ingresses;
mod services;
#[cfg(test)]
mod tests;

use crate::backends::{Memory, Route};
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::api::networking::v1::Ingress;
use services::Services;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the API server says.
pub struct World<'a> {
    pub functions: &'a [Arc<Function>],
    pub services: &'a [Arc<Service>],
    pub slices: &'a [Arc<EndpointSlice>],
    /// Those that are this gateway's.
    pub ingresses: &'a [Arc<Ingress>],
}

/// How a path is compared with a request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathKind {
    /// Comes last, whatever it holds: a default backend.
    Fallback,
    Prefix,
    Exact,
}

#[derive(Debug)]
struct Path {
    path: String,
    kind: PathKind,
    route: Arc<Route>,
}

impl Path {
    /// Whether this is the path, or lies above it segment by segment: `/a` holds `/a` and `/a/b` but not `/ab`.
    fn matches(&self, path: &str) -> bool {
        match self.kind {
            PathKind::Fallback => true,
            PathKind::Exact => path == self.path,
            PathKind::Prefix => path
                .strip_prefix(self.path.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// All routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<String, Vec<Path>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Vec<Path>>,
    /// For requests whatever their host.
    anywhere: Vec<Path>,
    /// What outlives this table, by whose it is.
    memory: HashMap<String, Arc<Memory>>,
    addresses: Vec<SocketAddr>,
}

/// A host in the form the table holds: lower case, without a port, without a dot at its end.
pub fn normal_host(host: &str) -> Cow<'_, str> {
    let host = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(host, _)| host);
    let host = host.trim_end_matches('.');
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

impl RouteTable {
    /// The route for a request's host (with or without a port, in any case) and path (a query is no part of it).
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let host = normal_host(host);
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let among =
            |paths: Option<&'_ Vec<Path>>| -> Option<usize> { paths?.iter().position(|p| p.matches(path)) };
        let exact = self.hosts.get(&*host);
        if let (Some(paths), Some(n)) = (exact, among(exact)) {
            return Some(&paths[n].route);
        }
        let wild = host.split_once('.').and_then(|(_, rest)| self.wildcards.get(rest));
        if let (Some(paths), Some(n)) = (wild, among(wild)) {
            return Some(&paths[n].route);
        }
        self.anywhere.iter().find(|p| p.matches(path)).map(|p| &p.route)
    }

    /// Whether a route names this host, itself or by a wildcard.
    pub fn names(&self, host: &str) -> bool {
        let host = normal_host(host);
        let wild = || host.split_once('.').is_some_and(|(_, rest)| self.wildcards.contains_key(rest));
        self.hosts.contains_key(&*host) || wild()
    }

    /// Every address a request may be sent to, in order, each once.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Every route, each once.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        let paths = self.hosts.values().chain(self.wildcards.values()).chain([&self.anywhere]);
        let mut all: Vec<_> = paths.flatten().map(|p| p.route.clone()).collect();
        all.sort_by_key(|route| Arc::as_ptr(route) as usize);
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        all
    }

    /// Adds a path; the first owner of a host and path keeps it. `host` is empty for every host, and may begin with
    /// `*.`.
    fn add(&mut self, host: &str, path: &str, kind: PathKind, route: &Arc<Route>) {
        let paths = match host.strip_prefix("*.") {
            Some(rest) => self.wildcards.entry(rest.to_owned()).or_default(),
            None if host.is_empty() => &mut self.anywhere,
            None => self.hosts.entry(host.to_owned()).or_default(),
        };
        if !paths.iter().any(|p| p.path == path && p.kind == kind) {
            paths.push(Path { path: path.to_owned(), kind, route: route.clone() });
        }
    }

    fn finish(&mut self) {
        let all = self.hosts.values_mut().chain(self.wildcards.values_mut()).chain([&mut self.anywhere]);
        for paths in all {
            paths.sort_by_key(|p| {
                std::cmp::Reverse((p.kind != PathKind::Fallback, p.path.trim_end_matches('/').len(), p.kind))
            });
        }
        let routes = self.routes();
        self.addresses =
            routes.iter().flat_map(|r| r.members()).flat_map(|b| b.addresses.iter().copied()).collect();
        self.addresses.sort_unstable();
        self.addresses.dedup();
    }
}

/// Whether `namespace` may route `host`. Names below `localhost` are given out by namespace and name
/// (`NAME.NAMESPACE.localhost`, in `default` also `NAME.localhost`): nobody may claim another's.
pub(crate) fn may_claim(namespace: &str, host: &str) -> bool {
    if host == "localhost" {
        return false;
    }
    let Some(below) = host.strip_suffix(".localhost") else { return true };
    match below.split_once('.') {
        None => namespace == "default",
        Some((name, rest)) => !name.is_empty() && rest == namespace,
    }
}

/// The table for everything that the API server holds. What `previous` counted goes on.
pub fn routes(world: &World<'_>, previous: &RouteTable) -> RouteTable {
    let mut services = Services::new(world, previous);
    let mut table = RouteTable::default();
    functions::add(&mut table, world.functions, &mut services);
    services.add_own_hosts(&mut table);
    ingresses::add(&mut table, world.ingresses, &mut services);
    table.memory = services.into_memory();
    table.finish();
    table
}

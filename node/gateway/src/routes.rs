//! Which host and path lead where: the decision, without the doing.
use client::ServiceEndpoints;
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where requests of one route go.
#[derive(Debug, Default)]
pub struct Backends {
    /// `function default/hello`, for messages.
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    next: AtomicUsize,
}

impl Backends {
    /// All addresses, beginning with the one whose turn it is.
    pub fn in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..self.addresses.len()).map(move |n| self.addresses[first.wrapping_add(n) % self.addresses.len()])
    }
}

/// A path prefix and where it leads; the longest prefix of a host comes first.
#[derive(Debug)]
struct Path {
    prefix: String,
    backends: Arc<Backends>,
}

/// All routes, by host.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<String, Vec<Path>>,
}

/// Whether `path` lies below `prefix`, segment by segment: `/a` holds `/a` and `/a/b` but not `/ab` (as Ingress'
/// pathType Prefix).
fn below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with('?'))
}

impl RouteTable {
    /// The backends for a request's host (with or without a port, in any case) and path. `None` when no route has
    /// this host and path.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Backends>> {
        let host = host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(h, _)| h);
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.get(&host)?.iter().find(|p| below(path, &p.prefix)).map(|p| &p.backends)
    }

    fn add(&mut self, host: String, prefixes: &[String], backends: &Arc<Backends>) {
        let paths = self.hosts.entry(host).or_default();
        let all = [String::from("/")];
        for prefix in if prefixes.is_empty() { &all[..] } else { prefixes } {
            // The first owner of a host and path keeps it; owners come oldest first.
            if !paths.iter().any(|p| p.prefix == *prefix) {
                paths.push(Path { prefix: prefix.clone(), backends: backends.clone() });
            }
        }
        paths.sort_by_key(|p| std::cmp::Reverse(p.prefix.len()));
    }
}

/// The table for everything that the API server holds.
pub fn routes(
    functions: &[Arc<Function>],
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
) -> RouteTable {
    let endpoints = ServiceEndpoints::of(slices);
    // By name: a look through all services for each function would take a second with ten thousand of both.
    let mut first_ports: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for service in services {
        if let (Some(namespace), Some(name), Some(port)) =
            (service.metadata.namespace.as_deref(), service.metadata.name.as_deref(), first_port(service))
        {
            first_ports.insert((namespace, name), port);
        }
    }
    let backends = |kind: &str, namespace: &str, name: &str, port: &str| {
        Arc::new(Backends {
            name: format!("{kind} {namespace}/{name}"),
            addresses: endpoints.addresses(namespace, name, port),
            next: AtomicUsize::new(0),
        })
    };
    let mut table = RouteTable::default();
    let mut functions: Vec<_> = functions.iter().collect();
    functions.sort_by_key(|f| {
        (
            f.metadata.creation_timestamp.as_ref().map(|t| t.0),
            f.metadata.namespace.clone(),
            f.metadata.name.clone(),
        )
    });
    for function in functions {
        let (Some(namespace), Some(name)) =
            (function.metadata.namespace.as_deref(), function.metadata.name.as_deref())
        else {
            continue;
        };
        // A function's Service has one port, whatever its name.
        let port = first_ports.get(&(namespace, name)).map_or("", String::as_str);
        let backends = backends("function", namespace, name, port);
        table.add(format!("{name}.{namespace}.localhost"), &function.spec.paths, &backends);
        if namespace == "default" {
            table.add(format!("{name}.localhost"), &function.spec.paths, &backends);
        }
        for host in &function.spec.hosts {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            // Names below localhost are given out by namespace and name: nobody may claim another's.
            if host != "localhost" && !host.ends_with(".localhost") {
                table.add(host, &function.spec.paths, &backends);
            }
        }
    }
    for ((namespace, name), port) in &first_ports {
        table.add(
            format!("{name}.{namespace}.svc.localhost"),
            &[],
            &backends("service", namespace, name, port),
        );
    }
    table
}

/// The name of a Service's first TCP port (`""` when it has none).
fn first_port(service: &Service) -> Option<String> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")?;
    Some(port.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    fn function(namespace: &str, name: &str, created: &str, spec: Value) -> Arc<Function> {
        parse(
            json!({ "metadata": { "name": name, "namespace": namespace, "creationTimestamp": created }, "spec": spec }),
        )
    }

    fn service(namespace: &str, name: &str) -> Arc<Service> {
        parse(json!({ "metadata": { "name": name, "namespace": namespace },
            "spec": { "ports": [{ "name": "http", "port": 80 }] } }))
    }

    fn slice(namespace: &str, name: &str, address: &str) -> Arc<EndpointSlice> {
        parse(json!({ "metadata": { "name": name, "namespace": namespace,
            "labels": { "kubernetes.io/service-name": name } }, "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } },
                          { "addresses": ["127.42.9.9"], "conditions": { "ready": false } }] }))
    }

    fn at(table: &RouteTable, host: &str, path: &str) -> Option<String> {
        table.find(host, path).map(|b| b.name.clone())
    }

    #[test]
    fn functions_answer_under_their_names_their_hosts_and_only_their_paths() {
        let table = routes(
            &[
                function("default", "hello", "2026-01-01T00:00:00Z", json!({})),
                function(
                    "team",
                    "shop",
                    "2026-01-02T00:00:00Z",
                    json!({ "hosts": ["Shop.example"], "paths": ["/cart"] }),
                ),
            ],
            &[service("default", "hello")],
            &[slice("default", "hello", "127.42.0.1")],
        );
        let found = table.find("Hello.localhost:8080", "/any?x=1").expect("a route");
        assert_eq!(found.addresses, ["127.42.0.1:8080".parse().expect("an address")]);
        assert_eq!(at(&table, "hello.default.localhost", "/").as_deref(), Some("function default/hello"));
        assert_eq!(at(&table, "shop.localhost", "/"), None, "short names are for namespace default");
        for (path, hit) in
            [("/cart", true), ("/cart/1", true), ("/cart?id=1", true), ("/cartoon", false), ("/", false)]
        {
            assert_eq!(at(&table, "shop.example", path).is_some(), hit, "{path}");
        }
        assert_eq!(at(&table, "hello.default.svc.localhost", "/").as_deref(), Some("service default/hello"));
        assert_eq!(at(&table, "elsewhere", "/"), None);
    }

    #[test]
    fn the_oldest_function_keeps_a_host_and_the_longest_path_wins() {
        let table = routes(
            &[
                function(
                    "b",
                    "young",
                    "2026-01-02T00:00:00Z",
                    json!({ "hosts": ["x.example"], "paths": ["/", "/api/v2"] }),
                ),
                function(
                    "a",
                    "old",
                    "2026-01-01T00:00:00Z",
                    json!({ "hosts": ["x.example"], "paths": ["/"] }),
                ),
            ],
            &[],
            &[],
        );
        assert_eq!(at(&table, "x.example", "/").as_deref(), Some("function a/old"));
        assert_eq!(at(&table, "x.example", "/api/v2/y").as_deref(), Some("function b/young"));
    }

    #[test]
    fn nobody_may_claim_the_name_of_another_namespace() {
        let thief = function(
            "evil",
            "f",
            "2026-01-01T00:00:00Z",
            json!({ "hosts": ["hello.default.localhost", "LOCALHOST."] }),
        );
        let table = routes(&[thief], &[], &[]);
        assert_eq!(at(&table, "hello.default.localhost", "/"), None);
        assert_eq!(at(&table, "localhost", "/"), None);
        assert_eq!(at(&table, "f.evil.localhost", "/").as_deref(), Some("function evil/f"));
    }

    #[test]
    fn requests_go_round() {
        let addresses: Vec<SocketAddr> =
            ["127.0.0.1:1", "127.0.0.1:2"].iter().map(|a| a.parse().expect("an address")).collect();
        let backends = Backends {
            name: String::new(),
            addresses: addresses.clone(),
            next: AtomicUsize::new(usize::MAX),
        };
        assert_eq!(backends.in_turn().count(), 2);
        assert_eq!(backends.in_turn().next(), Some(addresses[0]));
        assert_eq!(backends.in_turn().next(), Some(addresses[1]));
    }
}

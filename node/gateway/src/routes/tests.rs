use super::*;
use http::HeaderMap;
use serde_json::{Value, json};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

fn meta(namespace: &str, name: &str, day: u32) -> Value {
    json!({ "name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z") })
}

fn function(namespace: &str, name: &str, day: u32, spec: Value) -> Arc<Function> {
    parse(json!({ "metadata": meta(namespace, name, day), "spec": spec }))
}

fn serving(name: &str, traffic: Value) -> Arc<Function> {
    parse(
        json!({ "metadata": meta("default", name, 1), "spec": {}, "status": { "replicas": 1, "readyReplicas": 1, "traffic": traffic } }),
    )
}

fn service(namespace: &str, name: &str) -> Arc<Service> {
    parse(json!({ "metadata": meta(namespace, name, 1), "spec": { "ports": [
        { "name": "http", "port": 80 }, { "name": "grpc", "port": 50, "appProtocol": "kubernetes.io/h2c" } ] } }))
}

fn slice(namespace: &str, name: &str, address: &str) -> Arc<EndpointSlice> {
    parse(json!({ "metadata": { "name": name, "namespace": namespace,
        "labels": { "kubernetes.io/service-name": name } }, "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }, { "name": "grpc", "port": 5000 }],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } },
                      { "addresses": ["127.42.9.9"], "conditions": { "ready": false } }] }))
}

fn ingress(namespace: &str, name: &str, day: u32, spec: Value) -> Arc<Ingress> {
    parse(json!({ "metadata": meta(namespace, name, day), "spec": spec }))
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<_> = paths
        .iter()
        .map(|(path, kind, service)| {
            json!({ "path": path, "pathType": kind,
            "backend": { "service": { "name": service, "port": { "number": 80 } } } })
        })
        .collect();
    json!({ "host": host, "http": { "paths": paths } })
}

fn of_functions(functions: &[Arc<Function>]) -> RouteTable {
    let world = World { functions, services: &[], slices: &[], ingresses: &[] };
    routes(&world, &RouteTable::default())
}

/// A table of Ingresses before services `a`, `b` and `c`, whose addresses are 127.0.0.1, .2 and .3.
fn of_ingresses(ingresses: &[Arc<Ingress>]) -> RouteTable {
    let services = ["a", "b", "c"].map(|n| service("default", n));
    let slices = ["a", "b", "c"].iter().zip(1..).map(|(n, i)| slice("default", n, &format!("127.0.0.{i}")));
    let slices: Vec<_> = slices.collect();
    let world = World { functions: &[], services: &services, slices: &slices, ingresses };
    routes(&world, &RouteTable::default())
}

fn at(table: &RouteTable, host: &str, path: &str) -> Option<String> {
    table.find(host, path).map(|route| route.owner.to_string())
}

/// The address that a request without headers goes to; empty for a route that leads nowhere.
fn sent(table: &RouteTable, host: &str, path: &str) -> Option<String> {
    let route = table.find(host, path)?;
    let backends = route.choose(&HeaderMap::new());
    Some(backends.and_then(|b| b.addresses.first()).map(ToString::to_string).unwrap_or_default())
}

#[test]
fn functions_answer_under_their_names_their_hosts_and_only_their_paths() {
    let functions = [
        function("default", "hello", 1, json!({ "timeoutSeconds": 3 })),
        function("team", "shop", 2, json!({ "hosts": ["Shop.example"], "paths": ["/cart"] })),
    ];
    let world = World {
        functions: &functions,
        services: &[service("default", "hello")],
        slices: &[slice("default", "hello", "127.42.0.1")],
        ingresses: &[],
    };
    let table = routes(&world, &RouteTable::default());
    assert_eq!(sent(&table, "Hello.localhost:8080", "/any?x=1").as_deref(), Some("127.42.0.1:8080"));
    assert_eq!(table.find("hello.localhost", "/").expect("a route").timeout.expect("one").as_secs(), 3);
    assert_eq!(
        table.find("shop.team.localhost", "/cart").expect("a route").timeout.expect("one").as_secs(),
        30
    );
    assert_eq!(at(&table, "hello.default.localhost", "/").as_deref(), Some("function default/hello"));
    assert_eq!(at(&table, "shop.localhost", "/"), None, "short names are for namespace default");
    for (path, hit) in
        [("/cart", true), ("/cart/1", true), ("/cart?id=1", true), ("/cartoon", false), ("/", false)]
    {
        assert_eq!(at(&table, "shop.example", path).is_some(), hit, "{path}");
    }
    assert_eq!(at(&table, "hello.default.svc.localhost", "/").as_deref(), Some("service default/hello"));
    assert_eq!(at(&table, "elsewhere", "/"), None);
    assert_eq!(table.addresses(), ["127.42.0.1:8080".parse().expect("an address")]);
}

#[test]
fn the_oldest_function_keeps_a_host_and_the_longest_path_wins() {
    let table = of_functions(&[
        function("b", "young", 2, json!({ "hosts": ["x.example"], "paths": ["/", "/api/v2"] })),
        function("a", "old", 1, json!({ "hosts": ["x.example"], "paths": ["/"] })),
    ]);
    assert_eq!(at(&table, "x.example", "/").as_deref(), Some("function a/old"));
    assert_eq!(at(&table, "x.example", "/api/v2/y").as_deref(), Some("function b/young"));
}

#[test]
fn a_wildcard_stands_for_one_label_and_comes_after_the_exact_name() {
    let table = of_functions(&[
        function("a", "all", 1, json!({ "hosts": ["*.shop.example"] })),
        function("a", "one", 2, json!({ "hosts": ["eu.shop.example"], "paths": ["/x"] })),
    ]);
    assert_eq!(at(&table, "us.shop.example", "/").as_deref(), Some("function a/all"));
    assert_eq!(at(&table, "eu.shop.example", "/x").as_deref(), Some("function a/one"));
    assert_eq!(at(&table, "eu.shop.example", "/y").as_deref(), Some("function a/all"));
    assert_eq!(at(&table, "shop.example", "/"), None);
    assert_eq!(at(&table, "a.eu.shop.example", "/"), None);
}

#[test]
fn nobody_may_claim_the_name_of_another_namespace() {
    let thief = function(
        "evil",
        "f",
        1,
        json!({ "hosts": ["hello.default.localhost", "LOCALHOST.", "hello.localhost"] }),
    );
    let table = of_functions(&[thief]);
    assert_eq!(at(&table, "hello.default.localhost", "/"), None);
    assert_eq!(at(&table, "hello.localhost", "/"), None);
    assert_eq!(at(&table, "localhost", "/"), None);
    assert_eq!(at(&table, "f.evil.localhost", "/").as_deref(), Some("function evil/f"));
    for (namespace, host, may) in [
        ("evil", "web.localhost", false),
        ("evil", "web.evil.localhost", true),
        ("evil", "web.evil.svc.localhost", false),
        ("default", "web.localhost", true),
        ("default", "*.localhost", true),
        ("default", "web.evil.localhost", false),
        ("svc", "a.b.svc.localhost", false),
        ("evil", "web.example", true),
    ] {
        assert_eq!(may_claim(namespace, host), may, "{namespace} {host}");
    }
}

#[test]
fn a_split_is_exact_and_revisions_without_a_pod_leave_their_share() {
    let two = json!([{ "revision": "f-r1", "percent": 90, "service": "f-r1" }, { "revision": "f-r2", "percent": 10, "service": "f-r2" }]);
    let services = ["f", "f-r1", "f-r2"].map(|n| service("default", n));
    let mut slices = vec![slice("default", "f-r1", "127.0.0.1"), slice("default", "f-r2", "127.0.0.2")];
    let functions = [serving("f", two)];
    let world = World { functions: &functions, services: &services, slices: &slices, ingresses: &[] };
    let table = routes(&world, &RouteTable::default());
    let count = |table: &RouteTable, n: usize| {
        (0..n).filter(|_| sent(table, "f.localhost", "/").as_deref() == Some("127.0.0.2:8080")).count()
    };
    assert_eq!(count(&table, 10_000), 1_000);
    // A table made anew in the middle of a round goes on where the old one was.
    let mut small = count(&table, 5);
    let again = routes(&world, &table);
    small += count(&again, 5);
    assert_eq!(small, 1);
    slices.pop();
    let world = World { functions: &functions, services: &services, slices: &slices, ingresses: &[] };
    assert_eq!(count(&routes(&world, &again), 100), 0);
    // Before any revision is known, the Service of the function's name.
    let slices = [slice("default", "f", "127.0.0.3")];
    let world =
        World { functions: &[serving("f", json!([]))], services: &services, slices: &slices, ingresses: &[] };
    assert_eq!(sent(&routes(&world, &table), "f.localhost", "/").as_deref(), Some("127.0.0.3:8080"));
}

#[test]
fn a_header_takes_a_request_before_the_weights() {
    let traffic = json!([{ "revision": "f-r1", "percent": 100, "service": "f-r1" },
        { "revision": "f-r2", "headers": { "X-Canary": "yes" }, "service": "f-r2" }]);
    let services = ["f-r1", "f-r2"].map(|n| service("default", n));
    let slices = [slice("default", "f-r1", "127.0.0.1"), slice("default", "f-r2", "127.0.0.2")];
    let functions = [serving("f", traffic)];
    let world = World { functions: &functions, services: &services, slices: &slices, ingresses: &[] };
    let table = routes(&world, &RouteTable::default());
    let route = table.find("f.localhost", "/").expect("a route");
    let mut headers = HeaderMap::new();
    for (value, port) in [("no", "127.0.0.1:8080"), ("yes", "127.0.0.2:8080")] {
        headers.insert("x-canary", value.parse().expect("a value"));
        let backends = route.choose(&headers).expect("a member");
        assert_eq!(backends.addresses[0].to_string(), port);
    }
}

#[test]
fn an_ingress_routes_by_host_and_path_as_upstream_documents() {
    let table = of_ingresses(&[ingress(
        "default",
        "i",
        1,
        json!({ "rules": [
            rule("x.example", &[("/", "Prefix", "a"), ("/foo", "Prefix", "b"), ("/foo", "Exact", "c"), ("/foo/bar/", "Prefix", "c")]),
            rule("*.example", &[("/only", "Exact", "b")]),
        ] }),
    )]);
    for (host, path, service) in [
        ("x.example", "/", "127.0.0.1:8080"),
        ("X.EXAMPLE:8080", "/foo?x", "127.0.0.3:8080"),
        ("x.example", "/foo/", "127.0.0.2:8080"),
        ("x.example", "/foobar", "127.0.0.1:8080"),
        ("x.example", "/foo/bar", "127.0.0.3:8080"),
        ("x.example", "/foo/bar/baz", "127.0.0.3:8080"),
        ("y.example", "/only", "127.0.0.2:8080"),
    ] {
        assert_eq!(sent(&table, host, path).as_deref(), Some(service), "{host}{path}");
    }
    assert_eq!(sent(&table, "y.example", "/only/more"), None);
    assert_eq!(sent(&table, "example", "/only"), None);
}

#[test]
fn a_default_backend_takes_what_no_rule_takes() {
    let table = of_ingresses(&[ingress(
        "default",
        "i",
        1,
        json!({ "defaultBackend": { "service": { "name": "a", "port": { "name": "http" } } },
            "rules": [rule("x.example", &[("/b", "Prefix", "b")]), rule("", &[("/c", "Prefix", "c")])] }),
    )]);
    for (host, path, service) in [
        ("x.example", "/b", "127.0.0.2:8080"),
        ("x.example", "/", "127.0.0.1:8080"),
        ("elsewhere", "/c/d", "127.0.0.3:8080"),
        ("elsewhere", "/", "127.0.0.1:8080"),
    ] {
        assert_eq!(sent(&table, host, path).as_deref(), Some(service), "{host}{path}");
    }
    // A Service goes on answering at its own name.
    assert_eq!(sent(&table, "b.default.svc.localhost", "/").as_deref(), Some("127.0.0.2:8080"));
}

#[test]
fn a_backend_that_is_not_there_leads_nowhere_and_a_port_says_its_protocol() {
    let backend = |name: &str, port: Value| json!({ "service": { "name": name, "port": port } });
    let path = |path: &str, backend: Value| json!({ "path": path, "pathType": "Prefix", "backend": backend });
    let table = of_ingresses(&[ingress(
        "default",
        "i",
        1,
        json!({ "rules": [{ "host": "x.example", "http": { "paths": [
            path("/gone", backend("gone", json!({ "number": 80 }))),
            path("/port", backend("a", json!({ "number": 81 }))),
            path("/bucket", json!({ "resource": { "kind": "Bucket", "name": "b" } })),
            path("/grpc", backend("a", json!({ "name": "grpc" }))),
        ] } }] }),
    )]);
    for dead in ["/gone", "/port", "/bucket"] {
        assert_eq!(sent(&table, "x.example", dead).as_deref(), Some(""), "{dead}");
    }
    let route = table.find("x.example", "/grpc").expect("a route");
    let backends = route.choose(&HeaderMap::new()).expect("a member");
    assert_eq!((backends.addresses[0].port(), backends.protocol), (5000, crate::backends::Protocol::H2c));
}

#[test]
fn an_ingress_takes_nothing_that_is_not_its_namespaces() {
    let evil = json!({ "rules": [rule("a.localhost", &[("/", "Prefix", "a")]), rule("a.default.svc.localhost", &[("/x", "Prefix", "a")])] });
    let table = of_ingresses(&[ingress("evil", "i", 1, evil.clone())]);
    assert_eq!(at(&table, "a.localhost", "/"), None);
    assert_eq!(at(&table, "a.default.svc.localhost", "/x").as_deref(), Some("service default/a"));
    let table = of_ingresses(&[ingress("default", "i", 1, evil)]);
    assert_eq!(at(&table, "a.localhost", "/").as_deref(), Some("ingress default/i"));
}

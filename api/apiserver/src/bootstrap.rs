//! The objects every cluster begins with.
use crate::object;
use crate::registry::create::create_object;
use crate::registry::update::{Door, guaranteed_update};
use crate::server::{ApiServer, Server};
use futures::future::try_join_all;
use machinery::meta;
use machinery::resource::{self, Resource};
use machinery::status::Status;
use serde_json::{Value, json};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// RuntimeClasses that force a shim; each is its own handler.
const RUNTIME_CLASSES: &[&str] = &["wasmtime", "runc"];

/// Why the first objects could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("cannot create {kind} {name}")]
    Object {
        kind: String,
        name: String,
        #[source]
        source: Box<Status>,
    },
    #[error("the resource table has no {0}")]
    NoSuchKind(String),
}

impl ApiServer {
    /// Makes what every cluster has: its namespaces, the `kubernetes` Service with its endpoints, the
    /// RuntimeClasses. What is there stays as it is, but for the endpoints, which follow the advertised address.
    pub async fn ensure_bootstrap(&self) -> Result<(), BootstrapError> {
        // In two rounds, each of which the store can commit at once.
        let namespaces = NAMESPACES.iter().map(|name| {
            ensure(&self.0, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
        });
        let classes = RUNTIME_CLASSES.iter().map(|name| {
            ensure(
                &self.0,
                json!({
                    "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": name },
                    "handler": name,
                }),
            )
        });
        tokio::try_join!(try_join_all(namespaces), try_join_all(classes))?;
        let (service, slice) = (kubernetes_service(&self.0), kubernetes_slice(&self.0));
        tokio::try_join!(ensure(&self.0, service), ensure_same(&self.0, slice))?;
        Ok(())
    }
}

fn row_of(object: &Value) -> Result<&'static Resource, BootstrapError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("");
    resource::lookup_kind(text("apiVersion"), text("kind"))
        .ok_or_else(|| BootstrapError::NoSuchKind(text("kind").to_owned()))
}

fn failed(object: &Value, source: Status) -> BootstrapError {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("").to_owned();
    BootstrapError::Object { kind, name: meta::name(object).to_owned(), source: Box::new(source) }
}

/// Creates an object unless it is there.
async fn ensure(server: &Server, object: Value) -> Result<(), BootstrapError> {
    let row = row_of(&object)?;
    let key = object::key(row, meta::namespace(&object), meta::name(&object));
    // Looked for first: a restart finds everything and writes nothing.
    if let Ok((Some(_), _)) = server.store.get(&key, None).await {
        return Ok(());
    }
    match create_object(server, row, object.clone(), false).await {
        Err(status) if status.reason != "AlreadyExists" => Err(failed(&object, status)),
        _ => Ok(()),
    }
}

/// Creates an object or makes the one that is there the same, but for its metadata.
async fn ensure_same(server: &Server, object: Value) -> Result<(), BootstrapError> {
    ensure(server, object.clone()).await?;
    let row = row_of(&object)?;
    let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
    let same = |old: &Value| {
        let mut new = object.clone();
        new["metadata"] = old["metadata"].clone();
        Ok(new)
    };
    let updated = guaranteed_update(server, row, &namespace, &name, Door::Main, false, same).await;
    updated.map(|_| ()).map_err(|status| failed(&object, status))
}

fn kubernetes_service(server: &Server) -> Value {
    // Upstream too gives it the first address of the range.
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": server.service_cidr.address(0).to_string(),
            "ports": [{
                "name": "https", "protocol": "TCP", "port": 443, "targetPort": server.advertise_address.port(),
            }],
        },
    })
}

fn kubernetes_slice(server: &Server) -> Value {
    let address = server.advertise_address;
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address.ip().to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "protocol": "TCP", "port": address.port() }],
    })
}

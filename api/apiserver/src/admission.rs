//! Admission: what depends on other objects than the one at hand (upstream's NamespaceLifecycle, RuntimeClass,
//! ServiceAccount and DefaultIngressClass). What upstream's plugins only fill in is the pod strategy's.
use crate::error::from_store;
use crate::object;
use crate::server::Server;
use machinery::meta;
use machinery::resource::{self, Resource};
use machinery::status::Status;
use serde_json::{Value, json};

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// Checks and completes an object that is about to be created.
pub(crate) async fn admit_create(server: &Server, row: &Resource, object: &mut Value) -> Result<(), Status> {
    if row.namespaced() {
        namespace_lifecycle(server, row, object).await?;
    }
    if row.group.is_empty() && row.plural == "pods" {
        runtime_class(server, row, object).await?;
        service_account(server, row, object).await?;
    }
    if row.group == "networking.k8s.io" && row.plural == "ingresses" {
        default_ingress_class(server, object).await?;
    }
    Ok(())
}

/// Whether an object may be deleted at all.
pub(crate) fn admit_delete(row: &Resource, name: &str) -> Result<(), Status> {
    if row.group.is_empty() && row.plural == "namespaces" && IMMORTAL.contains(&name) {
        let message = format!("namespaces {name:?} is forbidden: this namespace may not be deleted");
        return Err(Status::forbidden(Some(row), name, message));
    }
    Ok(())
}

async fn namespace_lifecycle(server: &Server, row: &Resource, object: &Value) -> Result<(), Status> {
    let Some(namespaces) = resource::lookup("", "v1", "namespaces") else { return Ok(()) };
    let namespace = meta::namespace(object);
    let (kv, _) =
        server.store.get(&object::key(namespaces, "", namespace), None).await.map_err(from_store)?;
    let Some(kv) = kv else { return Err(Status::not_found(namespaces, namespace)) };
    // Every create comes by here, so the namespace is only parsed when its bytes say it might be going.
    if !contains(&kv.value, b"\"deletionTimestamp\"") {
        return Ok(());
    }
    if !meta::is_terminating(&object::decode(namespaces, &kv.value, kv.mod_revision)?) {
        return Ok(());
    }
    let name = meta::name(object);
    let message = format!(
        "{} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
        row.group_resource()
    );
    let mut status = Status::forbidden(Some(row), name, message);
    status.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    }]);
    Err(status)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

async fn runtime_class(server: &Server, row: &Resource, pod: &mut Value) -> Result<(), Status> {
    let Some(name) = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str).filter(|n| !n.is_empty())
    else {
        return Ok(());
    };
    let Some(classes) = resource::lookup("node.k8s.io", "v1", "runtimeclasses") else { return Ok(()) };
    let (kv, _) = server.store.get(&object::key(classes, "", name), None).await.map_err(from_store)?;
    let Some(kv) = kv else {
        let pod_name = meta::name(pod);
        let message =
            format!("pods {pod_name:?} is forbidden: pod rejected: RuntimeClass {name:?} not found");
        return Err(Status::forbidden(Some(row), pod_name, message));
    };
    let class = object::decode(classes, &kv.value, kv.mod_revision)?;
    if let Some(overhead) = class.pointer("/overhead/podFixed") {
        pod["spec"]["overhead"] = overhead.clone();
    }
    if let Some(selector) = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object) {
        let own = &mut pod["spec"]["nodeSelector"];
        for (key, value) in selector {
            own[key.as_str()] = value.clone();
        }
    }
    Ok(())
}

/// The account of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";

/// A pod's service account must be there, and lends it its pull secrets. Only for the account that every namespace gets is
/// not waited: pods carry no tokens, so there is nothing of it that they could miss.
async fn service_account(server: &Server, row: &Resource, pod: &mut Value) -> Result<(), Status> {
    let Some(accounts) = resource::lookup("", "v1", "serviceaccounts") else { return Ok(()) };
    let name = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).filter(|n| !n.is_empty());
    let name = name.unwrap_or(DEFAULT_ACCOUNT);
    let namespace = meta::namespace(pod);
    let (kv, _) =
        server.store.get(&object::key(accounts, namespace, name), None).await.map_err(from_store)?;
    let Some(kv) = kv else {
        if name == DEFAULT_ACCOUNT {
            return Ok(());
        }
        let pod_name = meta::name(pod);
        let message = format!(
            "pods {pod_name:?} is forbidden: error looking up service account {namespace}/{name}: serviceaccount \
             {name:?} not found"
        );
        return Err(Status::forbidden(Some(row), pod_name, message));
    };
    // Every pod comes by here, so the account is only parsed when its bytes say that it has some to lend.
    if !contains(&kv.value, b"\"imagePullSecrets\"") {
        return Ok(());
    }
    let account = object::decode(accounts, &kv.value, kv.mod_revision)?;
    let own = pod.pointer("/spec/imagePullSecrets").and_then(Value::as_array).is_some_and(|s| !s.is_empty());
    if let (false, Some(secrets)) = (own, account.get("imagePullSecrets")) {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

/// An Ingress that names no class gets the one that is marked as the default; of several, the newest.
async fn default_ingress_class(server: &Server, ingress: &mut Value) -> Result<(), Status> {
    const MARK: &str = "ingressclass.kubernetes.io/is-default-class";
    const OLD_CLASS: &str = "kubernetes.io/ingress.class";
    let named = ingress.pointer("/spec/ingressClassName").is_some_and(|name| !name.is_null());
    if named || ingress["metadata"]["annotations"][OLD_CLASS].is_string() {
        return Ok(());
    }
    let Some(row) = resource::lookup("networking.k8s.io", "v1", "ingressclasses") else { return Ok(()) };
    let page = server.store.list(&object::prefix(row), None, 0, None).await.map_err(from_store)?;
    let mut newest: Option<(String, String)> = None;
    for kv in &page.kvs {
        let class = object::decode(row, &kv.value, kv.mod_revision)?;
        if class["metadata"]["annotations"][MARK] != "true" {
            continue;
        }
        let made = meta::string(&class, "creationTimestamp").to_owned();
        if newest.as_ref().is_none_or(|(time, _)| *time < made) {
            newest = Some((made, meta::name(&class).to_owned()));
        }
    }
    if let (Some((_, name)), true) = (newest, ingress["spec"].is_object()) {
        ingress["spec"]["ingressClassName"] = json!(name);
    }
    Ok(())
}

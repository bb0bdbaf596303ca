//! Get.
use super::Request;
use crate::error::from_store;
use crate::object;
use crate::query::resource_version;
use crate::respond::{self, Answer};
use crate::server::Server;
use http::StatusCode;
use machinery::resource::Resource;
use machinery::status::Status;
use serde_json::Value;
use store::Kv;

/// One object.
pub(crate) async fn get(request: &Request<'_>) -> Result<Answer, Status> {
    // Reads are always of the newest state, which is "not older than" any version that exists.
    let at_least = request.query.get("resourceVersion").map(resource_version).transpose()?;
    let kv = fetch(request.server, request.row, &request.target.namespace, request.name(), at_least).await?;
    let encoded = object::encoded(request.row, &kv)?;
    respond::object(request.row, StatusCode::OK, encoded, request.output, request.server.ambient.now())
}

/// The stored form of an object, or 404.
pub(crate) async fn fetch(
    server: &Server,
    row: &Resource,
    namespace: &str,
    name: &str,
    at_least: Option<u64>,
) -> Result<Kv, Status> {
    let (kv, head) = server.store.get(&object::key(row, namespace, name), None).await.map_err(from_store)?;
    if let Some(asked) = at_least.filter(|asked| *asked > head) {
        return Err(Status::too_large_resource_version(asked, head));
    }
    kv.ok_or_else(|| Status::not_found(row, name))
}

/// An object as a value, or 404.
pub(crate) async fn fetch_value(
    server: &Server,
    row: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Value, Status> {
    let kv = fetch(server, row, namespace, name, None).await?;
    object::decode(row, &kv.value, kv.mod_revision)
}

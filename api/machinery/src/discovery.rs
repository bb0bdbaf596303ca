//! Discovery documents, all made from the resource table.
use serde_json::Value;

/// `GET /api`, legacy: APIVersions. `server_address` is what clients should use, `host:port`.
pub fn api_versions(server_address: &str) -> Value {
    let _ = server_address;
    todo!()
}
/// `GET /apis`, legacy: APIGroupList.
pub fn api_group_list() -> Value {
    todo!()
}
/// `GET /apis/<group>`: APIGroup.
pub fn api_group(group: &str) -> Option<Value> {
    let _ = group;
    todo!()
}
/// `GET /api/v1`, `GET /apis/<group>/<version>`: APIResourceList.
pub fn api_resource_list(group: &str, version: &str) -> Option<Value> {
    let _ = (group, version);
    todo!()
}
/// Aggregated discovery (`apidiscovery.k8s.io/<version>`, `v2` or `v2beta1`): of `/api` when `core`, else of `/apis`.
pub fn aggregated(core: bool, version: &str) -> Value {
    let _ = (core, version);
    todo!()
}

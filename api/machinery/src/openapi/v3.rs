//! OpenAPI v3: one document for each group version.
//!
//! What kubectl (1.29 and later) needs of it before it trusts the server to validate: for each kind a PATCH
//! operation with `x-kubernetes-group-version-kind`, a query parameter `fieldValidation`, and a body of
//! `application/strategic-merge-patch+json`. `kubectl explain` finds a kind by its resource's path.
use super::routes::{self, Operation, PATCH_TYPES, Route};
use super::{Definitions, REF, closure};
use crate::discovery;
use crate::resource::Resource;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

struct Document {
    bytes: Vec<u8>,
    hash: String,
}

/// The documents by their path: `api/v1`, `apis/apps/v1`.
pub(super) struct Documents(BTreeMap<String, Document>);

impl Documents {
    pub(super) fn index(&self) -> Value {
        let paths: Map<String, Value> = self
            .0
            .iter()
            .map(|(path, d)| {
                let url = format!("/openapi/v3/{path}?hash={}", d.hash);
                (path.clone(), json!({ "serverRelativeURL": url }))
            })
            .collect();
        json!({ "paths": paths })
    }
    pub(super) fn get(&self, path: &str) -> Option<(&[u8], &str)> {
        self.0.get(path).map(|d| (&d.bytes[..], &d.hash[..]))
    }
}

/// Makes every document of a table.
pub(super) fn documents(table: &[Resource], definitions: &Definitions) -> Documents {
    let mut documents = BTreeMap::new();
    for group in std::iter::once("").chain(discovery::groups(table)) {
        for version in discovery::versions(table, group) {
            let rows: Vec<&Resource> =
                table.iter().filter(|r| r.group == group && r.version == version).collect();
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let bytes = document(&rows, definitions).to_string().into_bytes();
            let hash = Sha256::digest(&bytes).iter().take(16).map(|b| format!("{b:02X}")).collect();
            documents.insert(path, Document { bytes, hash });
        }
    }
    Documents(documents)
}

fn document(rows: &[&Resource], definitions: &Definitions) -> Value {
    let mut paths = Map::new();
    let mut roots = Vec::new();
    for r in rows {
        for route in routes::routes(r, definitions) {
            roots.extend(route.operations.iter().flat_map(|o| o.body.iter().chain(&o.answer)).cloned());
            paths.insert(route.path.clone(), path_item(&route, r));
        }
    }
    let schemas: Map<String, Value> = closure(definitions, roots)
        .into_iter()
        .filter_map(|name| definitions.get(&name).map(|d| (name.clone(), component(&name, d))))
        .collect();
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "unversioned" },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn path_item(route: &Route, r: &Resource) -> Value {
    let mut item = Map::new();
    for o in &route.operations {
        item.insert(o.method.to_owned(), operation(o, r));
    }
    let parameters: Vec<Value> = route
        .parameters
        .iter()
        .map(|name| {
            json!({
                "name": name, "in": "path", "description": routes::parameter_description(name),
                "required": true, "schema": { "type": "string", "uniqueItems": true },
            })
        })
        .collect();
    item.insert("parameters".to_owned(), json!(parameters));
    Value::Object(item)
}

fn operation(o: &Operation, r: &Resource) -> Value {
    let schema = |name: &String| json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
    let parameters: Vec<Value> = o
        .query
        .iter()
        .map(|q| {
            json!({
                "name": q.name, "in": "query", "description": q.description,
                "schema": { "type": q.kind, "uniqueItems": true },
            })
        })
        .collect();
    let answer = match &o.answer {
        Some(name) => json!({ "description": "OK", "content": { "application/json": schema(name) } }),
        None => json!({ "description": "OK", "content": { "*/*": { "schema": { "type": "string" } } } }),
    };
    let mut v = json!({
        "tags": [routes::tag(r)],
        "description": o.description,
        "operationId": o.id,
        "parameters": parameters,
        "responses": { "200": answer, "401": { "description": "Unauthorized" } },
        "x-kubernetes-action": o.action,
        "x-kubernetes-group-version-kind": routes::gvk_extension(o.gvk),
    });
    if let Some(body) = &o.body {
        let content: Map<String, Value> = if o.method == "patch" {
            PATCH_TYPES.iter().map(|t| ((*t).to_owned(), schema(body))).collect()
        } else {
            std::iter::once(("*/*".to_owned(), schema(body))).collect()
        };
        v["requestBody"] = json!({ "content": content });
        if o.method != "delete" {
            v["requestBody"]["required"] = json!(true);
        }
    }
    v
}

/// A definition in the words of OpenAPI v3.
fn component(name: &str, definition: &Value) -> Value {
    let mut v = schema(definition);
    // v2 could not say that a value has one of two types.
    let either = match name.rsplit('.').next() {
        Some("Quantity") => ["string", "number"],
        Some("IntOrString") => ["integer", "string"],
        _ => return v,
    };
    if let Some(map) = v.as_object_mut() {
        map.remove("type");
        map.insert("oneOf".to_owned(), json!([{ "type": either[0] }, { "type": either[1] }]));
    }
    v
}

/// A schema in the words of OpenAPI v3: references lead to components, and stand inside `allOf` where something
/// else is said beside them.
fn schema(v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            let mut out: Map<String, Value> =
                map.iter().filter(|(k, _)| *k != "$ref").map(|(k, v)| (k.clone(), schema(v))).collect();
            // `properties` may hold a field that is itself named "$ref" (JSONSchemaProps): its value is an object.
            match map.get("$ref") {
                Some(Value::String(r)) => {
                    let r = json!(r.replacen(REF, "#/components/schemas/", 1));
                    if out.is_empty() {
                        out.insert("$ref".to_owned(), r);
                    } else {
                        out.insert("allOf".to_owned(), json!([{ "$ref": r }]));
                        out.insert("default".to_owned(), json!({}));
                    }
                }
                Some(field) => {
                    out.insert("$ref".to_owned(), schema(field));
                }
                None => {}
            }
            Value::Object(out)
        }
        Value::Array(list) => Value::Array(list.iter().map(schema).collect()),
        other => other.clone(),
    }
}

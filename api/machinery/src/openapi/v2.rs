//! OpenAPI v2: one document for everything.
use super::routes::{self, Operation, PATCH_TYPES};
use super::{Definitions, REF, closure};
use crate::resource::Resource;
use serde_json::{Map, Value, json};

/// Makes the document of a table.
pub(super) fn document(table: &[Resource], definitions: &Definitions) -> Value {
    let mut paths = Map::new();
    let mut roots = Vec::new();
    for r in table {
        for route in routes::routes(r, definitions) {
            let mut item = Map::new();
            for o in &route.operations {
                roots.extend(o.body.iter().chain(&o.answer).cloned());
                item.insert(o.method.to_owned(), operation(o, r));
            }
            let parameters: Vec<Value> = route
                .parameters
                .iter()
                .map(|name| {
                    json!({
                        "name": name, "in": "path", "description": routes::parameter_description(name),
                        "required": true, "type": "string", "uniqueItems": true,
                    })
                })
                .collect();
            item.insert("parameters".to_owned(), json!(parameters));
            paths.insert(route.path, Value::Object(item));
        }
    }
    let used: Map<String, Value> = closure(definitions, roots)
        .into_iter()
        .filter_map(|name| definitions.get(&name).map(|d| (name.clone(), d.clone())))
        .collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": "unversioned" },
        "paths": paths,
        "definitions": used,
    })
}

fn operation(o: &Operation, r: &Resource) -> Value {
    let schema = |name: &String| json!({ "$ref": format!("{REF}{name}") });
    let mut parameters = Vec::new();
    if let Some(body) = &o.body {
        let required = o.method != "delete";
        parameters
            .push(json!({ "name": "body", "in": "body", "required": required, "schema": schema(body) }));
    }
    parameters.extend(o.query.iter().map(|q| {
        json!({ "name": q.name, "in": "query", "description": q.description, "type": q.kind, "uniqueItems": true })
    }));
    let answer = match &o.answer {
        Some(name) => json!({ "description": "OK", "schema": schema(name) }),
        None => json!({ "description": "OK", "schema": { "type": "string" } }),
    };
    let consumes: &[&str] = if o.method == "patch" { &PATCH_TYPES } else { &["*/*"] };
    json!({
        "tags": [routes::tag(r)],
        "description": o.description,
        "operationId": o.id,
        "consumes": consumes,
        "produces": ["application/json"],
        "schemes": ["https"],
        "parameters": parameters,
        "responses": { "200": answer, "401": { "description": "Unauthorized" } },
        "x-kubernetes-action": o.action,
        "x-kubernetes-group-version-kind": routes::gvk_extension(o.gvk),
    })
}

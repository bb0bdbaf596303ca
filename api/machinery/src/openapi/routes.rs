//! The paths and operations that the resource table makes, before they are worded as OpenAPI v2 or v3.
use super::Definitions;
use crate::resource::{Resource, SubresourceKind, Verb};
use serde_json::{Value, json};

/// A path of the API and what can be done there.
pub(super) struct Route {
    pub(super) path: String,
    /// Its path parameters: `namespace`, `name`.
    pub(super) parameters: Vec<&'static str>,
    pub(super) operations: Vec<Operation>,
}

pub(super) struct Operation {
    /// `get`, `put`, `post`, `delete`, `patch`: the key in a path item.
    pub(super) method: &'static str,
    /// Kubernetes' word for it: `x-kubernetes-action`.
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    /// Group, version, kind: `x-kubernetes-group-version-kind`.
    pub(super) gvk: (&'static str, &'static str, &'static str),
    /// The definition of the request's body; none for reads.
    pub(super) body: Option<String>,
    /// The definition of the answer; none where it is not JSON.
    pub(super) answer: Option<String>,
    pub(super) query: &'static [Query],
}

/// A query parameter.
pub(super) struct Query {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
}

const fn query(name: &'static str, kind: &'static str, description: &'static str) -> Query {
    Query { name, kind, description }
}

const DRY_RUN: Query = query("dryRun", "string", "All: go through every step but do not store the result.");
const FIELD_MANAGER: Query = query("fieldManager", "string", "The name under which the change is recorded.");
/// kubectl looks for this very name to learn that the server validates fields by itself.
const FIELD_VALIDATION: Query = query(
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: Ignore, Warn or Strict. The default is Warn.",
);
const LABEL_SELECTOR: Query = query("labelSelector", "string", "Only objects whose labels match.");
const FIELD_SELECTOR: Query = query("fieldSelector", "string", "Only objects whose fields match.");

const WRITE: &[Query] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const READ: &[Query] = &[];
const LIST: &[Query] = &[
    query("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
    query("continue", "string", "Where a list that was cut off by limit goes on."),
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    query("limit", "integer", "Most objects in one answer."),
    query("resourceVersion", "string", "The state of the store to read, or to watch from."),
    query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    query("sendInitialEvents", "boolean", "Whether a watch begins with the objects that exist."),
    query("timeoutSeconds", "integer", "How long a list or watch may take."),
    query("watch", "boolean", "Watch for changes instead of listing."),
];
const DELETE: &[Query] = &[
    DRY_RUN,
    query("gracePeriodSeconds", "integer", "How long the object may take to end by itself."),
    query("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];
const DELETE_COLLECTION: &[Query] = &[
    DRY_RUN,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    query("gracePeriodSeconds", "integer", "How long the objects may take to end by themselves."),
    query("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];
const LOG: &[Query] = &[
    query("container", "string", "The container; may be left out where there is only one."),
    query("follow", "boolean", "Go on as the log grows."),
    query("limitBytes", "integer", "Most bytes to send."),
    query("previous", "boolean", "The log of the container that ran before."),
    query("sinceSeconds", "integer", "Only lines of the last so many seconds."),
    query("sinceTime", "string", "Only lines since this time (RFC 3339)."),
    query("tailLines", "integer", "Only the last so many lines."),
    query("timestamps", "boolean", "Begin every line with its time."),
];

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// The media types of a PATCH body.
pub(super) const PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// `/api/v1`, `/apis/apps/v1`.
fn base(r: &Resource) -> String {
    if r.group.is_empty() {
        format!("/api/{}", r.version)
    } else {
        format!("/apis/{}/{}", r.group, r.version)
    }
}

/// The definition that describes a kind.
fn definition_of((group, version, kind): (&str, &str, &str), definitions: &Definitions) -> Option<String> {
    let wanted = json!({ "group": group, "version": version, "kind": kind });
    definitions
        .iter()
        .find(|(_, d)| {
            d["x-kubernetes-group-version-kind"].as_array().is_some_and(|gvks| gvks.contains(&wanted))
        })
        .map(|(name, _)| name.clone())
}

/// Every route of a resource.
pub(super) fn routes(r: &Resource, definitions: &Definitions) -> Vec<Route> {
    let gvk = (r.group, r.version, r.kind);
    let list = format!("{}List", r.schema);
    let list = if definitions.contains_key(&list) { list } else { r.schema.to_owned() };
    let operation = |verb: Verb| -> Operation {
        let (method, action, body, answer, query) = match verb {
            Verb::List | Verb::Watch => ("get", "list", None, list.clone(), LIST),
            Verb::Create => ("post", "post", Some(r.schema), r.schema.to_owned(), WRITE),
            Verb::DeleteCollection => {
                ("delete", "deletecollection", Some(DELETE_OPTIONS), STATUS.to_owned(), DELETE_COLLECTION)
            }
            Verb::Get => ("get", "get", None, r.schema.to_owned(), READ),
            Verb::Update => ("put", "put", Some(r.schema), r.schema.to_owned(), WRITE),
            Verb::Patch => ("patch", "patch", Some(PATCH), r.schema.to_owned(), WRITE),
            Verb::Delete => ("delete", "delete", Some(DELETE_OPTIONS), STATUS.to_owned(), DELETE),
        };
        Operation {
            method,
            action,
            id: id(action, r, ""),
            description: format!("{action} {}", r.kind),
            gvk,
            body: body.map(str::to_owned),
            answer: Some(answer),
            query,
        }
    };
    let having = |verbs: &[Verb]| -> Vec<Operation> {
        verbs.iter().filter(|v| r.verbs.contains(v)).map(|v| operation(*v)).collect()
    };

    let base = base(r);
    let (collection, at_collection) = if r.namespaced() {
        (format!("{base}/namespaces/{{namespace}}/{}", r.plural), vec!["namespace"])
    } else {
        (format!("{base}/{}", r.plural), vec![])
    };
    let item = format!("{collection}/{{name}}");
    let mut at_item = at_collection.clone();
    at_item.insert(0, "name");

    let mut routes = vec![
        Route {
            path: collection,
            parameters: at_collection,
            operations: having(&[Verb::List, Verb::Create, Verb::DeleteCollection]),
        },
        Route {
            path: item.clone(),
            parameters: at_item.clone(),
            operations: having(&[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete]),
        },
    ];
    if r.namespaced() {
        let mut operations = having(&[Verb::List]);
        for o in &mut operations {
            o.id.push_str("ForAllNamespaces");
        }
        routes.push(Route { path: format!("{base}/{}", r.plural), parameters: vec![], operations });
    }
    for s in r.subresources {
        let schema = match s.kind {
            SubresourceKind::Status | SubresourceKind::Finalize => Some(r.schema.to_owned()),
            SubresourceKind::Log
            | SubresourceKind::Proxy
            | SubresourceKind::Exec
            | SubresourceKind::Attach => None,
            SubresourceKind::Scale | SubresourceKind::Binding | SubresourceKind::Eviction => {
                definition_of(s.gvk, definitions)
            }
        };
        let operations = s
            .verbs
            .iter()
            .filter_map(|verb| {
                let (method, body, query) = match verb {
                    Verb::Get if s.kind == SubresourceKind::Log => ("get", None, LOG),
                    Verb::Get => ("get", None, READ),
                    Verb::Create => ("post", schema.clone(), WRITE),
                    Verb::Update => ("put", schema.clone(), WRITE),
                    Verb::Patch => ("patch", Some(PATCH.to_owned()), WRITE),
                    Verb::Delete => ("delete", Some(DELETE_OPTIONS.to_owned()), DELETE),
                    Verb::List | Verb::Watch | Verb::DeleteCollection => return None,
                };
                let connects = matches!(
                    s.kind,
                    SubresourceKind::Proxy | SubresourceKind::Exec | SubresourceKind::Attach
                );
                let action = if connects { "connect" } else { method };
                Some(Operation {
                    method,
                    action,
                    id: id(method, r, s.name),
                    description: format!("{method} {} of {}", s.name, r.kind),
                    gvk: s.gvk,
                    body,
                    answer: schema.clone(),
                    query,
                })
            })
            .collect();
        routes.push(Route { path: format!("{item}/{}", s.name), parameters: at_item.clone(), operations });
    }
    routes.retain(|route| !route.operations.is_empty());
    routes
}

/// An operation's identifier, as Kubernetes makes them: `patchAppsV1NamespacedDeploymentStatus`.
fn id(action: &str, r: &Resource, subresource: &str) -> String {
    let group = if r.group.is_empty() { "core" } else { r.group };
    let group: String = group.trim_end_matches(".k8s.io").split('.').map(capitalised).collect();
    let scope = if r.namespaced() { "Namespaced" } else { "" };
    let verb = match action {
        "post" if subresource.is_empty() => "create",
        "put" => "replace",
        "get" => "read",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    format!("{verb}{group}{}{scope}{}{}", capitalised(r.version), r.kind, capitalised(subresource))
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// The extension that names a kind.
pub(super) fn gvk_extension((group, version, kind): (&str, &str, &str)) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

/// The description of a path parameter.
pub(super) fn parameter_description(name: &str) -> &'static str {
    if name == "namespace" { "The namespace of the object." } else { "The name of the object." }
}

/// `core_v1`, `apps_v1`.
pub(super) fn tag(r: &Resource) -> String {
    let group = if r.group.is_empty() { "core" } else { r.group.split('.').next().unwrap_or(r.group) };
    format!("{group}_{}", r.version)
}

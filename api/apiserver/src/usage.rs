//! `metrics.k8s.io`: what the nodes and pods of the store use, asked of whoever has scraped them.
//!
//! Which there are, their labels and who may see them come from the store; only the figures come from the reader.
//! Pods and nodes of which nothing is known yet are left out of lists, as metrics-server does.
use crate::error::from_store;
use crate::negotiate::Shape;
use crate::object;
use crate::query::ListOptions;
use crate::registry::Request;
use crate::registry::read::fetch_value;
use crate::respond::{self, Answer};
use crate::selection::{Selection, Traits};
use http::StatusCode;
use machinery::metrics::{MetricsReader, node_metrics, pod_metrics};
use machinery::resource::{self, Resource};
use machinery::status::Status;
use machinery::{meta, table};
use serde_json::{Value, json};

/// Objects read from the store at a time: 500 of 4 kB are 2 MB.
const CHUNK: usize = 500;

pub(crate) async fn answer(request: &Request<'_>) -> Result<Answer, Status> {
    let target = request.target;
    let Some(reader) = &request.server.usage else { return Err(Status::no_such_path()) };
    let measured = resource::lookup("", "v1", request.row.plural).ok_or_else(Status::no_such_path)?;
    if !target.subresource.is_empty() {
        return Err(Status::no_such_path());
    }
    match target.verb {
        "get" => get(request, &**reader, measured).await,
        "list" => list(request, &**reader, measured).await,
        other => Err(Status::method_not_supported(request.row, other)),
    }
}

async fn get(
    request: &Request<'_>,
    reader: &dyn MetricsReader,
    measured: &'static Resource,
) -> Result<Answer, Status> {
    let now = request.server.ambient.now();
    let not_found = || Status::not_found(request.row, request.name());
    let object = fetch_value(request.server, measured, &request.target.namespace, request.name())
        .await
        .map_err(|status| if status.code == 404 { not_found() } else { status })?;
    let metrics = metrics_of(reader, &object, now).ok_or_else(not_found)?;
    respond::written(
        StatusCode::OK,
        &respond::shaped(request.row, metrics, request.output, now),
        request.output,
    )
}

async fn list(
    request: &Request<'_>,
    reader: &dyn MetricsReader,
    measured: &'static Resource,
) -> Result<Answer, Status> {
    // A list is always whole: `limit` and `continue` are read for their errors alone, as metrics-server does.
    ListOptions::parse(request.query, false)?;
    let now = request.server.ambient.now();
    let selection = Selection::parse(measured, &request.target.namespace, request.query)?;
    let prefix = object::key(measured, &request.target.namespace, "");
    let (mut items, mut after, mut at) = (Vec::new(), None::<String>, None);
    loop {
        let store = &request.server.store;
        let page = store.list(&prefix, after.as_deref(), CHUNK, at).await.map_err(from_store)?;
        for kv in &page.kvs {
            let object = object::decode(measured, &kv.value, kv.mod_revision)?;
            if selection.matches(measured, &Traits::of(measured, &object)) {
                items.extend(metrics_of(reader, &object, now));
            }
        }
        at = Some(page.revision);
        after = page.kvs.last().map(|kv| kv.key.clone());
        if page.remaining == 0 || after.is_none() {
            break;
        }
    }
    let row = request.row;
    let value = match request.output.shape {
        Shape::Table(version, include) => {
            let items: Vec<&Value> = items.iter().collect();
            table::to_table(row, &items, json!({}), include, version, true, now)
        }
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
            "items": items.iter().map(respond::partial).collect::<Vec<_>>(),
        }),
        Shape::AsIs => json!({
            "kind": format!("{}List", row.kind), "apiVersion": row.api_version(), "metadata": {}, "items": items,
        }),
    };
    respond::written(StatusCode::OK, &value, request.output)
}

/// The metrics of a Node or Pod, where its reader knows some.
fn metrics_of(reader: &dyn MetricsReader, object: &Value, now: jiff::Timestamp) -> Option<Value> {
    let (namespace, name) = (meta::namespace(object), meta::name(object));
    if namespace.is_empty() {
        return reader.node(name).map(|usage| node_metrics(object, &usage, now));
    }
    // What a pod that has ended used is no longer used.
    let running = object.pointer("/status/phase").and_then(Value::as_str) == Some("Running");
    reader.pod(namespace, name).filter(|_| running).map(|usage| pod_metrics(object, &usage, now))
}

//! Delete, and delete of a collection.
use super::Request;
use super::delete_plan::{DeleteOptions, DeletePlan, Propagation, plan_delete};
use super::list;
use crate::admission;
use crate::body::RequestBody;
use crate::decode;
use crate::error::{from_store, stale};
use crate::object;
use crate::query::ListOptions;
use crate::respond::{self, Answer};
use crate::selection::Selection;
use crate::server::Server;
use futures::future::join_all;
use http::StatusCode;
use machinery::meta;
use machinery::resource::Resource;
use machinery::status::Status;
use serde_json::{Value, json};
use store::{Expect, Op};

/// See `update::MAX_ATTEMPTS`.
const MAX_ATTEMPTS: usize = 100;
/// Kinds whose DELETE answers with the object although it is gone (upstream's `ReturnDeletedObject`).
const RETURN_OBJECT: &[&str] = &["pods", "services", "serviceaccounts"];

/// Deletions of a collection on their way at a time: they share the store's group commit.
const DELETIONS_AT_ONCE: usize = 64;

/// What a delete came to.
pub(crate) enum Deleted {
    /// It is out of the store; this is what it was.
    Gone(Value),
    /// It is on its way; this is what it is now.
    Going(Value),
}

pub(crate) async fn delete(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let options = read_options(request, body).await?;
    let row = request.row;
    let deleted =
        delete_object(request.server, row, &request.target.namespace, request.name(), &options).await?;
    let object = match deleted {
        Deleted::Gone(object) if !RETURN_OBJECT.contains(&row.plural) => {
            let mut details =
                json!({ "name": meta::name(&object), "kind": row.plural, "uid": meta::uid(&object) });
            if !row.group.is_empty() {
                details["group"] = json!(row.group);
            }
            return Ok(respond::success(StatusCode::OK, details));
        }
        Deleted::Gone(object) | Deleted::Going(object) => object,
    };
    let shaped = respond::shaped(row, object, request.output, request.server.ambient.now());
    respond::written(StatusCode::OK, &shaped, request.output)
}

/// Deletes every object that a list with the same selectors would show.
pub(crate) async fn delete_collection(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let options = read_options(request, body).await?;
    let list_options = ListOptions::parse(request.query, false)?;
    let row = request.row;
    let selection = Selection::parse(row, &request.target.namespace, request.query)?;
    let listed = list::collect(request, &list_options, &selection).await?;
    let prefix = object::prefix(row);
    let mut items = Vec::new();
    for some in listed.kvs.chunks(DELETIONS_AT_ONCE) {
        let deletions = some.iter().map(|kv| {
            let (namespace, name) = object::split_key(&prefix, &kv.key);
            delete_object(request.server, row, namespace, name, &options)
        });
        for deleted in join_all(deletions).await {
            match deleted {
                Ok(Deleted::Gone(object) | Deleted::Going(object)) => items.push(object),
                // Someone else was faster, which is what was wanted.
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
    }
    let value = json!({
        "kind": format!("{}List", row.kind), "apiVersion": row.api_version(),
        "metadata": { "resourceVersion": listed.revision.to_string() }, "items": items,
    });
    respond::written(StatusCode::OK, &value, request.output)
}

/// Deletes one object as [`plan_delete`] says.
pub(crate) async fn delete_object(
    server: &Server,
    row: &'static Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    admission::admit_delete(row, name)?;
    let key = object::key(row, namespace, name);
    let (mut current, _) = server.store.get(&key, None).await.map_err(from_store)?;
    for _ in 0..MAX_ATTEMPTS {
        let Some(kv) = current else { return Err(Status::not_found(row, name)) };
        let old = object::decode(row, &kv.value, kv.mod_revision)?;
        let (op, mut after, gone) = match plan_delete(row, &old, options, server.ambient.now())? {
            DeletePlan::Unchanged => return Ok(Deleted::Going(old)),
            DeletePlan::Remove => (Op::Delete, old, true),
            DeletePlan::Mark(mut new) => {
                meta::remove(&mut new, "resourceVersion");
                let value = object::encode(row, &new)?;
                let ttl = row.ttl_seconds.map(std::time::Duration::from_secs);
                (Op::Put { value, ttl }, new, false)
            }
        };
        let revision = if options.dry_run {
            kv.mod_revision
        } else {
            match server.store.commit(&key, Expect::ModRevision(kv.mod_revision), op).await {
                Ok(committed) => committed.revision,
                Err(store::Error::Conflict { current: now }) => {
                    current = now.map(|kv| *kv);
                    continue;
                }
                Err(e) => return Err(from_store(e)),
            }
        };
        if !gone {
            meta::set(&mut after, "resourceVersion", revision.to_string());
        }
        return Ok(if gone { Deleted::Gone(after) } else { Deleted::Going(after) });
    }
    Err(stale(row, name))
}

/// DeleteOptions from the body, or from the query when there is no body.
async fn read_options(request: &Request<'_>, body: RequestBody) -> Result<DeleteOptions, Status> {
    let bytes = decode::read(body, request.headers).await?;
    if bytes.is_empty() {
        let query = request.query;
        return Ok(DeleteOptions {
            grace_period_seconds: query.integer("gracePeriodSeconds")?,
            propagation: propagation(
                query.get("propagationPolicy"),
                orphan_dependents(query.get("orphanDependents")),
            )?,
            dry_run: query.dry_run()?,
            ..DeleteOptions::default()
        });
    }
    let (value, _) = decode::parse(&bytes, decode::Format::of(request.headers)?)?;
    let mut options = options_from(&value)?;
    options.dry_run |= request.query.dry_run()?;
    Ok(options)
}

/// DeleteOptions from their JSON.
pub(crate) fn options_from(value: &Value) -> Result<DeleteOptions, Status> {
    let wrong = |field: &str, expected: &str| {
        Status::bad_request(format!(
            "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: {field} must be {expected}"
        ))
    };
    match value.get("kind").and_then(Value::as_str) {
        None | Some("" | "DeleteOptions") => {}
        Some(other) => {
            return Err(Status::bad_request(format!(
                "the body of a delete must be DeleteOptions, but its kind is {other:?}"
            )));
        }
    }
    let text = |pointer: &str| match value.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(wrong(pointer, "a string")),
    };
    let grace_period_seconds = match value.get("gracePeriodSeconds") {
        None | Some(Value::Null) => None,
        Some(v) => Some(v.as_i64().ok_or_else(|| wrong("gracePeriodSeconds", "a whole number"))?),
    };
    let dry_run = match value.get("dryRun") {
        None | Some(Value::Null) => false,
        Some(Value::Array(a)) if a.iter().all(|v| v == "All") => !a.is_empty(),
        Some(_) => return Err(wrong("dryRun", "[\"All\"]")),
    };
    let policy = text("/propagationPolicy")?;
    Ok(DeleteOptions {
        grace_period_seconds,
        uid: text("/preconditions/uid")?,
        resource_version: text("/preconditions/resourceVersion")?,
        propagation: propagation(policy.as_deref(), value.get("orphanDependents").and_then(Value::as_bool))?,
        dry_run,
    })
}

fn orphan_dependents(text: Option<&str>) -> Option<bool> {
    text.map(|t| !matches!(t, "false" | "0"))
}

fn propagation(policy: Option<&str>, orphan: Option<bool>) -> Result<Option<Propagation>, Status> {
    Ok(match (policy, orphan) {
        (Some(_), Some(_)) => {
            return Err(Status::bad_request("orphanDependents and deletionPropagation cannot be both set"));
        }
        (Some("Background"), None) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some("Orphan"), None) => Some(Propagation::Orphan),
        (Some(other), None) => {
            return Err(Status::new(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            ));
        }
        (None, Some(true)) => Some(Propagation::Orphan),
        (None, Some(false)) => Some(Propagation::Background),
        (None, None) => None,
    })
}

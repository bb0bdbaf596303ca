//! Update, and the loop that every change of an object goes through.
use super::Request;
use super::create::{create_object, receive};
use super::delete_plan;
use super::services;
use crate::body::RequestBody;
use crate::error::{from_store, stale};
use crate::object;
use crate::respond::{self, Answer};
use crate::server::Server;
use bytes::Bytes;
use http::StatusCode;
use machinery::resource::Resource;
use machinery::status::Status;
use machinery::{meta, validation};
use serde_json::Value;
use std::time::Duration;
use store::{Expect, Op};

/// How often a change is made again because someone was faster. Each round lost is a round somebody else won, so
/// 100 rounds need 100 writers on one object; past that the client hears of the conflict.
const MAX_ATTEMPTS: usize = 100;

/// Through which door a change comes, hence what of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The object itself: everything but what the strategy keeps (usually status).
    Main,
    /// `/status`: only status.
    Status,
    /// The server's own change of an object it has just read (binding, finalize): taken as it is.
    Internal,
}

/// What an update came to.
pub(crate) struct Updated {
    /// The object's JSON with its resourceVersion.
    pub(crate) encoded: Bytes,
    pub(crate) created: bool,
}

/// PUT of an object or of its status.
pub(crate) async fn update(request: &Request<'_>, body: RequestBody, door: Door) -> Result<Answer, Status> {
    let (row, server) = (request.row, request.server);
    let dry_run = request.query.dry_run()?;
    let (mut object, warnings) = receive(request, body).await?;
    fit_name(request.name(), &mut object)?;

    let outcome = match change(request, door, dry_run, |_| Ok(object.clone())).await {
        Err(status) if status.code == 404 && door == Door::Main && row.strategy.allow_create_on_update() => {
            meta::remove(&mut object, "resourceVersion");
            let encoded = create_object(server, row, object, dry_run).await?;
            Updated { encoded, created: true }
        }
        other => other?,
    };
    let code = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut answer = respond::object(row, code, outcome.encoded, request.output, server.ambient.now())?;
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

/// The name in the object must be the one in the path.
pub(crate) fn fit_name(name: &str, object: &mut Value) -> Result<(), Status> {
    let given = meta::name(object);
    if given.is_empty() {
        meta::set(object, "name", name);
    } else if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// Changes the object a request names.
pub(crate) async fn change(
    request: &Request<'_>,
    door: Door,
    dry_run: bool,
    transform: impl FnMut(&Value) -> Result<Value, Status>,
) -> Result<Updated, Status> {
    let target = request.target;
    guaranteed_update(request.server, request.row, &target.namespace, &target.name, door, dry_run, transform)
        .await
}

/// The guaranteed update: `transform` makes the new object from the old one (which has its resourceVersion), and
/// is called again with a newer one when someone else was faster. A resourceVersion in what it makes is a
/// precondition.
pub(crate) async fn guaranteed_update(
    server: &Server,
    row: &'static Resource,
    namespace: &str,
    name: &str,
    door: Door,
    dry_run: bool,
    mut transform: impl FnMut(&Value) -> Result<Value, Status>,
) -> Result<Updated, Status> {
    let key = object::key(row, namespace, name);
    let allocation = if door == Door::Main { services::begin(server, row).await } else { None };
    let (mut current, _) = server.store.get(&key, None).await.map_err(from_store)?;
    for _ in 0..MAX_ATTEMPTS {
        let Some(kv) = current else { return Err(Status::not_found(row, name)) };
        let old = object::decode(row, &kv.value, kv.mod_revision)?;
        let mut new = transform(&old)?;
        prepare(row, &mut new, &old, door)?;
        if allocation.is_some() {
            services::allocate(server, row, &mut new, Some(&old)).await?;
        }
        validate(row, &new, &old, door)?;
        let gone = delete_plan::is_finished(row, &new);
        if new == old && !gone {
            return Ok(Updated { encoded: object::encoded(row, &kv)?, created: false });
        }
        if dry_run {
            let encoded = serde_json::to_vec(&new).map_err(Status::internal)?.into();
            return Ok(Updated { encoded, created: false });
        }
        meta::remove(&mut new, "resourceVersion");
        let value = object::encode(row, &new)?;
        let op = if gone {
            Op::Delete
        } else {
            Op::Put { value: value.clone(), ttl: row.ttl_seconds.map(Duration::from_secs) }
        };
        let expect = Expect::ModRevision(kv.mod_revision);
        match services::commit(server, allocation.as_ref(), &key, expect, op).await {
            Ok(committed) => {
                let encoded = object::encoded_at(row, &value, committed.revision)?;
                return Ok(Updated { encoded, created: false });
            }
            Err(store::Error::Conflict { current: now }) => current = now.map(|kv| *kv),
            Err(e) => return Err(from_store(e)),
        }
    }
    Err(stale(row, name))
}

/// Preconditions, what only the server sets, and what this door keeps from the old object.
fn prepare(row: &Resource, new: &mut Value, old: &Value, door: Door) -> Result<(), Status> {
    let given = meta::resource_version(new);
    if !given.is_empty() && given != meta::resource_version(old) {
        return Err(stale(row, meta::name(old)));
    }
    let uid = meta::uid(new);
    if !uid.is_empty() && uid != meta::uid(old) {
        return Err(Status::conflict(
            row,
            meta::name(old),
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(old)
            ),
        ));
    }
    keep_system_fields(new, old);
    match door {
        Door::Main => {
            row.strategy.default(new);
            row.prepare_for_update(new, old);
            if row.strategy.has_generation() && row.strategy.generation_changed(new, old) {
                let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
                meta::set(new, "generation", generation + 1);
            }
        }
        Door::Status => {
            row.strategy.default(new);
            row.prepare_for_status_update(new, old);
            // Whatever a strategy kept or not: these are never a client's to change.
            keep_system_fields(new, old);
        }
        Door::Internal => {}
    }
    Ok(())
}

const SYSTEM_FIELDS: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "selfLink",
    "managedFields",
];

fn keep_system_fields(new: &mut Value, old: &Value) {
    for field in SYSTEM_FIELDS {
        match old.pointer("/metadata").and_then(|m| m.get(field)) {
            Some(value) => meta::set(new, field, value.clone()),
            None => meta::remove(new, field),
        }
    }
}

fn validate(row: &Resource, new: &Value, old: &Value, door: Door) -> Result<(), Status> {
    let mut errors = validation::object_meta_update(row, new, old);
    match door {
        Door::Main => {
            errors.extend(row.strategy.validate(new));
            errors.extend(row.strategy.validate_update(new, old));
        }
        Door::Status => errors.extend(row.strategy.validate_status_update(new, old)),
        Door::Internal => {}
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(row, meta::name(old), &errors))
}

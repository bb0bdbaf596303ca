//! Create.
use super::Request;
use super::services;
use crate::admission;
use crate::body::RequestBody;
use crate::decode;
use crate::error::from_store;
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

/// How often a generated name is tried: upstream's eight. Two of five characters collide once in 14 million.
const NAME_ATTEMPTS: usize = 8;
/// Characters of a generated name before its suffix: 63 of a DNS label less 5.
const MAX_GENERATED_BASE: usize = 58;
const SUFFIX: usize = 5;

pub(crate) async fn create(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let (row, server) = (request.row, request.server);
    let dry_run = request.query.dry_run()?;
    let (object, warnings) = receive(request, body).await?;
    let created = create_object(server, row, object, dry_run).await?;
    let mut answer =
        respond::object(row, StatusCode::CREATED, created, request.output, server.ambient.now())?;
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

/// The object in a request's body, of the kind and namespace that its path names, and what there is to warn of.
pub(crate) async fn receive(
    request: &Request<'_>,
    body: RequestBody,
) -> Result<(Value, Vec<String>), Status> {
    let row = request.row;
    let fields = request.query.field_validation()?;
    request.query.check_field_manager()?;
    let format = decode::Format::of(request.headers)?;
    let bytes = decode::read(body, request.headers).await?;
    let (object, duplicates) = decode::parse(&bytes, format)?;
    let checked = decode::check(row, &row.api_version(), row.kind, row.schema, object, &duplicates, fields)?;
    let mut object = checked.object;
    fit_namespace(row, &request.target.namespace, &mut object)?;
    Ok((object, checked.warnings))
}

/// The namespace of the path goes into the object; another one in the object is refused.
pub(crate) fn fit_namespace(row: &Resource, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let given = meta::namespace(object);
    if !row.namespaced() {
        // Upstream's clients send an empty one; a namespace on a cluster-scoped object is refused by validation.
        if given.is_empty() {
            meta::remove(object, "namespace");
        }
        return Ok(());
    }
    if given.is_empty() {
        meta::set(object, "namespace", namespace);
    } else if given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Creates an object that has passed the schema; gives back its JSON with its resourceVersion.
pub(crate) async fn create_object(
    server: &Server,
    row: &'static Resource,
    mut object: Value,
    dry_run: bool,
) -> Result<Bytes, Status> {
    if !meta::resource_version(&object).is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    row.strategy.default(&mut object);
    admission::admit_create(server, row, &mut object).await?;
    fill_system_fields(server, row, &mut object);
    row.strategy.prepare_for_create(&mut object);

    let base = meta::string(&object, "generateName").to_owned();
    let generated = meta::name(&object).is_empty() && !base.is_empty();
    let allocation = services::begin(server, row).await;
    if allocation.is_some() {
        services::allocate(server, row, &mut object, None).await?;
    }
    let mut attempt = 1;
    loop {
        if generated {
            meta::set(&mut object, "name", generated_name(&base, &server.ambient.suffix(SUFFIX)));
        }
        validate(row, &object)?;
        match store_new(server, row, &object, dry_run, allocation.as_ref()).await {
            Err(status) if status.reason == "AlreadyExists" && generated && attempt < NAME_ATTEMPTS => {
                attempt += 1
            }
            result => return result,
        }
    }
}

fn generated_name(base: &str, suffix: &str) -> String {
    let end =
        base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|e| *e <= MAX_GENERATED_BASE).last();
    format!("{}{suffix}", &base[..end.unwrap_or(0)])
}

/// What only the server sets.
fn fill_system_fields(server: &Server, row: &Resource, object: &mut Value) {
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "generation",
        "resourceVersion",
    ] {
        meta::remove(object, field);
    }
    meta::set(object, "uid", server.ambient.uuid());
    meta::set(object, "creationTimestamp", meta::time(server.ambient.now()));
    if row.strategy.has_generation() {
        meta::set(object, "generation", 1);
    }
}

fn validate(row: &Resource, object: &Value) -> Result<(), Status> {
    let mut errors = validation::object_meta(row, object);
    errors.extend(row.strategy.validate(object));
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(row, meta::name(object), &errors))
}

async fn store_new(
    server: &Server,
    row: &Resource,
    object: &Value,
    dry_run: bool,
    allocation: Option<&services::Allocation>,
) -> Result<Bytes, Status> {
    let name = meta::name(object);
    let key = object::key(row, meta::namespace(object), name);
    let value = object::encode(row, object)?;
    if dry_run {
        let (existing, _) = server.store.get(&key, None).await.map_err(from_store)?;
        return match existing {
            Some(_) => Err(Status::already_exists(row, name)),
            None => serde_json::to_vec(object).map(Bytes::from).map_err(Status::internal),
        };
    }
    let op = Op::Put { value: value.clone(), ttl: row.ttl_seconds.map(Duration::from_secs) };
    match services::commit(server, allocation, &key, Expect::Absent, op).await {
        Ok(committed) => object::encoded_at(row, &value, committed.revision),
        Err(store::Error::Conflict { .. }) => Err(Status::already_exists(row, name)),
        Err(e) => Err(from_store(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label_whatever_the_base() {
        assert_eq!(generated_name("web-", "abcde"), "web-abcde");
        assert_eq!(generated_name(&"x".repeat(100), "abcde").len(), 63);
        assert!(generated_name(&"é".repeat(100), "abcde").len() <= 63);
    }
}

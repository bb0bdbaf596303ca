//! `<workload>/<name>/scale`: replicas as an autoscaling/v1 Scale.
use crate::body::RequestBody;
use crate::decode;
use crate::negotiate::Shape;
use crate::registry::Request;
use crate::registry::patch::Patch;
use crate::registry::read::fetch_value;
use crate::registry::update::{Door, change};
use crate::respond::{self, Answer};
use http::StatusCode;
use jiff::Timestamp;
use machinery::meta;
use machinery::schema;
use machinery::status::Status;
use machinery::strategy::{apply_scale, scale_of};
use machinery::table::human_duration;
use serde_json::{Value, json};

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";
const API_VERSION: &str = "autoscaling/v1";
const KIND: &str = "Scale";

pub(crate) async fn get(request: &Request<'_>) -> Result<Answer, Status> {
    let object = fetch_value(request.server, request.row, &request.target.namespace, request.name()).await?;
    answer(request, &object)
}

pub(crate) async fn update(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let dry_run = request.query.dry_run()?;
    let fields = request.query.field_validation()?;
    let format = decode::Format::of(request.headers)?;
    let bytes = decode::read(body, request.headers).await?;
    let (given, duplicates) = decode::parse(&bytes, format)?;
    let checked = decode::check(request.row, API_VERSION, KIND, SCHEMA, given, &duplicates, fields)?;
    let scale = checked.object;
    set_replicas(request, dry_run, |_| Ok(scale.clone())).await
}

pub(crate) async fn patch(request: &Request<'_>, body: RequestBody) -> Result<Answer, Status> {
    let dry_run = request.query.dry_run()?;
    let fields = request.query.field_validation()?;
    let patch = Patch::read(request, body).await?;
    let schema = schema::definition(SCHEMA).ok_or_else(|| Status::internal("no schema for Scale"))?;
    set_replicas(request, dry_run, |old| {
        let mut new = patch.apply(old, schema)?;
        decode::fill_type(&mut new, API_VERSION, KIND)?;
        patch.check(&mut new, schema, fields)?;
        Ok(new)
    })
    .await
}

/// Stores the replicas of the Scale that `transform` makes from the present one.
async fn set_replicas(
    request: &Request<'_>,
    dry_run: bool,
    mut transform: impl FnMut(&Value) -> Result<Value, Status>,
) -> Result<Answer, Status> {
    let row = request.row;
    let updated = change(request, Door::Main, dry_run, |old| {
        let scale = transform(&scale_of(row, old))?;
        let mut new = old.clone();
        apply_scale(row, &mut new, &scale)?;
        Ok(new)
    })
    .await?;
    let object: Value = serde_json::from_slice(&updated.encoded).map_err(Status::internal)?;
    answer(request, &object)
}

fn answer(request: &Request<'_>, object: &Value) -> Result<Answer, Status> {
    let scale = scale_of(request.row, object);
    let now = request.server.ambient.now();
    let shaped = match request.output.shape {
        Shape::Table(version, _) => table_of(&scale, version, now),
        Shape::AsIs | Shape::Metadata => respond::shaped(request.row, scale, request.output, now),
    };
    respond::written(StatusCode::OK, &shaped, request.output)
}

/// What `kubectl get --subresource=scale` shows, with upstream's columns.
fn table_of(scale: &Value, version: &str, now: Timestamp) -> Value {
    let column = |name: &str, kind: &str, format: &str| json!({ "name": name, "type": kind, "format": format, "description": "", "priority": 0 });
    let replicas = |pointer: &str| scale.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let made = meta::string(scale, "creationTimestamp").parse::<Timestamp>();
    let age =
        made.map_or_else(|_| "<unknown>".to_owned(), |t| human_duration(now.as_second() - t.as_second()));
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": { "resourceVersion": meta::resource_version(scale) },
        "columnDefinitions": [
            column("Name", "string", "name"), column("Desired", "integer", ""),
            column("Available", "integer", ""), column("Age", "string", ""),
        ],
        "rows": [{
            "cells": [meta::name(scale), replicas("/spec/replicas"), replicas("/status/replicas"), age],
            "object": respond::partial(scale),
        }],
    })
}

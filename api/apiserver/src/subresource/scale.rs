//! `<workload>/<name>/scale`: replicas as an autoscaling/v1 Scale.
use crate::body::RequestBody;
use crate::decode;
use crate::error::stale;
use crate::negotiate::Shape;
use crate::registry::Request;
use crate::registry::patch::Patch;
use crate::registry::read::fetch_value;
use crate::registry::update::{Door, change};
use crate::respond::{self, Answer};
use http::StatusCode;
use machinery::field::{Error as FieldError, Path};
use machinery::meta;
use machinery::schema;
use machinery::selector::LabelSelector;
use machinery::status::Status;
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
    let bytes = decode::read(body).await?;
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
        let scale = transform(&scale_of(old))?;
        let version = meta::resource_version(&scale);
        if !version.is_empty() && version != meta::resource_version(old) {
            return Err(stale(row, request.name()));
        }
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            let error = FieldError::invalid(path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid(row, request.name(), &[error]));
        }
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(replicas);
        Ok(new)
    })
    .await?;
    let object: Value = serde_json::from_slice(&updated.encoded).map_err(Status::internal)?;
    answer(request, &object)
}

fn answer(request: &Request<'_>, object: &Value) -> Result<Answer, Status> {
    let mut output = request.output;
    // A Scale has no columns of its own; kubectl shows what it gets.
    if output.shape != Shape::Metadata {
        output.shape = Shape::AsIs;
    }
    let scale = respond::shaped(request.row, scale_of(object), output, request.server.ambient.now());
    respond::written(StatusCode::OK, &scale, output)
}

/// The Scale of a workload.
fn scale_of(object: &Value) -> Value {
    let mut metadata = json!({ "name": meta::name(object) });
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let value = meta::string(object, field);
        if !value.is_empty() {
            metadata[field] = json!(value);
        }
    }
    let replicas = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({ "replicas": replicas("/status/replicas") });
    if let Some(selector) = object.pointer("/spec/selector").and_then(|s| LabelSelector::from_object(s).ok())
    {
        status["selector"] = json!(selector.to_string());
    }
    // A Deployment without replicas has one; its strategy has filled that in.
    json!({
        "kind": KIND, "apiVersion": API_VERSION, "metadata": metadata,
        "spec": { "replicas": replicas("/spec/replicas") }, "status": status,
    })
}

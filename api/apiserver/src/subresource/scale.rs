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
use machinery::schema;
use machinery::status::Status;
use machinery::strategy::{apply_scale, scale_of};
use serde_json::Value;

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
    let mut output = request.output;
    // A Scale has no columns of its own; kubectl shows what it gets.
    if output.shape != Shape::Metadata {
        output.shape = Shape::AsIs;
    }
    let scale =
        respond::shaped(request.row, scale_of(request.row, object), output, request.server.ambient.now());
    respond::written(StatusCode::OK, &scale, output)
}

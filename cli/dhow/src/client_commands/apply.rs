//! `dhow apply`.
use crate::client_commands::merge::three_way;
use crate::connect::{Cluster, Connection, explain};
use crate::resources::{Resource, Resources};
use anyhow::{Context, Result, bail};
use http::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Make objects as files say, creating or changing them
///
/// Example:
///   dhow apply -f app.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// YAML or JSON files or directories of them (`-` is standard input)
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
}

/// Where kubectl, too, keeps what was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Largest file read: the store takes objects of up to 1.5 MiB, and a file may hold many.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The objects in files and directories, lists taken apart, in order.
pub(crate) fn read_files(files: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file.is_dir() {
            let mut inside: Vec<PathBuf> = std::fs::read_dir(file)
                .with_context(|| format!("reading {}", file.display()))?
                .filter_map(|e| e.ok().map(|e| e.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"))
                .collect();
            inside.sort();
            for path in inside {
                parse(&read(&path)?, &path, &mut objects)?;
            }
        } else {
            parse(&read(file)?, file, &mut objects)?;
        }
    }
    Ok(objects)
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_FILE_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(MAX_FILE_BYTES).read_to_string(&mut text))
    };
    read.with_context(|| format!("reading {}", path.display()))?;
    Ok(text)
}

fn parse(text: &str, path: &Path, objects: &mut Vec<Value>) -> Result<()> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("{} is not valid YAML", path.display()))?;
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(ref o) if o.get("kind").is_some_and(|k| k == "List") => {
                objects.extend(document["items"].as_array().cloned().unwrap_or_default());
            }
            Value::Object(_) => objects.push(document),
            _ => bail!("{} holds something that is not an object", path.display()),
        }
    }
    Ok(())
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let objects = read_files(&args.filename)?;
    if objects.is_empty() {
        bail!("there are no objects in the files");
    }
    for object in objects {
        let resource = resources.of(&object)?;
        let (name, done) = apply(&connection, resource, object).await?;
        println!("{} {done}", resource.name_of(&name));
    }
    Ok(())
}

/// Makes one object as `wanted` says. Its name, and what was done: `created`, `configured`, `unchanged`.
pub(crate) async fn apply(
    connection: &Connection,
    resource: &Resource,
    mut wanted: Value,
) -> Result<(String, &'static str)> {
    let Some(name) = wanted["metadata"]["name"].as_str().map(str::to_owned) else {
        bail!("an object to apply must have a metadata.name");
    };
    let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or(&connection.namespace).to_owned();
    if let Some(annotations) = wanted["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let said = serde_json::to_string(&wanted)? + "\n";
    wanted["metadata"]["annotations"][LAST_APPLIED] = json!(said);
    let collection = resource.path(Some(&namespace));
    const MANAGER: &str = "fieldManager=dhow-apply&fieldValidation=Strict";
    let live: Value =
        match connection.client.request(Request::get(format!("{collection}/{name}")).body(Vec::new())?).await
        {
            Ok(live) => live,
            Err(e) if client::is_not_found(&e) => {
                let request = Request::post(format!("{collection}?{MANAGER}"))
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(serde_json::to_vec(&wanted)?)?;
                let _: Value = connection.client.request(request).await.map_err(explain)?;
                return Ok((name, "created"));
            }
            Err(e) => return Err(explain(e)),
        };
    let last = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .and_then(|text| Value::deserialize(&mut serde_json::Deserializer::from_str(text)).ok())
        .unwrap_or(Value::Null);
    let kind = machinery::resource::lookup_kind(&resource.api_version(), &resource.kind);
    let schema = kind.and_then(|r| machinery::schema::definition(r.schema));
    let patch = three_way(&last, &wanted, &live, schema);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok((name, "unchanged"));
    }
    let content_type = if schema.is_some() {
        "application/strategic-merge-patch+json"
    } else {
        "application/merge-patch+json"
    };
    let request = Request::patch(format!("{collection}/{name}?{MANAGER}"))
        .header(http::header::CONTENT_TYPE, content_type)
        .body(serde_json::to_vec(&patch)?)?;
    let _: Value = connection.client.request(request).await.map_err(explain)?;
    Ok((name, "configured"))
}

//! `dhow get`.
use crate::client_commands::watch::{self, Selection, Shape};
use crate::connect::{Cluster, Connection, explain};
use crate::output::{self, Format};
use crate::resources::{Resource, Resources, targets};
use anyhow::{Result, bail};
use http::Request;
use serde_json::{Value, json};

pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Show objects
///
/// Examples:
///   dhow get pods
///   dhow get deploy,svc -A
///   dhow get pod hello -o yaml
///   dhow get pods -w
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// KIND [NAME…] or KIND/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    /// wide, json, yaml or name
    #[arg(short, long)]
    output: Option<Format>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects whose labels match, for example `app=web,tier!=test`
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Go on, with a line for each change
    #[arg(short, long)]
    watch: bool,
    /// Only objects whose fields match, for example `status.phase=Running`
    #[arg(long, value_name = "FIELDS")]
    field_selector: Option<String>,
}

/// A query string of the parameters that are there.
pub(crate) fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        if let Some(value) = value {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            for byte in value.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                        text.push(byte as char)
                    }
                    other => text.push_str(&format!("%{other:02X}")),
                }
            }
        }
    }
    text
}

/// The labels that a selector of an object wants, `key=value` each, as a `labelSelector` has them.
pub(crate) fn equalities(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

/// One object.
pub(crate) async fn object(connection: &Connection, resource: &Resource, name: &str) -> Result<Value> {
    let path = format!("{}/{name}", resource.path(Some(&connection.namespace)));
    connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let wanted = targets(&resources, &args.what)?;
    let format = args.output.unwrap_or_default();
    let several = wanted.len() > 1;
    if args.watch && (several || !matches!(format, Format::Table | Format::Wide)) {
        bail!("-w watches one kind, as a table: leave out the other kinds and -o");
    }
    let mut objects: Vec<Value> = Vec::new();
    let mut printed = false;
    for (resource, name) in wanted {
        if args.all_namespaces && name.is_some() {
            bail!("a name cannot be looked up in all namespaces: leave out either the name or -A");
        }
        let namespace = (!args.all_namespaces).then_some(connection.namespace.as_str());
        let mut path = resource.path(namespace);
        if let Some(name) = &name {
            path = format!("{path}/{name}");
        }
        if args.watch {
            let by_name = name.as_ref().map(|name| format!("metadata.name={name}"));
            let fields = args.field_selector.iter().chain(&by_name).cloned().collect::<Vec<_>>().join(",");
            let selection = Selection { labels: args.selector.clone(), fields };
            let shape = Shape {
                wide: format == Format::Wide,
                namespaces: args.all_namespaces && resource.namespaced,
            };
            return watch::run(&connection, &resource.path(namespace), &selection, shape).await;
        }
        path += &query(&[
            ("labelSelector", args.selector.as_deref()),
            ("fieldSelector", args.field_selector.as_deref()),
        ]);
        let as_table = matches!(format, Format::Table | Format::Wide);
        let accept = if as_table { TABLE } else { "application/json" };
        let request = Request::get(path).header(http::header::ACCEPT, accept).body(Vec::new())?;
        let answer: Value = connection.client.request(request).await.map_err(explain)?;
        if as_table {
            if answer["rows"].as_array().is_none_or(Vec::is_empty) {
                continue;
            }
            let with_namespace = args.all_namespaces && resource.namespaced;
            let mut text = output::table(&answer, format == Format::Wide, with_namespace)?;
            if several && name.is_none() {
                text = prefix_names(&text, resource, args.all_namespaces && resource.namespaced);
            }
            print!("{}{text}", if printed && name.is_none() { "\n" } else { "" });
            printed = true;
        } else if answer["items"].is_array() {
            let (kind, version) = (&resource.kind, resource.api_version());
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            objects.extend(items.into_iter().map(|mut item| {
                item["kind"] = json!(kind);
                item["apiVersion"] = json!(version);
                item
            }));
        } else {
            objects.push(answer);
        }
    }
    match format {
        Format::Table | Format::Wide => {
            if !printed {
                let place = if args.all_namespaces {
                    String::new()
                } else {
                    format!(" in namespace {}", connection.namespace)
                };
                eprintln!("No resources found{place}.");
            }
        }
        Format::Name => {
            for object in &objects {
                println!(
                    "{}",
                    resources.of(object)?.name_of(object["metadata"]["name"].as_str().unwrap_or_default())
                );
            }
        }
        Format::Json | Format::Yaml => {
            let single = args.what.len() > 1 || args.what[0].contains('/');
            let value = match &objects[..] {
                [one] if single => one.clone(),
                _ => json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects }),
            };
            print!("{}", if format == Format::Json { output::json(&value)? } else { output::yaml(&value)? });
        }
    }
    Ok(())
}

/// Names with their kind in front, for a listing of several kinds.
fn prefix_names(text: &str, resource: &Resource, after_namespace: bool) -> String {
    let rows: Vec<Vec<String>> = text
        .lines()
        .enumerate()
        .map(|(n, line)| {
            let mut cells: Vec<String> =
                line.split("   ").map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect();
            let at = usize::from(after_namespace);
            if n > 0 && at < cells.len() {
                cells[at] = resource.name_of(&cells[at]);
            }
            cells
        })
        .collect();
    output::columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::query;

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(
            query(&[("a", None), ("b", Some("x=1,y in (a)")), ("c", Some("1"))]),
            "?b=x%3D1%2Cy%20in%20%28a%29&c=1"
        );
    }
}

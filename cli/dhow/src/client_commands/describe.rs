//! `dhow describe`.
use crate::client_commands::get::{self, query};
use crate::connect::{Cluster, Connection, explain};
use crate::output;
use crate::resources::{Resource, Resources, targets};
use anyhow::Result;
use http::Request;
use serde_json::Value;

/// Show an object in full, with the events about it
///
/// Example:
///   dhow describe pod hello
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// KIND [NAME…] or KIND/NAME…
    #[arg(required = true)]
    what: Vec<String>,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let mut first = true;
    for (resource, name) in targets(&resources, &args.what)? {
        let objects = match name {
            Some(name) => vec![get::object(&connection, resource, &name).await?],
            None => {
                let path = resource.path(Some(&connection.namespace));
                let list: Value =
                    connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
                list["items"].as_array().cloned().unwrap_or_default()
            }
        };
        for object in objects {
            if !first {
                println!("\n");
            }
            first = false;
            print!("{}", describe(resource, &object)?);
            print!("{}", events(&connection, &object).await?);
        }
    }
    Ok(())
}

fn describe(resource: &Resource, object: &Value) -> Result<String> {
    let metadata = &object["metadata"];
    let mut text = format!("Name:         {}\n", metadata["name"].as_str().unwrap_or_default());
    if resource.namespaced {
        text += &format!("Namespace:    {}\n", metadata["namespace"].as_str().unwrap_or_default());
    }
    text += &format!("Kind:         {} ({})\n", resource.kind, resource.api_version());
    text += &format!("Created:      {}\n", metadata["creationTimestamp"].as_str().unwrap_or_default());
    for (title, field) in [("Labels:", "labels"), ("Annotations:", "annotations")] {
        let mut title = title;
        for (key, value) in metadata[field].as_object().into_iter().flatten() {
            // What was applied last is the object itself once more.
            if key != "kubectl.kubernetes.io/last-applied-configuration" {
                text += &format!("{title:<14}{key}={}\n", value.as_str().unwrap_or_default());
                title = "";
            }
        }
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        text += &format!(
            "{:<14}{}/{}\n",
            "Owner:",
            owner["kind"].as_str().unwrap_or_default(),
            owner["name"].as_str().unwrap_or_default()
        );
    }
    for section in object.as_object().into_iter().flatten() {
        let (name, value) = section;
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            let mut title = name.clone();
            if let Some(first) = title.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            text += &format!("{title}:\n");
            for line in output::yaml(value)?.lines() {
                text += &format!("  {line}\n");
            }
        }
    }
    Ok(text)
}

async fn events(connection: &Connection, object: &Value) -> Result<String> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let path = "/api/v1/events".to_owned()
        + &query(&[("fieldSelector", Some(&format!("involvedObject.uid={uid}")))]);
    let list: Value =
        connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    let mut rows =
        vec![["TYPE", "REASON", "COUNT", "LAST SEEN", "FROM", "MESSAGE"].map(str::to_owned).to_vec()];
    let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    let time =
        |e: &Value| e["lastTimestamp"].as_str().or(e["eventTime"].as_str()).unwrap_or_default().to_owned();
    events.sort_by_key(|e| time(e));
    for event in events {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        rows.push(vec![
            text(&event["type"]),
            text(&event["reason"]),
            event["count"].as_u64().unwrap_or(1).to_string(),
            time(event),
            text(&event["source"]["component"]),
            text(&event["message"]).trim().to_owned(),
        ]);
    }
    if rows.len() == 1 {
        return Ok("Events:       <none>\n".to_owned());
    }
    let table: String = output::columns(&rows).lines().map(|line| format!("  {line}\n")).collect();
    Ok(format!("Events:\n{table}"))
}

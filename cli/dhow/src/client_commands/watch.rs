//! `dhow get -w`: what is there, then a line for each change.
use crate::client_commands::get::{TABLE, query};
use crate::connect::{Connection, explain};
use crate::output;
use anyhow::{Context, Result, bail};
use futures::AsyncBufReadExt;
use futures::TryStreamExt;
use http::Request;
use serde_json::Value;

/// Which objects of a collection.
pub(crate) struct Selection {
    pub(crate) labels: Option<String>,
    pub(crate) fields: String,
}

/// How they are shown.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) wide: bool,
    pub(crate) namespaces: bool,
}

/// Prints until it is stopped. A watch that the server ends, as it does after some minutes, goes on where it was; one
/// that it has forgotten begins anew.
pub(crate) async fn run(
    connection: &Connection,
    path: &str,
    selection: &Selection,
    shape: Shape,
) -> Result<()> {
    let fields = Some(selection.fields.as_str()).filter(|f| !f.is_empty());
    let mut printed = Printed::default();
    loop {
        let list = query(&[("labelSelector", selection.labels.as_deref()), ("fieldSelector", fields)]);
        let table: Value =
            connection.client.request(request(&format!("{path}{list}"))?).await.map_err(explain)?;
        let mut version = table["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        printed.show(&table, shape)?;
        while one(connection, path, selection, fields, shape, &mut version, &mut printed).await? {}
    }
}

fn request(path: &str) -> Result<Request<Vec<u8>>> {
    Ok(Request::get(path).header(http::header::ACCEPT, TABLE).body(Vec::new())?)
}

/// One watch; false when the server no longer knows the version.
async fn one(
    connection: &Connection,
    path: &str,
    selection: &Selection,
    fields: Option<&str>,
    shape: Shape,
    version: &mut String,
    printed: &mut Printed,
) -> Result<bool> {
    let parameters = query(&[
        ("watch", Some("true")),
        ("allowWatchBookmarks", Some("true")),
        ("resourceVersion", Some(version)),
        ("labelSelector", selection.labels.as_deref()),
        ("fieldSelector", fields),
    ]);
    let events = connection.client.request_stream(request(&format!("{path}{parameters}"))?).await;
    let events = match events {
        Ok(events) => events,
        Err(e) if client::is_expired(&e) => return Ok(false),
        Err(e) => return Err(explain(e)),
    };
    let mut lines = std::pin::pin!(events.lines());
    while let Some(line) = lines.try_next().await.context("the watch broke off")? {
        let event: Value =
            serde_json::from_str(&line).context("the server sent something that is not an event")?;
        let object = &event["object"];
        if event["type"] == "ERROR" {
            if object["code"] == 410 {
                return Ok(false);
            }
            bail!("{}", object["message"].as_str().unwrap_or("the watch failed"));
        }
        let of_row = &object["rows"][0]["object"]["metadata"]["resourceVersion"];
        if let Some(new) =
            of_row.as_str().or(object["metadata"]["resourceVersion"].as_str()).filter(|v| !v.is_empty())
        {
            *version = new.to_owned();
        }
        if event["type"] != "BOOKMARK" {
            printed.show(object, shape)?;
        }
    }
    Ok(true)
}

/// What is on the screen: the columns' names and widths. Only the first table brings the columns.
#[derive(Default)]
struct Printed {
    columns: Value,
    widths: Vec<usize>,
    /// Whether the names of the columns stand there already: they come with the first row.
    begun: bool,
}

impl Printed {
    fn show(&mut self, table: &Value, shape: Shape) -> Result<()> {
        let mut table = table.clone();
        if table["columnDefinitions"].as_array().is_some_and(|c| !c.is_empty()) {
            self.columns = table["columnDefinitions"].clone();
        }
        table["columnDefinitions"] = self.columns.clone();
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let mut rows = output::table_rows(&table, shape.wide, shape.namespaces)?;
        if std::mem::replace(&mut self.begun, true) {
            rows.remove(0);
        }
        print!("{}", output::columns_at_least(&rows, &mut self.widths));
        Ok(())
    }
}

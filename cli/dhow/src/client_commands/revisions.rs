//! `dhow revisions`, `dhow rollback`.
use crate::client_commands::function::{self, condition, shares};
use crate::connect::{Cluster, Connection};
use crate::output;
use anyhow::{Result, bail};
use client::dhow::v1alpha1::{Function, LATEST, Revision};
use serde_json::json;

/// List the revisions of a function, and who serves what
///
/// Example:
///   dhow revisions hello
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ListArgs {
    /// The function's name
    name: String,
}

/// Send all requests of a function to an earlier revision
///
/// The old revision is started and gets the requests once it is ready; none is lost. From then on, new revisions get
/// none by themselves; `dhow traffic NAME latest=100` ends that.
///
/// Examples:
///   dhow rollback hello
///   dhow rollback hello --to r3
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct RollbackArgs {
    /// The function's name
    name: String,
    /// The revision to go back to [default: the one that served before]
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
    /// Seconds to wait until the revision serves
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

pub(crate) async fn list(cluster: &Cluster, args: ListArgs) -> Result<()> {
    let connection = cluster.connect().await?;
    let f = function::get(&connection, &args.name).await?;
    let revisions = function::revisions(&connection, &f).await?;
    let mut rows =
        vec![["REVISION", "TRAFFIC", "READY", "STATE", "IMAGE", "AGE"].map(str::to_owned).to_vec()];
    #[expect(clippy::disallowed_methods, reason = "a command says how old things are when it is given")]
    let now = jiff::Timestamp::now();
    for r in &revisions {
        rows.push(row(&f, r, now));
    }
    if rows.len() == 1 {
        eprintln!("{} has no revisions yet; `dhow describe fn {}` says why.", args.name, args.name);
    } else {
        print!("{}", output::columns(&rows));
    }
    Ok(())
}

fn row(f: &Function, r: &Revision, now: jiff::Timestamp) -> Vec<String> {
    let name = r.metadata.name.clone().unwrap_or_default();
    let traffic = f.status.as_ref().map(|s| s.traffic.as_slice()).unwrap_or_default();
    let own = traffic.iter().filter(|t| t.revision == name);
    let own: Vec<String> = own
        .map(|t| match t.headers.is_empty() {
            true => format!("{} %", t.percent),
            false => t.headers.iter().map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join(", "),
        })
        .collect();
    let status = r.status.clone().unwrap_or_default();
    let (is, reason, _) = condition(&status.conditions, "Ready").unwrap_or(("Unknown", "Unknown", ""));
    let created = r.metadata.creation_timestamp.as_ref();
    vec![
        name,
        if own.is_empty() { "-".to_owned() } else { own.join(" + ") },
        format!("{}/{}", status.ready_replicas, status.replicas),
        if is == "True" { "Ready".to_owned() } else { reason.to_owned() },
        r.spec.image.clone(),
        created.map_or_else(String::new, |t| {
            machinery::table::human_duration(now.as_second() - t.0.as_second())
        }),
    ]
}

pub(crate) async fn rollback(cluster: &Cluster, args: RollbackArgs) -> Result<()> {
    let connection = cluster.connect().await?;
    let f = function::get(&connection, &args.name).await?;
    let revisions = function::revisions(&connection, &f).await?;
    let target = match &args.to {
        Some(word) => named(&args.name, word, &revisions)?,
        None => before(&f, &revisions)?,
    };
    let written = pin(&connection, &args.name, &target).await?;
    let moved = function::traffic_moved(&connection, &written, args.timeout).await?;
    let traffic = moved.status.map(|s| s.traffic).unwrap_or_default();
    println!("{} serves {}", args.name, shares(&traffic));
    Ok(())
}

async fn pin(connection: &Connection, name: &str, revision: &str) -> Result<Function> {
    let patch = json!({ "spec": { "traffic": [{ "revision": revision, "percent": 100 }] } });
    function::merge(connection, name, &patch).await
}

/// The revision a word means, which must be there.
fn named(function: &str, word: &str, revisions: &[Revision]) -> Result<String> {
    let name = function::revision_name(function, word)?;
    if name != LATEST && !revisions.iter().any(|r| r.metadata.name.as_ref() == Some(&name)) {
        bail!("{function} has no revision {name}; `dhow revisions {function}` lists them");
    }
    Ok(name)
}

/// The newest revision older than the one that serves, which has served itself.
fn before(f: &Function, revisions: &[Revision]) -> Result<String> {
    let name = f.metadata.name.as_deref().unwrap_or_default();
    let traffic = f.status.as_ref().map(|s| s.traffic.as_slice()).unwrap_or_default();
    let primary = traffic.iter().filter(|t| t.headers.is_empty()).max_by_key(|t| t.percent);
    let Some(primary) = primary else {
        bail!("no revision of {name} serves; `dhow rollback {name} --to REVISION` chooses one");
    };
    let now = function::number(name, &primary.revision);
    let has_served =
        |r: &&Revision| r.status.as_ref().is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Active"));
    let number = |r: &&Revision| function::number(name, r.metadata.name.as_deref().unwrap_or_default());
    let older = revisions.iter().filter(|r| number(r) < now).find(has_served);
    match older.and_then(|r| r.metadata.name.clone()) {
        Some(name) => Ok(name),
        None => bail!(
            "{} serves, and no older revision has served before it; `dhow revisions {name}` lists what there is to go to",
            primary.revision
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    fn revision(number: u32, served: bool) -> Revision {
        let conditions = if served {
            json!([{ "type": "Active", "status": "False", "reason": "r", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }])
        } else {
            json!([])
        };
        let object = json!({ "metadata": { "name": format!("f-r{number}") }, "spec": { "image": "x" },
            "status": { "conditions": conditions } });
        from_value(object).expect("a revision")
    }

    #[test]
    fn going_back_means_the_newest_that_served_before() {
        let at = |serving: &str| -> Function {
            let traffic = json!([{ "revision": serving, "percent": 100, "service": serving }]);
            from_value(json!({ "metadata": { "name": "f" }, "status": { "traffic": traffic } }))
                .expect("a function")
        };
        let all = [revision(4, true), revision(3, false), revision(2, true), revision(1, true)];
        assert_eq!(before(&at("f-r4"), &all).expect("a revision"), "f-r2");
        assert_eq!(before(&at("f-r2"), &all).expect("a revision"), "f-r1");
        assert!(before(&at("f-r1"), &all).unwrap_err().to_string().contains("dhow revisions f"));
        assert!(before(&Function::default(), &all).is_err());
        assert!(named("f", "r9", &all).unwrap_err().to_string().contains("f-r9"));
    }
}

//! `dhow rollout`.
use crate::client_commands::get::{self, query};
use crate::connect::{Cluster, Connection, explain};
use crate::resources::{Resource, Resources, targets};
use anyhow::{Result, bail};
use http::Request;
use serde_json::{Value, json};
use std::time::Duration;

/// Watch, undo or repeat the rollout of a Deployment
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Wait until the rollout is complete
    Status {
        #[command(flatten)]
        target: Target,
        /// How long to wait, for example 30s or 5m; 0s waits as long as it takes
        #[arg(long, default_value = "0s", value_name = "TIME", value_parser = duration)]
        timeout: Duration,
    },
    /// Go back to an earlier revision
    Undo {
        #[command(flatten)]
        target: Target,
        /// The revision to go back to [default: the one before]
        #[arg(long)]
        to_revision: Option<u64>,
    },
    /// List the revisions
    History(Target),
    /// Replace every pod
    Restart(Target),
}

#[derive(clap::Args)]
struct Target {
    /// KIND NAME or KIND/NAME, for example deploy/hello
    #[arg(required = true)]
    what: Vec<String>,
}

/// `30s`, `5m`, `1h30m`, `500ms`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a time such as 30s or 5m");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut rest, mut all) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let milliseconds = match &rest[digits..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(refuse()),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(refuse)?;
        all = all.checked_add(part).ok_or_else(refuse)?;
        rest = &rest[unit..];
    }
    Ok(all)
}

const REVISION: &str = "deployment.kubernetes.io/revision";
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let target = match &args.command {
        Command::Status { target: t, .. }
        | Command::History(t)
        | Command::Restart(t)
        | Command::Undo { target: t, .. } => t,
    };
    let (resource, name) = match &targets(&resources, &target.what)?[..] {
        [(resource, Some(name))] if resource.kind == "Deployment" => (*resource, name.clone()),
        _ => bail!("name one Deployment, for example `dhow rollout status deploy/NAME`"),
    };
    match args.command {
        Command::Status { timeout, .. } if timeout.is_zero() => status(&connection, resource, &name).await,
        Command::Status { timeout, .. } => {
            match tokio::time::timeout(timeout, status(&connection, resource, &name)).await {
                Ok(result) => result,
                Err(_) => bail!(
                    "deployment {name:?} is not rolled out after {} s; `dhow describe deploy {name}` says why",
                    timeout.as_secs()
                ),
            }
        }
        Command::History(_) => {
            println!("REVISION   IMAGES");
            for set in replica_sets(&connection, resource, &name).await? {
                let images: Vec<_> = set["spec"]["template"]["spec"]["containers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|c| c["image"].as_str())
                    .collect();
                println!("{:<10} {}", revision(&set), images.join(","));
            }
            Ok(())
        }
        Command::Restart(_) => {
            #[expect(clippy::disallowed_methods, reason = "a command says when it was given")]
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now });
            let body = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
            patch(&connection, resource, &name, "application/strategic-merge-patch+json", &body).await?;
            println!("{} restarted", resource.name_of(&name));
            Ok(())
        }
        Command::Undo { to_revision, .. } => undo(&connection, resource, &name, to_revision).await,
    }
}

async fn patch(
    c: &Connection,
    resource: &Resource,
    name: &str,
    content_type: &str,
    body: &Value,
) -> Result<()> {
    let request = Request::patch(format!("{}/{name}", resource.path(Some(&c.namespace))))
        .header(http::header::CONTENT_TYPE, content_type)
        .body(serde_json::to_vec(body)?)?;
    let _: Value = c.client.request(request).await.map_err(explain)?;
    Ok(())
}

/// What is still to be done, or `None` when the rollout is complete; an error when it has failed.
fn remaining(deployment: &Value) -> Result<Option<String>> {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let number = |v: &Value| v.as_i64().unwrap_or(0);
    let status = &deployment["status"];
    if number(&status["observedGeneration"]) < number(&deployment["metadata"]["generation"]) {
        return Ok(Some("Waiting for deployment spec update to be observed...".to_owned()));
    }
    let failed = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
    if failed {
        bail!("deployment {name:?} exceeded its progress deadline; `dhow describe deploy {name}` says why");
    }
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let (updated, all, available) = (
        number(&status["updatedReplicas"]),
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
    );
    let waiting =
        |what: String| Ok(Some(format!("Waiting for deployment {name:?} rollout to finish: {what}...")));
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if all > updated {
        return waiting(format!("{} old replicas are pending termination", all - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok(None)
}

async fn status(connection: &Connection, resource: &Resource, name: &str) -> Result<()> {
    let mut said = String::new();
    loop {
        match remaining(&get::object(connection, resource, name).await?)? {
            None => {
                println!("deployment {name:?} successfully rolled out");
                return Ok(());
            }
            Some(text) => {
                if text != said {
                    println!("{text}");
                    said = text;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

pub(crate) fn revision(set: &Value) -> u64 {
    set["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The replica sets of a deployment, oldest revision first.
async fn replica_sets(connection: &Connection, resource: &Resource, name: &str) -> Result<Vec<Value>> {
    let deployment = get::object(connection, resource, name).await?;
    let selector = get::equalities(&deployment["spec"]["selector"]["matchLabels"]);
    let path = format!("/apis/apps/v1/namespaces/{}/replicasets", connection.namespace)
        + &query(&[("labelSelector", Some(&selector))]);
    let list: Value =
        connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    let uid = &deployment["metadata"]["uid"];
    let owned = |set: &&Value| {
        set["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|o| o["uid"] == *uid)
    };
    let mut sets: Vec<Value> =
        list["items"].as_array().into_iter().flatten().filter(owned).cloned().collect();
    sets.sort_by_key(revision);
    Ok(sets)
}

async fn undo(connection: &Connection, resource: &Resource, name: &str, to: Option<u64>) -> Result<()> {
    let sets = replica_sets(connection, resource, name).await?;
    let chosen = match to {
        Some(wanted) => sets.iter().find(|s| revision(s) == wanted),
        None => sets.iter().rev().nth(1),
    };
    let Some(chosen) = chosen else {
        match to {
            Some(wanted) => {
                bail!("there is no revision {wanted}; `dhow rollout history deploy/{name}` lists them")
            }
            None => bail!("no rollout history found for deployment {name:?}"),
        }
    };
    let mut template = chosen["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    let body = json!([{ "op": "replace", "path": "/spec/template", "value": template }]);
    patch(connection, resource, name, "application/json-patch+json", &body).await?;
    println!("{} rolled back", resource.name_of(name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_kubectl_reads_them() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("1h30m", 5400), ("90", 90), ("0s", 0), ("1m500ms", 60)]
        {
            assert_eq!(duration(text).map(|d| d.as_secs()), Ok(seconds), "{text}");
        }
        for text in ["s", "5x", "-1s", "5 s", "1m5x", "99999999999999999999s", "9999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rollout_is_complete_only_when_every_new_replica_is_available() {
        let at = |status: Value| {
            remaining(
                &json!({ "metadata": { "name": "d", "generation": 2 }, "spec": { "replicas": 2 }, "status": status }),
            )
        };
        let done =
            json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert_eq!(at(done.clone()).expect("no failure"), None);
        for (field, value, says) in [
            ("observedGeneration", 1, "spec update"),
            ("updatedReplicas", 1, "1 out of 2 new"),
            ("replicas", 3, "1 old replicas"),
            ("availableReplicas", 0, "0 of 2 updated"),
        ] {
            let mut status = done.clone();
            status[field] = json!(value);
            assert!(at(status).expect("no failure").expect("something").contains(says));
        }
        let mut failed = done;
        failed["conditions"] = json!([{ "type": "Progressing", "reason": "ProgressDeadlineExceeded" }]);
        assert!(at(failed).is_err());
    }
}

//! Functions and their revisions, as the commands read and change them.
use crate::connect::{Connection, explain};
use anyhow::{Result, bail};
use client::dhow::v1alpha1::{Function, FunctionStatus, LATEST, Revision, TrafficStatus, TrafficTarget};
use client::kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::Value;
use std::time::Duration;

/// Between two looks at an object that is waited for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The label on everything that was made for a function.
pub(crate) const FUNCTION: &str = "dhow.dev/function";

fn functions(connection: &Connection) -> Api<Function> {
    Api::namespaced(connection.client.clone(), &connection.namespace)
}

/// The function called so; a sentence with the next step if there is none.
pub(crate) async fn get(connection: &Connection, name: &str) -> Result<Function> {
    match functions(connection).get(name).await {
        Ok(function) => Ok(function),
        Err(e) if client::is_not_found(&e) => {
            bail!("there is no function {name} in namespace {}; `dhow ls` lists them", connection.namespace)
        }
        Err(e) => Err(explain(e)),
    }
}

/// Merges into the function.
pub(crate) async fn merge(connection: &Connection, name: &str, patch: &Value) -> Result<Function> {
    let params = PatchParams { field_manager: Some("dhow".into()), ..PatchParams::default() };
    functions(connection).patch(name, &params, &Patch::Merge(patch)).await.map_err(explain)
}

/// Its revisions, the newest first.
pub(crate) async fn revisions(connection: &Connection, function: &Function) -> Result<Vec<Revision>> {
    let name = function.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Revision> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let params = ListParams::default().labels(&format!("{FUNCTION}={name}"));
    let mut all = api.list(&params).await.map_err(explain)?.items;
    let uid = function.metadata.uid.as_deref().unwrap_or_default();
    all.retain(|r| r.metadata.owner_references.iter().flatten().any(|o| o.uid == uid));
    all.sort_by_key(|r| std::cmp::Reverse(number(name, r.metadata.name.as_deref().unwrap_or_default())));
    Ok(all)
}

/// N of `<function>-r<N>`.
pub(crate) fn number(function: &str, revision: &str) -> u64 {
    let digits = revision.strip_prefix(function).and_then(|rest| rest.strip_prefix("-r"));
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

/// The full name of the revision that a word means: `hello-r3`, `r3`, `3`, `latest`.
pub(crate) fn revision_name(function: &str, word: &str) -> Result<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let short = word.strip_prefix('r').unwrap_or(word);
    if word == LATEST {
        return Ok(word.to_owned());
    }
    if is_number(short) {
        return Ok(format!("{function}-r{short}"));
    }
    match word.strip_prefix(function).and_then(|rest| rest.strip_prefix("-r")) {
        Some(digits) if is_number(digits) => Ok(word.to_owned()),
        _ => bail!("{word:?} is no revision of {function}: name one as r3 or {function}-r3, or say latest"),
    }
}

/// The condition of a type: its status, reason and message.
pub(crate) fn condition<'a>(
    conditions: &'a [client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    kind: &str,
) -> Option<(&'a str, &'a str, &'a str)> {
    let c = conditions.iter().find(|c| c.type_ == kind)?;
    Some((&c.status, &c.reason, &c.message))
}

/// `hello-r1 90 %, hello-r2 10 %, hello-r3 for x-canary: 1`.
pub(crate) fn shares(traffic: &[TrafficStatus]) -> String {
    let one = |t: &TrafficStatus| {
        if t.headers.is_empty() {
            return format!("{} {} %", t.revision, t.percent);
        }
        let headers: Vec<String> = t.headers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        format!("{} for {}", t.revision, headers.join(", "))
    };
    if traffic.is_empty() {
        return "nothing".to_owned();
    }
    traffic.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Waits until the controller has done what the function, as written, wants of its traffic.
pub(crate) async fn traffic_moved(
    connection: &Connection,
    written: &Function,
    timeout: u64,
) -> Result<Function> {
    let name = written.metadata.name.as_deref().unwrap_or_default();
    let moved = async {
        loop {
            let function = get(connection, name).await?;
            let status = function.status.clone().unwrap_or_default();
            if status.observed_generation >= written.metadata.generation {
                let (is, reason, message) = condition(&status.conditions, "Ready").unwrap_or_default();
                if wanted_is_served(&written.spec.traffic, &status) {
                    return Ok(function);
                }
                // One that is not wanted here may fail as it likes.
                let named = |t: &TrafficTarget| message.starts_with(&format!("{} ", t.revision));
                let failed = reason == "RevisionFailed" && written.spec.traffic.iter().any(named);
                if is == "False" && (failed || matches!(reason, "RevisionMissing" | "NameTaken")) {
                    bail!("{message}; `dhow revisions {name}` shows them");
                }
                if reason == "ScaledToZero" {
                    bail!("{name} has no replicas: `dhow scale fn/{name} --replicas 1` starts it");
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(timeout), moved).await {
        Ok(result) => result,
        Err(_) => {
            let status = get(connection, name).await?.status.unwrap_or_default();
            let (_, _, message) = condition(&status.conditions, "Ready").unwrap_or_default();
            bail!(
                "the traffic has not moved after {timeout} s: {message}; `dhow describe fn {name}` shows more"
            )
        }
    }
}

/// Whether what is served is what the targets say.
fn wanted_is_served(targets: &[TrafficTarget], status: &FunctionStatus) -> bool {
    let latest = status.latest_ready_revision.as_deref();
    let everything =
        [TrafficTarget { revision: LATEST.into(), percent: Some(100), ..TrafficTarget::default() }];
    let targets = if targets.is_empty() { &everything[..] } else { targets };
    let mut wanted = targets.iter().filter(|t| t.percent.unwrap_or(0) > 0 || !t.headers.is_empty());
    wanted.all(|t| {
        let revision = if t.revision == LATEST { latest } else { Some(t.revision.as_str()) };
        status.traffic.iter().any(|s| {
            let same = Some(s.revision.as_str()) == revision && s.headers == t.headers;
            // `latest` may add to a revision's own share.
            same && s.percent >= t.percent.unwrap_or(0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_named_in_several_ways() {
        for word in ["3", "r3", "hello-r3"] {
            assert_eq!(revision_name("hello", word).expect("a revision"), "hello-r3");
        }
        assert_eq!(revision_name("hello", "latest").expect("a revision"), "latest");
        assert_eq!(revision_name("r", "r-r1").expect("a revision"), "r-r1");
        for word in ["", "r", "x3", "other-r3", "hello-r", "hello"] {
            assert!(revision_name("hello", word).is_err(), "{word}");
        }
        assert_eq!((number("hello", "hello-r12"), number("hello", "other")), (12, 0));
    }

    #[test]
    fn traffic_has_moved_when_every_share_is_served() {
        let target = |revision: &str, percent| TrafficTarget {
            revision: revision.into(),
            percent: Some(percent),
            ..TrafficTarget::default()
        };
        let share = |revision: &str, percent| TrafficStatus {
            revision: revision.into(),
            percent,
            ..TrafficStatus::default()
        };
        let status = |traffic: &[TrafficStatus]| FunctionStatus {
            latest_ready_revision: Some("b".into()),
            traffic: traffic.to_vec(),
            ..FunctionStatus::default()
        };
        assert!(!wanted_is_served(&[], &status(&[])));
        assert!(!wanted_is_served(&[], &status(&[share("a", 100)])), "the newest is still being started");
        assert!(wanted_is_served(&[], &status(&[share("b", 100)])));
        for split in [[target("a", 90), target("b", 10)], [target("a", 90), target("latest", 10)]] {
            assert!(!wanted_is_served(&split, &status(&[share("a", 100)])));
            assert!(wanted_is_served(&split, &status(&[share("a", 90), share("b", 10)])));
        }
        assert_eq!(shares(&[share("a", 90), share("b", 10)]), "a 90 %, b 10 %");
    }
}

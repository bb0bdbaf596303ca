//! What the API server answered, against what the store then held.
use crate::door::Asked;
use crate::observer::Observer;
use crate::state::{State, is_going, list, split_key, text, uid};
use http::Method;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a path leads: resource, namespace, name, subresource.
pub struct Place {
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
}

/// Parses `/api/v1/namespaces/ns/pods/p/status` and its kin.
pub fn place(path: &str) -> Option<Place> {
    let mut parts = path.trim_matches('/').split('/').peekable();
    let group = match parts.next()? {
        "api" => "core",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    let mut namespace = "";
    let mut resource = parts.next()?;
    if resource == "namespaces" {
        let rest: Vec<&str> = parts.clone().collect();
        if rest.len() >= 2 && !matches!(rest[1], "status" | "finalize") {
            (namespace, resource) = (rest[0], rest[1]);
            parts.next();
            parts.next();
        }
    }
    let (name, subresource) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    Some(Place {
        resource: format!("{group}/{resource}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

/// What users were told and nobody may take back.
#[derive(Default)]
pub struct Promises {
    /// By store key: uid and wanted state (`spec`, or `data`) as the user's last answered write left it.
    pub wanted: BTreeMap<String, (String, Value)>,
    /// By uid: what a user deleted.
    pub deleted: BTreeMap<String, String>,
}

fn key_of(place: &Place, name: &str) -> String {
    match place.namespace.as_str() {
        "" => format!("/registry/{}/{name}", place.resource),
        namespace => format!("/registry/{}/{namespace}/{name}", place.resource),
    }
}

/// What a user decides about an object.
pub fn wanted(object: &Value) -> Value {
    object.get("spec").or_else(|| object.get("data")).cloned().unwrap_or(Value::Null)
}

const USER: &str = "kubernetes-admin";

/// One answer, the moment the server gave it.
pub fn check(observer: &Observer, asked: &Asked, code: u16, body: &[u8]) {
    if !asked.changes() || !(200..300).contains(&code) || asked.query.contains("dryRun") {
        return;
    }
    let Some(place) = place(&asked.path) else { return };
    if !matches!(place.subresource.as_str(), "" | "status" | "finalize") {
        return;
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return observer.journal.broke("an answer is JSON", format_args!("{} {}", asked.method, asked.path));
    };
    let wrong = observer.with(|state| {
        if asked.method == Method::DELETE {
            return check_delete(state, asked, &place, &answer);
        }
        check_write(state, asked, &place, &answer)
    });
    if let Err(how) = wrong {
        observer.journal.broke(
            "an acknowledged write is never lost",
            format_args!("{} {}: {how}", asked.method, asked.path),
        );
    }
}

fn check_write(state: &mut State, asked: &Asked, place: &Place, answer: &Value) -> Result<(), String> {
    let version = text(answer, "/metadata/resourceVersion");
    let revision: u64 = version.parse().map_err(|_| format!("the answer has resourceVersion {version:?}"))?;
    let name = text(answer, "/metadata/name");
    // events.k8s.io is stored as core's.
    let resource = if place.resource == "events.k8s.io/events" { "core/events" } else { &place.resource };
    let log = state.log.get(resource).map_or(&[][..], Vec::as_slice);
    let entry = log.binary_search_by_key(&revision, |e| e.revision).ok().map(|i| &log[i]);
    let namespace = text(answer, "/metadata/namespace");
    let gone_with_this = is_going(answer);
    if !entry.is_some_and(|e| e.name == name && e.namespace == namespace) && !gone_with_this {
        return Err(format!("{name} was answered to be at revision {revision}, where it never was"));
    }
    if let Some(stored) = state.object(resource, namespace, name)
        && stored.revision == revision
        && resource == place.resource
    {
        let mut answered = answer.clone();
        if let Some(meta) = answered.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        if answered != *stored.value {
            return Err(format!(
                "the answer differs from what is stored\n  answered {answered}\n  stored   {}",
                stored.value
            ));
        }
    }
    if asked.user == USER && place.subresource.is_empty() {
        state.promises.wanted.insert(key_of(place, name), (uid(answer).to_owned(), wanted(answer)));
    }
    Ok(())
}

fn check_delete(state: &mut State, asked: &Asked, place: &Place, answer: &Value) -> Result<(), String> {
    if place.name.is_empty() {
        return Ok(());
    }
    let id = match text(answer, "/kind") {
        "Status" => text(answer, "/details/uid"),
        _ => uid(answer),
    };
    if let Some(stored) = state.object(&place.resource, &place.namespace, &place.name)
        && uid(&stored.value) == id
        && !is_going(&stored.value)
    {
        return Err(format!("{} was answered to be deleted and is not", place.name));
    }
    if asked.user == USER && !id.is_empty() {
        state.promises.wanted.remove(&key_of(place, &place.name));
        state
            .promises
            .deleted
            .insert(id.to_owned(), format!("{} {}/{}", place.resource, place.namespace, place.name));
    }
    Ok(())
}

/// A pod is about to be deleted without grace, and not by its kubelet, which does so when all has stopped.
pub fn note_force(observer: &Observer, asked: &Asked) {
    if asked.method != Method::DELETE || asked.user.starts_with("system:node:") {
        return;
    }
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    let Some(place) = place(&asked.path).filter(|p| p.resource == "core/pods") else { return };
    let without_grace = body["gracePeriodSeconds"] == 0 || asked.query.contains("gracePeriodSeconds=0");
    observer.with(|state| {
        let id = state.object("core/pods", &place.namespace, &place.name).map(|o| uid(&o.value).to_owned());
        state.forced.extend(id.filter(|_| without_grace));
    });
}

/// A request that may or may not have been carried out, as far as its sender can tell.
pub fn unknown(observer: &Observer, asked: &Asked) {
    let Some(place) = place(&asked.path).filter(|_| asked.changes()) else { return };
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    observer.with(|state| {
        if place.subresource == "binding" {
            state.ambiguous_bindings.insert(format!("{}/{}", place.namespace, place.name));
        }
        if asked.method == Method::POST && place.resource == "core/pods" && place.subresource.is_empty() {
            for owner in list(&body, "/metadata/ownerReferences").iter().filter_map(|r| r["uid"].as_str()) {
                *state.ambiguous_creates.entry(owner.to_owned()).or_default() += 1;
            }
        }
    });
}

/// A user's request whose outcome not even its witness knows.
pub fn forget_promise(observer: &Observer, resource: &str, namespace: &str, name: &str) {
    observer.with(|state| {
        state.promises.wanted.retain(|key, _| {
            split_key(key)
                .is_none_or(|(r, ns, n)| (r.as_str(), ns.as_str(), n.as_str()) != (resource, namespace, name))
        });
    });
}

#[test]
fn paths_lead_somewhere() {
    let at = |path| place(path).map(|p| (p.resource, p.namespace, p.name, p.subresource)).unwrap();
    let of = |a: &str, b: &str, c: &str, d: &str| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned());
    assert_eq!(at("/api/v1/namespaces/a/pods/p/status"), of("core/pods", "a", "p", "status"));
    assert_eq!(at("/apis/apps/v1/namespaces/a/deployments"), of("apps/deployments", "a", "", ""));
    assert_eq!(at("/api/v1/namespaces/a"), of("core/namespaces", "", "a", ""));
    assert_eq!(at("/api/v1/namespaces/a/finalize"), of("core/namespaces", "", "a", "finalize"));
    assert_eq!(at("/api/v1/nodes/n"), of("core/nodes", "", "n", ""));
}

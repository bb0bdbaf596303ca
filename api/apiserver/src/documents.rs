//! Everything that is not an object: discovery, OpenAPI, version, health, metrics.
use crate::negotiate::accepted;
use crate::query::Query;
use crate::respond::{self, Answer};
use crate::server::Server;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Method, StatusCode};
use machinery::resource::Resource;
use machinery::status::Status;
use machinery::{discovery, openapi, resource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// The Kubernetes whose API this is, with our name as pre-release.
const GIT_VERSION: &str = "v1.36.2-dhow";
/// Checks of /healthz, /livez and /readyz; each is one the store can fail.
const CHECKS: &[&str] = &["ping", "store"];

pub(crate) async fn answer(
    server: &Server,
    method: &Method,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Answer, Status> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Status::new(405, "MethodNotAllowed", format!("{method} is not supported on {path}")));
    }
    let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    if let Some(rest) =
        ["/healthz", "/livez", "/readyz"].iter().find_map(|root| below(trimmed, root).map(|r| (*root, r)))
    {
        return health(server, rest.0, rest.1, query).await;
    }
    let metrics = server.usage.is_some();
    let table = resource::served(metrics);
    match trimmed {
        "/" => Ok(respond::json(StatusCode::OK, &json!({ "paths": paths(table) }))),
        "/api" => Ok(discovered(table, headers, true, || {
            discovery::api_versions(table, &server.advertise_address.to_string())
        })),
        "/apis" => Ok(discovered(table, headers, false, || discovery::api_group_list(table))),
        "/version" => Ok(respond::json(StatusCode::OK, &version())),
        "/metrics" => Ok(respond::bytes(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            server.metrics.text(),
        )),
        "/openapi/v2" => Ok(openapi_v2(headers)),
        "/openapi/v3" => {
            let body = serde_json::to_vec(&openapi::v3_index(metrics)).map_err(Status::internal)?;
            let tag = format!("\"{}\"", hash(&body));
            Ok(cached(headers, &tag, "application/json", Bytes::from(body)))
        }
        other => {
            if let Some(document) = other.strip_prefix("/openapi/v3/") {
                let (body, hash) = openapi::v3_document(document).ok_or_else(Status::no_such_path)?;
                return Ok(cached(
                    headers,
                    &format!("\"{hash}\""),
                    "application/json",
                    Bytes::from_static(body),
                ));
            }
            let parts: Vec<&str> = other.trim_start_matches('/').split('/').collect();
            let found = match parts.as_slice() {
                ["api", version] => discovery::api_resource_list(table, "", version),
                ["apis", group] => discovery::api_group(table, group),
                ["apis", group, version] => discovery::api_resource_list(table, group, version),
                _ => None,
            };
            found.map(|v| respond::json(StatusCode::OK, &v)).ok_or_else(Status::no_such_path)
        }
    }
}

fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// Discovery in the newest form the client names; a client that names none gets the old one.
fn discovered(table: &[Resource], headers: &HeaderMap, core: bool, legacy: impl FnOnce() -> Value) -> Answer {
    for range in accepted(headers) {
        if range.kind != "application/json" || range.parameter("as") != Some("APIGroupDiscoveryList") {
            if matches!(range.kind, "application/json" | "*/*" | "application/*")
                && range.parameter("as").is_none()
            {
                break;
            }
            continue;
        }
        let (version, content_type) = match range.parameter("v") {
            Some("v2") => ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
            Some("v2beta1") => {
                ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")
            }
            _ => continue,
        };
        let body = serde_json::to_vec(&discovery::aggregated(table, core, version)).unwrap_or_default();
        let tag = format!("\"{}\"", hash(&body));
        let mut answer = cached(headers, &tag, content_type, Bytes::from(body));
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        return answer;
    }
    let mut answer = respond::json(StatusCode::OK, &legacy());
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

fn openapi_v2(headers: &HeaderMap) -> Answer {
    static JSON_TAG: OnceLock<String> = OnceLock::new();
    static PROTOBUF_TAG: OnceLock<String> = OnceLock::new();
    let protobuf = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.contains("application/com.github.proto-openapi.spec.v2"));
    let (body, content_type, tag) = if protobuf {
        (openapi::v2_protobuf(), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", &PROTOBUF_TAG)
    } else {
        (openapi::v2_document(), "application/json", &JSON_TAG)
    };
    let tag = tag.get_or_init(|| format!("\"{}\"", hash(body)));
    let mut answer = cached(headers, tag, content_type, Bytes::from_static(body));
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

/// A document with its ETag, or 304 when the client has it.
fn cached(headers: &HeaderMap, tag: &str, content_type: &'static str, body: Bytes) -> Answer {
    let has = headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|t| t.trim().trim_start_matches("W/") == tag || t.trim() == "*"));
    let mut answer = if has {
        let mut answer = respond::bytes(StatusCode::NOT_MODIFIED, content_type, Bytes::new());
        answer.headers_mut().remove(CONTENT_TYPE);
        answer
    } else {
        respond::bytes(StatusCode::OK, content_type, body)
    };
    if let Ok(tag) = HeaderValue::from_str(tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
    })
}

fn paths(table: &[Resource]) -> Vec<String> {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].iter().map(|p| (*p).to_owned()).collect();
    for row in table.iter().filter(|r| !r.group.is_empty()) {
        for path in [format!("/apis/{}", row.group), format!("/apis/{}/{}", row.group, row.version)] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let rest = ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    paths.extend(rest.iter().map(|p| (*p).to_owned()));
    paths
}

/// Health, in upstream's words.
async fn health(server: &Server, root: &str, check: &str, query: &Query) -> Result<Answer, Status> {
    if !check.is_empty() && !CHECKS.contains(&check) {
        return Err(Status::no_such_path());
    }
    let asked: Vec<&str> = if check.is_empty() { CHECKS.to_vec() } else { vec![check] };
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut healthy = true;
    for name in asked {
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        let ok = name != "store" || server.store.head().await.is_ok();
        healthy &= ok;
        // Why the store fails is for the log, not for everyone who asks.
        lines.push_str(&if ok {
            format!("[+]{name} ok\n")
        } else {
            format!("[-]{name} failed: reason withheld\n")
        });
    }
    let what = root.trim_start_matches('/');
    if !healthy {
        return Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{what} check failed\n")));
    }
    if query.raw("verbose").is_some() {
        return Ok(respond::text(StatusCode::OK, format!("{lines}{what} check passed\n")));
    }
    Ok(respond::text(StatusCode::OK, "ok"))
}

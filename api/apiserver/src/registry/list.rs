//! List: pages as of one revision, selectors, tables.
use super::Request;
use crate::error::from_store;
use crate::negotiate::{Output, Shape};
use crate::object;
use crate::query::{ListOptions, VersionMatch};
use crate::respond::{self, Answer};
use crate::selection::Selection;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use machinery::resource::Resource;
use machinery::status::Status;
use machinery::table;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Kv, Revision};

/// Keys read from the store at a time when a selector may drop many of them: 500 objects of 4 kB are 2 MB.
const CHUNK: usize = 500;

/// What a continue token holds: the revision of the first page and the last key given. Revision 0 goes on with
/// whatever is there now (after the list's revision was compacted away).
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: Revision,
    start: String,
}
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn encode(revision: Revision, start: &str) -> String {
        let token = Self { v: TOKEN_VERSION.to_owned(), rv: revision, start: start.to_owned() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }
    fn decode(text: &str) -> Result<Self, Status> {
        let bad = |_| Status::bad_request("continue key is not valid: it was not made by this server");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| bad(e.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        // A key with `..` could only come from someone who made the token himself; keys are below the prefix anyway.
        if token.v != TOKEN_VERSION { Err(bad(String::new())) } else { Ok(token) }
    }
}

/// The objects of a page.
pub(crate) struct Listed {
    pub(crate) kvs: Vec<Kv>,
    pub(crate) revision: Revision,
    continue_token: Option<String>,
    remaining: Option<u64>,
}

/// A collection, or a page of it.
pub(crate) async fn list(request: &Request<'_>) -> Result<Answer, Status> {
    let options = ListOptions::parse(request.query, false)?;
    let selection = Selection::parse(request.row, &request.target.namespace, request.query)?;
    let listed = collect(request, &options, &selection).await?;
    answer(request.row, &listed, request.output, request.server.ambient.now())
}

/// At which revision to read, and after which key.
async fn start(
    request: &Request<'_>,
    options: &ListOptions,
    prefix: &str,
) -> Result<(Option<Revision>, Option<String>), Status> {
    if let Some(token) = &options.continue_token {
        let token = Token::decode(token)?;
        let after = format!("{prefix}{}", token.start);
        return Ok(((token.rv != 0).then_some(token.rv), Some(after)));
    }
    match (options.version, options.version_match) {
        (Some(at), Some(VersionMatch::Exact)) => Ok((Some(at), None)),
        (Some(at_least), _) if at_least > 0 => {
            let head = request.server.store.head().await.map_err(from_store)?;
            if at_least > head {
                return Err(Status::too_large_resource_version(at_least, head));
            }
            Ok((None, None))
        }
        _ => Ok((None, None)),
    }
}

/// Reads what a list asks for.
pub(crate) async fn collect(
    request: &Request<'_>,
    options: &ListOptions,
    selection: &Selection,
) -> Result<Listed, Status> {
    let row = request.row;
    let store = &request.server.store;
    let prefix = object::key(row, &request.target.namespace, "");
    let (mut at, mut after) = start(request, options, &prefix).await?;

    // `fieldSelector=metadata.name=x` within a namespace is how kubectl watches one object: no scan for that.
    if let Some(name) = selection.single_name()
        && (!row.namespaced() || !request.target.namespace.is_empty())
        && options.continue_token.is_none()
    {
        let (kv, revision) =
            store.get(&object::key(row, &request.target.namespace, name), at).await.map_err(from_store)?;
        let mut kvs = Vec::new();
        if let Some(kv) = kv
            && selection.selects(row, &kv)?
        {
            kvs.push(kv);
        }
        return Ok(Listed { kvs, revision, continue_token: None, remaining: None });
    }

    let everything = selection.is_everything();
    let chunk = if everything { options.limit } else { CHUNK };
    let mut kvs: Vec<Kv> = Vec::new();
    loop {
        let page = match store.list(&prefix, after.as_deref(), chunk, at).await {
            Ok(page) => page,
            Err(store::Error::Compacted { .. }) if options.continue_token.is_some() => {
                return Err(expired_token(after.as_deref().unwrap_or(""), &prefix));
            }
            Err(e) => return Err(from_store(e)),
        };
        let revision = page.revision;
        at = Some(revision);
        after = page.kvs.last().map(|kv| kv.key.clone());
        if everything {
            let more = page.remaining > 0;
            let continue_token = after
                .filter(|_| more)
                .map(|last| Token::encode(revision, last.strip_prefix(&prefix).unwrap_or(&last)));
            let remaining = more.then_some(page.remaining);
            return Ok(Listed { kvs: page.kvs, revision, continue_token, remaining });
        }
        let last_page = page.remaining == 0;
        for kv in page.kvs {
            if !selection.selects(row, &kv)? {
                continue;
            }
            if options.limit > 0 && kvs.len() == options.limit {
                // One more than asked for exists: the page ends before it.
                let last = kvs.last().map_or("", |kv| kv.key.as_str());
                let token = Token::encode(revision, last.strip_prefix(&prefix).unwrap_or(last));
                return Ok(Listed { kvs, revision, continue_token: Some(token), remaining: None });
            }
            kvs.push(kv);
        }
        if last_page {
            return Ok(Listed { kvs, revision, continue_token: None, remaining: None });
        }
    }
}

/// The 410 for a page of a list whose revision is gone, with a token that goes on from the same place.
fn expired_token(after: &str, prefix: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Some(Token::encode(0, after.strip_prefix(prefix).unwrap_or(after)));
    status
}

fn answer(row: &Resource, listed: &Listed, output: Output, now: jiff::Timestamp) -> Result<Answer, Status> {
    let mut meta = json!({ "resourceVersion": listed.revision.to_string() });
    if let Some(token) = &listed.continue_token {
        meta["continue"] = json!(token);
    }
    if let Some(remaining) = listed.remaining {
        meta["remainingItemCount"] = json!(remaining);
    }
    if output.is_plain() {
        return Ok(respond::bytes(StatusCode::OK, "application/json", plain(row, listed, &meta)?));
    }
    let objects = listed
        .kvs
        .iter()
        .map(|kv| object::decode(row, &kv.value, kv.mod_revision))
        .collect::<Result<Vec<Value>, Status>>()?;
    let value = match output.shape {
        Shape::Table(version, include) => {
            let objects: Vec<&Value> = objects.iter().collect();
            table::to_table(row, &objects, meta, include, version, true, now)
        }
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "items": objects.iter().map(respond::partial).collect::<Vec<_>>(),
        }),
        Shape::AsIs => json!({
            "kind": format!("{}List", row.kind), "apiVersion": row.api_version(), "metadata": meta, "items": objects,
        }),
    };
    respond::written(StatusCode::OK, &value, output)
}

/// The list without parsing a single object.
fn plain(row: &Resource, listed: &Listed, meta: &Value) -> Result<Bytes, Status> {
    let size: usize = listed.kvs.iter().map(|kv| kv.value.len() + 48).sum();
    let mut out = Vec::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        row.kind,
        row.api_version()
    );
    out.extend_from_slice(head.as_bytes());
    for (i, kv) in listed.kvs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        object::write_encoded(row, &kv.value, kv.mod_revision, &mut out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

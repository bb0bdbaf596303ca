//! One request from its first byte to its answer: who, may they, what, done, counted.
use crate::authentication::{UserInfo, authenticate};
use crate::authorization::{Attributes, authorize, forbidden};
use crate::body::RequestBody;
use crate::compress;
use crate::documents;
use crate::impersonation::impersonate;
use crate::limits::Class;
use crate::metrics::Subject;
use crate::negotiate;
use crate::path::{ResourceTarget, Target, target};
use crate::query::Query;
use crate::registry::{self, Request, update::Door};
use crate::respond::{self, Answer};
use crate::review;
use crate::server::Server;
use crate::subresource::{binding, eviction, finalize, log, proxy, scale, streams};
use crate::usage;
use crate::watch;
use futures::FutureExt;
use http::request::Parts;
use machinery::resource::{Resource, SubresourceKind, Verb};
use machinery::status::Status;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How the sender is known.
pub(crate) enum Caller {
    /// The in-process door: whoever holds it is this user.
    Known(Arc<UserInfo>),
    /// A socket: by certificate, by token, or not at all.
    Peer(Option<Arc<UserInfo>>),
}

/// Answers a request, whatever happens.
pub(crate) async fn handle(
    server: Arc<Server>,
    caller: Caller,
    request: http::Request<RequestBody>,
    end: CancellationToken,
) -> Answer {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let target = target(&parts.method, parts.uri.path(), &query);
    let row = match &target {
        Target::Resource(t) => t.row(),
        Target::Other { .. } => None,
    };
    let class = class_of(&target, row);
    let work = AssertUnwindSafe(route(&server, caller, &parts, &query, &target, row, class, body, &end))
        .catch_unwind();
    let finished = if class == Class::LongRunning {
        Some(work.await)
    } else {
        tokio::time::timeout(server.limits.request_timeout, work).await.ok()
    };
    let result = match finished {
        Some(Ok(result)) => result,
        // The panic's own message has gone to the log by the panic hook.
        Some(Err(_)) => Err(Status::internal(
            "the server panicked while it answered; the request may or may not have been carried out",
        )),
        None => {
            Err(Status::new(504, "Timeout", "Timeout: request did not complete within the allotted time"))
        }
    };
    let mut answer = result.unwrap_or_else(|status| respond::error(&status));
    if negotiate::accepts_gzip(&parts.headers) {
        answer = compress::gzip(answer).await;
    }
    let subject = subject_of(&target, row);
    server.metrics.request(subject, answer.status().as_u16(), class, begun.elapsed());
    answer
}

fn class_of(target: &Target, row: Option<&Resource>) -> Class {
    let Target::Resource(t) = target else { return Class::Read };
    let streams = row.and_then(|r| r.subresource(&t.subresource)).is_some_and(|s| {
        matches!(s.kind, SubresourceKind::Log | SubresourceKind::Proxy) || is_streams(s.kind)
    });
    match t.verb {
        _ if streams => Class::LongRunning,
        "watch" => Class::LongRunning,
        "get" | "list" => Class::Read,
        _ => Class::Write,
    }
}

/// Whether it upgrades the connection.
fn is_streams(kind: SubresourceKind) -> bool {
    matches!(kind, SubresourceKind::Exec | SubresourceKind::Attach)
}

fn subject_of(target: &Target, row: Option<&'static Resource>) -> Subject {
    let (Target::Resource(t), Some(row)) = (target, row) else { return Subject::default() };
    let subresource = row.subresource(&t.subresource).map_or("", |s| s.name);
    let verb = match t.verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "",
    };
    Subject { verb, group: row.group, resource: row.plural, subresource }
}

#[allow(clippy::too_many_arguments)]
async fn route(
    server: &Arc<Server>,
    caller: Caller,
    parts: &Parts,
    query: &Query,
    target: &Target,
    row: Option<&'static Resource>,
    class: Class,
    body: RequestBody,
    end: &CancellationToken,
) -> Result<Answer, Status> {
    // Health must answer when the server is full: that is what it is for.
    let is_health = matches!(target, Target::Other { path } if path.starts_with("/livez") || path.starts_with("/readyz") || path.starts_with("/healthz"));
    let place = if is_health { None } else { Some(server.in_flight.enter(class).await?) };
    let gauge = server.metrics.in_flight(class);
    gauge.inc();
    let _leave = Leave(gauge);
    let user = match caller {
        Caller::Known(user) => user,
        Caller::Peer(peer) => authenticate(peer.as_ref(), &parts.headers, &server.authenticators).await?,
    };
    let user = impersonate(user, &parts.headers)?;
    match target {
        Target::Other { path } => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            let attributes = Attributes::NonResource { verb: &verb, path };
            if !authorize(&user, &attributes) {
                return Err(forbidden(&user, &attributes));
            }
            documents::answer(server, &parts.method, path, query, &parts.headers).await
        }
        Target::Resource(resource) => {
            let attributes = Attributes::Resource {
                verb: resource.verb,
                group: &resource.group,
                resource: &resource.plural,
                subresource: &resource.subresource,
                namespace: &resource.namespace,
                name: &resource.name,
            };
            if !authorize(&user, &attributes) {
                return Err(forbidden(&user, &attributes));
            }
            // WebSocket comes with GET, and yet nobody who may only read a pod may run something in it.
            let streams =
                row.and_then(|r| r.subresource(&resource.subresource)).is_some_and(|s| is_streams(s.kind));
            if streams
                && let Attributes::Resource { verb: "get", group, resource, subresource, namespace, name } =
                    attributes
            {
                let creating =
                    Attributes::Resource { verb: "create", group, resource, subresource, namespace, name };
                if !authorize(&user, &creating) {
                    return Err(forbidden(&user, &creating));
                }
            }
            if let Some(review) = review::of(resource) {
                return review::answer(review, &user, &parts.headers, body).await;
            }
            let row = row
                .filter(|r| r.group != machinery::metrics::GROUP || server.usage.is_some())
                .ok_or_else(Status::no_such_path)?;
            resource.check_names()?;
            let is_log_or_proxy = class == Class::LongRunning && resource.verb != "watch";
            // These pass on whatever comes; an Accept that no object could be written in does not matter.
            let output = if is_log_or_proxy {
                negotiate::Output::JSON
            } else {
                negotiate::output(&parts.headers, query)?
            };
            let request = Request {
                server,
                method: &parts.method,
                headers: &parts.headers,
                query,
                raw_query: parts.uri.query(),
                target: resource,
                row,
                output,
                upgrade: parts.extensions.get(),
                end,
            };
            if row.group == machinery::metrics::GROUP {
                usage::answer(&request).await
            } else if resource.subresource.is_empty() {
                main(&request, resource, body, place).await
            } else {
                sub(&request, resource, body, place).await
            }
        }
    }
}

/// Counts a request out again, also when its future is dropped.
struct Leave(prometheus_client::metrics::gauge::Gauge);
impl Drop for Leave {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn main(
    request: &Request<'_>,
    target: &ResourceTarget,
    body: RequestBody,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Status> {
    let row = request.row;
    let not_supported = || Status::method_not_supported(row, target.verb);
    let verb = row.verbs.iter().find(|v| v.as_str() == target.verb).ok_or_else(not_supported)?;
    match verb {
        Verb::Get => registry::read::get(request).await,
        Verb::List => registry::list::list(request).await,
        Verb::Watch => match place {
            Some(place) => watch::watch(request, place).await,
            None => Err(not_supported()),
        },
        Verb::Create if target.name.is_empty() => {
            if row.namespaced() && target.namespace.is_empty() {
                return Err(Status::bad_request("an empty namespace may not be set during creation"));
            }
            registry::create::create(request, body).await
        }
        Verb::Create => Err(not_supported()),
        Verb::Update if !target.name.is_empty() => registry::update::update(request, body, Door::Main).await,
        Verb::Patch if !target.name.is_empty() => registry::patch::patch(request, body, Door::Main).await,
        Verb::Update | Verb::Patch => Err(not_supported()),
        Verb::Delete => registry::delete::delete(request, body).await,
        Verb::DeleteCollection => registry::delete::delete_collection(request, body).await,
    }
}

async fn sub(
    request: &Request<'_>,
    target: &ResourceTarget,
    body: RequestBody,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Status> {
    let row = request.row;
    let subresource = row.subresource(&target.subresource).ok_or_else(Status::no_such_path)?;
    if subresource.kind == SubresourceKind::Proxy {
        return keep(proxy::proxy(request, body).await?, place);
    }
    if !subresource.verbs.iter().any(|v| v.as_str() == target.verb) {
        return Err(Status::method_not_supported(row, target.verb));
    }
    match (subresource.kind, target.verb) {
        (SubresourceKind::Status, "get") => registry::read::get(request).await,
        (SubresourceKind::Status, "update") => registry::update::update(request, body, Door::Status).await,
        (SubresourceKind::Status, "patch") => registry::patch::patch(request, body, Door::Status).await,
        (SubresourceKind::Scale, "get") => scale::get(request).await,
        (SubresourceKind::Scale, "update") => scale::update(request, body).await,
        (SubresourceKind::Scale, "patch") => scale::patch(request, body).await,
        (SubresourceKind::Binding, "create") => binding::create(request, body).await,
        (SubresourceKind::Eviction, "create") => eviction::create(request, body).await,
        (SubresourceKind::Finalize, "update") => finalize::update(request, body).await,
        (SubresourceKind::Log, "get") => keep(log::get(request).await?, place),
        (SubresourceKind::Exec, _) => streams::exec(request, place).await,
        (SubresourceKind::Attach, _) => streams::attach(request, place).await,
        _ => Err(Status::method_not_supported(row, target.verb)),
    }
}

/// Keeps a stream's place until its body has been sent.
fn keep(answer: Answer, place: Option<OwnedSemaphorePermit>) -> Result<Answer, Status> {
    Ok(answer.map(|body| body.holding(place)))
}

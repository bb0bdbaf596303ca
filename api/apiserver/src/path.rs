//! What a request's method and path ask for (upstream's `RequestInfo`). Pure.
use crate::query::{Query, percent_decode};
use http::Method;
use machinery::metrics;
use machinery::resource::{self, Resource};
use machinery::status::Status;

/// What a request is about.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// An object, a collection, or a subresource below `/api` or `/apis`.
    Resource(ResourceTarget),
    /// Everything else: discovery, health, documents.
    Other { path: String },
}

#[derive(Clone, Debug)]
pub(crate) struct ResourceTarget {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for cluster-scoped resources and for lists across all namespaces.
    pub(crate) namespace: String,
    pub(crate) plural: String,
    /// Empty for collections.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// What follows a `proxy` subresource, with its leading slash and still escaped.
    pub(crate) rest: String,
    /// As authorization spells it: `get`, `list`, `watch`, `create`, …
    pub(crate) verb: &'static str,
}

impl ResourceTarget {
    /// Refuses names that no object can have, before they become part of a key (upstream's `IsValidPathSegmentName`).
    pub(crate) fn check_names(&self) -> Result<(), Status> {
        for (what, name) in [("namespace", &self.namespace), ("resource name", &self.name)] {
            if name == "." || name == ".." || name.contains(['/', '%']) {
                return Err(Status::bad_request(format!(
                    "invalid {what} {name:?}: it may not be \".\" or \"..\" nor contain '/' or '%'"
                )));
            }
        }
        Ok(())
    }

    /// The row of the table, if the path names one and its shape fits the row's scope.
    pub(crate) fn row(&self) -> Option<&'static Resource> {
        let computed =
            |r: &&Resource| r.group == self.group && r.version == self.version && r.plural == self.plural;
        let row = resource::lookup(&self.group, &self.version, &self.plural)
            .or_else(|| metrics::ROWS.iter().find(computed))?;
        match row.namespaced() {
            false if !self.namespace.is_empty() => None,
            // An object has one namespace; only collections may be read across all.
            true if self.namespace.is_empty() && !self.name.is_empty() => None,
            _ => Some(row),
        }
    }
}

/// Reads the target from a request's method, path and query.
pub(crate) fn target(method: &Method, path: &str, query: &Query) -> Target {
    let other = || Target::Other { path: path.to_owned() };
    let mut parts = path.trim_start_matches('/').splitn(9, '/');
    let (group, version) = match parts.next() {
        Some("api") => ("", parts.next()),
        Some("apis") => match parts.next() {
            Some(group) if !group.is_empty() => (group, parts.next()),
            _ => return other(),
        },
        _ => return other(),
    };
    let Some(version) = version.filter(|v| !v.is_empty()) else { return other() };
    let rest: Vec<&str> = parts.collect();
    let rest: &[&str] = match rest.as_slice() {
        [head @ .., ""] if !rest.contains(&"proxy") => head,
        all => all,
    };
    let (namespace, rest) = match rest {
        [] | [""] => return other(),
        // `namespaces/<name>` and its subresources are about the namespace itself.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] if group.is_empty() => {
            ("", rest)
        }
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let plural = rest[0];
    let name = rest.get(1).copied().unwrap_or("");
    let subresource = rest.get(2).copied().unwrap_or("");
    let tail =
        rest.get(3..).filter(|t| !t.is_empty()).map(|t| format!("/{}", t.join("/"))).unwrap_or_default();
    if subresource != "proxy" && !tail.is_empty() {
        return other();
    }
    let verb = match (method.as_str(), name.is_empty()) {
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        ("GET" | "HEAD", true) if query.flag("watch") => "watch",
        ("GET" | "HEAD", true) => "list",
        // The old way to watch one object; kubectl uses field selectors instead.
        ("GET" | "HEAD", false) => "get",
        _ => "",
    };
    Target::Resource(ResourceTarget {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: percent_decode(namespace, false),
        plural: plural.to_owned(),
        name: percent_decode(name, false),
        subresource: subresource.to_owned(),
        rest: tail,
        verb,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(method: Method, path: &str) -> String {
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        match target(&method, path, &Query::parse(query)) {
            Target::Other { path } => format!("other {path}"),
            Target::Resource(t) => format!(
                "{} {}/{} ns={} {} {} {} {}",
                t.verb, t.group, t.version, t.namespace, t.plural, t.name, t.subresource, t.rest
            ),
        }
    }

    #[test]
    fn paths_are_read_as_kubernetes_reads_them() {
        let get = |p| shown(Method::GET, p).trim_end().to_owned();
        assert_eq!(get("/api/v1/pods"), "list /v1 ns= pods");
        assert_eq!(get("/api/v1/pods?watch=1"), "watch /v1 ns= pods");
        assert_eq!(get("/api/v1/namespaces"), "list /v1 ns= namespaces");
        assert_eq!(get("/api/v1/namespaces/a"), "get /v1 ns= namespaces a");
        assert_eq!(get("/api/v1/namespaces/a/finalize"), "get /v1 ns= namespaces a finalize");
        assert_eq!(get("/api/v1/namespaces/a/pods/b/log"), "get /v1 ns=a pods b log");
        assert_eq!(get("/apis/apps/v1/namespaces/a/deployments/"), "list apps/v1 ns=a deployments");
        assert_eq!(get("/api/v1/nodes/n/proxy/images/import"), "get /v1 ns= nodes n proxy /images/import");
        assert_eq!(get("/apis/apps/v1"), "other /apis/apps/v1");
        assert_eq!(get("/apis"), "other /apis");
        assert_eq!(get("/healthz"), "other /healthz");
        assert_eq!(
            shown(Method::DELETE, "/api/v1/namespaces/a/pods").trim_end(),
            "deletecollection /v1 ns=a pods"
        );
    }
}

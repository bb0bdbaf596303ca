//! What is done to objects: read, create, update, patch, delete. One way for every kind; what differs from kind
//! to kind is asked of the row's strategy.
//!
//! Invariant: an object is changed only from the state that was looked at; when someone was faster, the change is
//! made again from the newer state, unless the client named the state it wanted to change.
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_plan;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod services;
pub(crate) mod update;

use crate::negotiate::Output;
use crate::path::ResourceTarget;
use crate::query::Query;
use crate::server::Server;
use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use machinery::resource::Resource;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Everything about a request but its body.
pub(crate) struct Request<'a> {
    pub(crate) server: &'a Arc<Server>,
    pub(crate) method: &'a http::Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a Query,
    /// The query string as it came.
    pub(crate) raw_query: Option<&'a str>,
    pub(crate) target: &'a ResourceTarget,
    pub(crate) row: &'static Resource,
    pub(crate) output: Output,
    /// The connection, if the client asks to make another protocol's of it.
    pub(crate) upgrade: Option<&'a OnUpgrade>,
    /// Ends streams: the server or the connection goes away.
    pub(crate) end: &'a CancellationToken,
}

impl Request<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }
}

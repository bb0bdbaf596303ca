//! Which revision gets which requests: as wanted, and as it is.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The `revision` of a [`TrafficTarget`] that means the newest ready one.
pub const LATEST: &str = "latest";

/// One wanted share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTarget {
    /// The name of a revision, or [`LATEST`].
    #[serde(default)]
    pub revision: String,
    /// The share of the requests; those of all targets without headers make 100. None with headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// Requests that have all of these headers go here before shares are counted. Names in any case, values
    /// exactly.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// What one revision is sent now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// The revision's name.
    #[serde(default)]
    pub revision: String,
    /// The share of the requests; 0 with headers.
    #[serde(default)]
    pub percent: i32,
    /// As in [`TrafficTarget::headers`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The revision's Service, in the same namespace.
    #[serde(default)]
    pub service: String,
}

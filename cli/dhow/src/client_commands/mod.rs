//! Commands for those without kubectl, and for functions.
pub(crate) mod api_resources;
pub(crate) mod apply;
pub(crate) mod delete;
pub(crate) mod deploy;
pub(crate) mod describe;
pub(crate) mod functions;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod merge;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod scale;

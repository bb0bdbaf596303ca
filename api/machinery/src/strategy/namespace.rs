//! Namespace.
use super::Strategy;

pub(super) struct Namespace;

impl Strategy for Namespace {}

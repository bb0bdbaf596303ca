//! Pods.
use super::Strategy;

pub(super) struct Pod;

impl Strategy for Pod {}

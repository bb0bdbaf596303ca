//! ReplicaSet.
use super::Strategy;

pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {}

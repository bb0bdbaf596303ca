//! ConfigMap.
use super::Strategy;

pub(super) struct ConfigMap;

impl Strategy for ConfigMap {}

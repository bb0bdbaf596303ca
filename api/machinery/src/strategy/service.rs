//! Service.
use super::Strategy;

pub(super) struct Service;

impl Strategy for Service {}

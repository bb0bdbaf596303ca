//! Lease.
use super::Strategy;

pub(super) struct Lease;

impl Strategy for Lease {}

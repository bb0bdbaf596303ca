//! EndpointSlice.
use super::Strategy;

pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {}

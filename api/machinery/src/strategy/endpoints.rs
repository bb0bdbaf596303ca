//! Endpoints.
use super::Strategy;

pub(super) struct Endpoints;

impl Strategy for Endpoints {}

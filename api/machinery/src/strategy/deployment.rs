//! Deployment.
use super::Strategy;

pub(super) struct Deployment;

impl Strategy for Deployment {}

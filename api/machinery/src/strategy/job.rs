//! Job.
use super::Strategy;

pub(super) struct Job;

impl Strategy for Job {}

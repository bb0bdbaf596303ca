//! RuntimeClass.
use super::Strategy;

pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {}

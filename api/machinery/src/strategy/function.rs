//! Function.
use super::Strategy;

pub(super) struct Function;

impl Strategy for Function {}

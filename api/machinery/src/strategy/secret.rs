//! Secret.
use super::Strategy;

pub(super) struct Secret;

impl Strategy for Secret {}

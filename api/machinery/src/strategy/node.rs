//! Node.
use super::Strategy;

pub(super) struct Node;

impl Strategy for Node {}

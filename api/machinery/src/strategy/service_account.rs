//! ServiceAccount.
use super::Strategy;

pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {}

//! ServiceAccounts: nothing but their metadata matters to the API server.
use super::Strategy;

pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {}

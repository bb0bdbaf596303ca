//! Leases: who leads, and which nodes live.
use super::Strategy;
use super::check::{self, Faults};
use super::view::maybe_int;
use crate::field::{Error, Path};
use serde_json::Value;

pub(super) struct Lease;

impl Strategy for Lease {
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path) = (Faults::new(), Path::new("spec"));
        if let Some(n) = maybe_int(obj, "/spec/leaseDurationSeconds")
            && n <= 0
        {
            faults.push(Error::invalid(path.child("leaseDurationSeconds"), n, "must be greater than 0"));
        }
        check::not_negative(&mut faults, &obj["spec"], &path, "leaseTransitions");
        faults
    }
    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_lasts() {
        assert!(Lease.validate(&json!({"spec": {"leaseDurationSeconds": 1}})).is_empty());
        let got =
            shown(&Lease.validate(&json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}})));
        assert_eq!(
            got,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}

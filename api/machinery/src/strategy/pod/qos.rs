//! A pod's quality of service class.
use crate::quantity::Quantity;
use crate::strategy::check::quantity;
use crate::strategy::view::list;
use serde_json::Value;

/// `Guaranteed` where every container has equal requests and limits of cpu and memory, `BestEffort` where none
/// has any, else `Burstable`.
pub(super) fn class(pod: &Value) -> &'static str {
    let containers = || list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"));
    let amount = |c: &Value, side: &str, name: &str| {
        quantity(&c["resources"][side][name]).filter(|q| *q > Quantity::ZERO)
    };
    let any = containers().any(|c| {
        ["cpu", "memory"]
            .iter()
            .any(|r| amount(c, "limits", r).is_some() || amount(c, "requests", r).is_some())
    });
    if !any {
        return "BestEffort";
    }
    let all_equal = containers().all(|c| {
        ["cpu", "memory"].iter().all(|r| {
            let limit = amount(c, "limits", r);
            limit.is_some() && amount(c, "requests", r).is_none_or(|request| Some(request) == limit)
        })
    });
    if all_equal { "Guaranteed" } else { "Burstable" }
}

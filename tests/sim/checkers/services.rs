//! An address belongs to one Service.
use super::Checker;
use crate::state::{Change, State, list, text};
use serde_json::Value;

pub struct Addresses;

fn addresses(service: &Value) -> Vec<String> {
    let ips = list(service, "/spec/clusterIPs").iter().filter_map(Value::as_str).filter(|ip| *ip != "None");
    let ports = list(service, "/spec/ports").iter().filter_map(|p| {
        Some(format!(
            "{} {}",
            p["protocol"].as_str().unwrap_or("TCP"),
            p["nodePort"].as_i64().filter(|n| *n > 0)?
        ))
    });
    ips.map(str::to_owned).chain(ports).collect()
}

impl Checker for Addresses {
    fn invariant(&self) -> &'static str {
        "no two Services share a ClusterIP or a node port, and a Service keeps its ClusterIP"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        if change.resource != "core/services" {
            return Ok(());
        }
        let Some(new) = &change.new else { return Ok(()) };
        if let Some(old) = &change.old
            && !text(old, "/spec/clusterIP").is_empty()
            && text(old, "/spec/type") == text(new, "/spec/type")
            && text(old, "/spec/clusterIP") != text(new, "/spec/clusterIP")
        {
            return Err(format!(
                "{} changed its ClusterIP to {}",
                change.about(),
                text(new, "/spec/clusterIP")
            ));
        }
        let own = addresses(new);
        for other in state.of("core/services") {
            if std::sync::Arc::ptr_eq(other, new) {
                continue;
            }
            if let Some(shared) = addresses(other).iter().find(|a| own.contains(a)) {
                return Err(format!(
                    "{} shares {shared} with {}",
                    change.about(),
                    text(other, "/metadata/name")
                ));
            }
        }
        Ok(())
    }
}

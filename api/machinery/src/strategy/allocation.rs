//! Which addresses and ports of the cluster a Service holds, and giving out those it lacks.
//!
//! Pure: the caller says what is taken, and hands in a random number that says where the search begins, so that
//! two API servers seldom try the same address. The search prefers the upper part of a range: the lower part is
//! left to people who choose for themselves (upstream's ServiceIPStaticSubrange).
use super::service::{needs_cluster_ip, needs_node_ports};
use super::view::{each, int, list, text};
use crate::field::{Error, Path};
use crate::meta;
use crate::resource;
use crate::status::Status;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// What there is to give out, and what of it is taken by all services but those in question.
pub struct Pools<'a> {
    /// The first address that may be given out.
    pub first: Ipv4Addr,
    /// How many addresses may be given out.
    pub count: u32,
    /// The range as people write it, for errors: `10.96.0.0/16`.
    pub range: &'a str,
    pub used_addresses: &'a BTreeSet<Ipv4Addr>,
    pub node_ports: RangeInclusive<u16>,
    pub used_node_ports: &'a BTreeSet<u16>,
    /// Where the search begins.
    pub random: u64,
}

/// The address a service holds, if it has one.
pub fn held_address(service: &Value) -> Option<Ipv4Addr> {
    text(service, "/spec/clusterIP").parse().ok().filter(|_| needs_cluster_ip(service))
}

/// The node ports a service holds.
pub fn held_node_ports(service: &Value) -> BTreeSet<u16> {
    let ports = list(service, "/spec/ports").iter().map(|p| int(p, "/nodePort"));
    ports.filter_map(|n| u16::try_from(n).ok()).filter(|n| *n != 0).collect()
}

/// Whether [`allocate`] would have anything to do: the caller need not look up what is taken if not.
pub fn needs_allocation(service: &Value, old: Option<&Value>) -> bool {
    let held = old.map(held_node_ports).unwrap_or_default();
    let address = needs_cluster_ip(service)
        && text(service, "/spec/clusterIP") != "None"
        && (held_address(service).is_none() || held_address(service) != old.and_then(held_address));
    let ports = list(service, "/spec/ports").iter().any(|p| match int(p, "/nodePort") {
        0 => needs_node_ports(service),
        n => u16::try_from(n).map_or(true, |n| !held.contains(&n)),
    });
    address || ports
}

/// Gives a service the address and node ports it asks for or lacks. `old` is what it was before an update: what
/// it held then it may hold on to. On an error the service is as it was.
pub fn allocate(service: &mut Value, old: Option<&Value>, pools: &Pools<'_>) -> Result<(), Status> {
    let address = plan_address(service, old, pools)?;
    let ports = plan_node_ports(service, old, pools)?;
    if let Some(address) = address {
        service["spec"]["clusterIP"] = json!(address.to_string());
        service["spec"]["clusterIPs"] = json!([address.to_string()]);
    }
    for (port, given) in each(service, "/spec/ports").zip(ports) {
        if let Some(n) = given {
            port["nodePort"] = json!(n);
        }
    }
    Ok(())
}

fn invalid(service: &Value, error: Error) -> Status {
    match resource::lookup("", "v1", "services") {
        Some(row) => Status::invalid(row, meta::name(service), &[error]),
        None => Status::internal(error),
    }
}

fn plan_address(service: &Value, old: Option<&Value>, pools: &Pools<'_>) -> Result<Option<Ipv4Addr>, Status> {
    if !needs_cluster_ip(service) || text(service, "/spec/clusterIP") == "None" {
        return Ok(None);
    }
    let refuse = |ip: &str, why: &str| {
        let detail = format!("failed to allocate IP {ip}: {why}");
        invalid(service, Error::invalid(Path::new("spec").child("clusterIPs"), json!([ip]), &detail))
    };
    let index = |ip: Ipv4Addr| u32::from(ip).wrapping_sub(u32::from(pools.first));
    match text(service, "/spec/clusterIP") {
        "" => {
            let is_free = |i: u32| !pools.used_addresses.contains(&at(pools, i));
            let offset = (pools.count / 16).clamp(16, 256);
            let found = search(pools.count, offset, pools.random, is_free);
            let found =
                found.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            Ok(Some(at(pools, found)))
        }
        asked => {
            let ip: Ipv4Addr = asked.parse().map_err(|_| {
                refuse(
                    asked,
                    &format!("the provided network does not match the current range {}", pools.range),
                )
            })?;
            if old.and_then(held_address) == Some(ip) {
                return Ok(Some(ip));
            }
            if index(ip) >= pools.count {
                let why = format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                    pools.range
                );
                return Err(refuse(asked, &why));
            }
            if pools.used_addresses.contains(&ip) {
                return Err(refuse(asked, "provided IP is already allocated"));
            }
            Ok(Some(ip))
        }
    }
}

fn at(pools: &Pools<'_>, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pools.first).wrapping_add(index))
}

/// For each port of the service the node port it gets, if it gets one.
fn plan_node_ports(
    service: &Value,
    old: Option<&Value>,
    pools: &Pools<'_>,
) -> Result<Vec<Option<u16>>, Status> {
    let held = old.map(held_node_ports).unwrap_or_default();
    // Two ports of one service may share a node port if their protocols differ.
    let mut own = held_node_ports(service);
    let (low, high) = (*pools.node_ports.start(), *pools.node_ports.end());
    let count = u32::from(high.saturating_sub(low)) + 1;
    let mut out = Vec::new();
    for (i, port) in list(service, "/spec/ports").iter().enumerate() {
        let asked = int(port, "/nodePort");
        if asked == 0 {
            if !needs_node_ports(service) {
                out.push(None);
                continue;
            }
            let number = |i: u32| low.saturating_add(i as u16);
            let is_free = |i: u32| !pools.used_node_ports.contains(&number(i)) && !own.contains(&number(i));
            let offset = (count / 32).clamp(16, 128);
            let found = search(count, offset, pools.random.rotate_left(i as u32 % 64), is_free);
            let found =
                found.ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
            own.insert(number(found));
            out.push(Some(number(found)));
            continue;
        }
        let path = Path::new("spec").child("ports").index(i).child("nodePort");
        let refuse = |why: &str| invalid(service, Error::invalid(path.clone(), asked, why));
        let n = u16::try_from(asked).ok().filter(|n| pools.node_ports.contains(n)).ok_or_else(|| {
            refuse(&format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ))
        })?;
        if pools.used_node_ports.contains(&n) && !held.contains(&n) {
            return Err(refuse("provided port is already allocated"));
        }
        out.push(Some(n));
    }
    Ok(out)
}

/// A free number below `count`: from `offset` on, beginning anywhere; below it only if nothing is free above.
fn search(count: u32, offset: u32, random: u64, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let offset = if offset < count { offset } else { 0 };
    let upper = count - offset;
    if upper == 0 {
        return None;
    }
    let start = (random % u64::from(upper)) as u32;
    (start..upper).chain(0..start).map(|i| offset + i).chain(0..offset).find(|i| is_free(*i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pools<'a>(used: &'a BTreeSet<Ipv4Addr>, ports: &'a BTreeSet<u16>, random: u64) -> Pools<'a> {
        Pools {
            first: Ipv4Addr::new(10, 0, 0, 1),
            count: 254,
            range: "10.0.0.0/24",
            used_addresses: used,
            node_ports: 30000..=30099,
            used_node_ports: ports,
            random,
        }
    }
    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})
    }

    #[test]
    fn only_what_is_lacking_is_given_out() {
        let (ips, ports) = (BTreeSet::new(), BTreeSet::new());
        let p = pools(&ips, &ports, 0);
        let mut s = service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
        assert!(needs_allocation(&s, None));
        allocate(&mut s, None, &p).unwrap();
        assert_eq!(s["spec"]["clusterIP"], "10.0.0.17");
        assert_eq!(s["spec"]["clusterIPs"], json!(["10.0.0.17"]));
        assert!(s["spec"]["ports"][0].get("nodePort").is_none());
        assert!(!needs_allocation(&s, Some(&s)));
        for spec in [json!({"type": "ClusterIP", "clusterIP": "None"}), json!({"type": "ExternalName"})] {
            let mut s = service(spec.clone());
            assert!(!needs_allocation(&s, None));
            allocate(&mut s, None, &p).unwrap();
            assert_eq!(s["spec"], spec);
        }
        let mut s = service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
        allocate(&mut s, None, &p).unwrap();
        assert_eq!(held_node_ports(&s).len(), 2);
    }

    #[test]
    fn what_is_taken_or_out_of_range_is_refused_unless_it_is_ones_own() {
        let ips = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 9)]);
        let ports = BTreeSet::from([30001]);
        let p = pools(&ips, &ports, 0);
        let message = |spec: Value| allocate(&mut service(spec), None, &p).unwrap_err().message;
        assert_eq!(
            message(json!({"type": "ClusterIP", "clusterIP": "10.0.0.9"})),
            "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"10.0.0.9\"]: failed to allocate IP 10.0.0.9: \
             provided IP is already allocated"
        );
        assert!(message(json!({"type": "ClusterIP", "clusterIP": "10.0.1.1"})).ends_with(
            "the provided IP (10.0.1.1) is not in the valid range. The range of valid IPs is 10.0.0.0/24"
        ));
        let np = |n: i64| json!({"type": "NodePort", "clusterIP": "10.0.0.3", "ports": [{"port": 80, "nodePort": n}]});
        assert!(
            message(np(30001)).ends_with(
                "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
            )
        );
        assert!(
            message(np(80)).ends_with(
                "provided port is not in the valid range. The range of valid ports is 30000-30099"
            )
        );
        let mut own = service(np(30001));
        own["spec"]["clusterIP"] = json!("10.0.0.9");
        let old = own.clone();
        allocate(&mut own, Some(&old), &p).unwrap();
        assert_eq!(own["spec"]["clusterIP"], "10.0.0.9");
    }

    proptest! {
        #[test]
        fn an_address_is_given_out_as_long_as_one_is_free(
            taken in prop::collection::btree_set(1_u8..=254, 0..254), random in any::<u64>()
        ) {
            let used: BTreeSet<Ipv4Addr> = taken.iter().map(|n| Ipv4Addr::new(10, 0, 0, *n)).collect();
            let ports = BTreeSet::new();
            let mut s = service(json!({"type": "ClusterIP"}));
            let done = allocate(&mut s, None, &pools(&used, &ports, random));
            prop_assert_eq!(done.is_ok(), used.len() < 254);
            if done.is_ok() {
                prop_assert!(!used.contains(&held_address(&s).unwrap()));
            }
        }
    }
}

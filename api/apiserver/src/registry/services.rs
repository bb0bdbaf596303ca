//! The addresses and node ports of Services: chosen while the Service is created or changed, from what all
//! Services in the store leave free.
use crate::cidr::Cidr;
use crate::error::from_store;
use crate::object;
use crate::server::Server;
use machinery::field::{Error as FieldError, Path};
use machinery::meta;
use machinery::resource::Resource;
use machinery::status::Status;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Whether objects of this kind take addresses.
pub(crate) fn allocates(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "services"
}

/// What other Services hold.
#[derive(Clone, Debug, Default)]
struct Taken {
    addresses: BTreeSet<Ipv4Addr>,
    /// Protocol and number.
    node_ports: BTreeSet<(String, u16)>,
}

/// Fills in what `service` lacks. The caller holds the allocation lock until the Service is stored.
pub(crate) async fn allocate(
    server: &Server,
    row: &'static Resource,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if !wants(service, old) {
        return Ok(());
    }
    let page = server.store.list(&object::prefix(row), None, 0, None).await.map_err(from_store)?;
    let own = object::key(row, meta::namespace(service), meta::name(service));
    let mut taken = Taken::default();
    for kv in page.kvs.iter().filter(|kv| kv.key != own) {
        taken.add(&object::decode(row, &kv.value, kv.mod_revision)?);
    }
    plan_service(
        service,
        old,
        &taken,
        server.service_cidr,
        &server.service_node_port_range,
        server.ambient.random(),
    )
    .map_err(|errors| Status::invalid(row, meta::name(service), &errors))
}

impl Taken {
    fn add(&mut self, service: &Value) {
        for address in cluster_ips(service) {
            if let Ok(address) = address.parse() {
                self.addresses.insert(address);
            }
        }
        for port in ports(service) {
            if let Some(number) = node_port(port) {
                self.node_ports.insert((protocol(port).to_owned(), number));
            }
        }
    }
}

/// A change that touches nothing allocated needs no look at all the other Services.
fn wants(service: &Value, old: Option<&Value>) -> bool {
    match old {
        None => true,
        Some(old) => {
            let held =
                |s: &Value| (kind(s).to_owned(), cluster_ips(s).map(str::to_owned).collect::<Vec<_>>());
            held(service) != held(old) || service.pointer("/spec/ports") != old.pointer("/spec/ports")
        }
    }
}

fn kind(service: &Value) -> &str {
    service.pointer("/spec/type").and_then(Value::as_str).unwrap_or("ClusterIP")
}
fn cluster_ips(service: &Value) -> impl Iterator<Item = &str> {
    let one = service.pointer("/spec/clusterIP").and_then(Value::as_str);
    let many = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let many = many.into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(many.filter(move |ip| Some(*ip) != one)).filter(|ip| !ip.is_empty())
}
fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten()
}
fn protocol(port: &Value) -> &str {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}
fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
}

/// Chooses the addresses of one Service. `random` says where the search begins, so that addresses are spread and
/// one that was just freed is not given out at once.
fn plan_service(
    service: &mut Value,
    old: Option<&Value>,
    taken: &Taken,
    cidr: Cidr,
    node_ports: &RangeInclusive<u16>,
    random: u64,
) -> Result<(), Vec<FieldError>> {
    let spec = Path::new("spec");
    let mut errors = Vec::new();
    if kind(service) == "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(s) = service.get_mut("spec").and_then(Value::as_object_mut) {
                s.remove(field);
            }
        }
    } else {
        errors.extend(plan_address(service, old, taken, cidr, random, &spec));
    }
    errors.extend(plan_node_ports(service, old, taken, node_ports, random, &spec));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn plan_address(
    service: &mut Value,
    old: Option<&Value>,
    taken: &Taken,
    cidr: Cidr,
    random: u64,
    spec: &Path,
) -> Option<FieldError> {
    let asked = cluster_ips(service).next().map(str::to_owned);
    // A PUT that leaves the address out keeps the one there is.
    let kept =
        old.filter(|o| kind(o) != "ExternalName").and_then(|o| cluster_ips(o).next().map(str::to_owned));
    let address = match asked.or(kept.clone()) {
        Some(none) if none == "None" => none,
        Some(given) if Some(&given) == kept.as_ref() => given,
        Some(given) => {
            let path = spec.child("clusterIPs");
            match given.parse::<Ipv4Addr>() {
                Ok(ip) if !cidr.contains(ip) => {
                    let why = format!(
                        "failed to allocate IP {given}: the provided IP ({given}) is not in the valid range. The range of valid IPs is {cidr}"
                    );
                    return Some(FieldError::invalid(path, json!([given]), &why));
                }
                Ok(ip) if taken.addresses.contains(&ip) => {
                    let why = format!("failed to allocate IP {given}: provided IP is already allocated");
                    return Some(FieldError::invalid(path, json!([given]), &why));
                }
                Ok(_) => given,
                // Its form is validated with the rest of the object.
                Err(_) => return None,
            }
        }
        None => match free_address(taken, cidr, random) {
            Some(ip) => ip.to_string(),
            None => {
                return Some(FieldError::invalid(
                    spec.child("clusterIPs"),
                    json!([]),
                    &format!("failed to allocate a serviceIP: range is full ({cidr})"),
                ));
            }
        },
    };
    service["spec"]["clusterIP"] = json!(address);
    service["spec"]["clusterIPs"] = json!([address]);
    if service.pointer("/spec/ipFamilies").is_none() {
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
    }
    if service.pointer("/spec/ipFamilyPolicy").is_none() {
        service["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    }
    None
}

fn free_address(taken: &Taken, cidr: Cidr, random: u64) -> Option<Ipv4Addr> {
    let size = cidr.usable();
    // The first 16 addresses are for those who ask for one by number, as upstream keeps a band for them.
    let band = 16.min(size / 2);
    let spread = size - band;
    let begin = (random % u64::from(spread)) as u32;
    let dynamic = (0..spread).map(|i| band + (begin + i) % spread);
    dynamic.chain(1..band).map(|i| cidr.address(i)).find(|ip| !taken.addresses.contains(ip))
}

fn plan_node_ports(
    service: &mut Value,
    old: Option<&Value>,
    taken: &Taken,
    range: &RangeInclusive<u16>,
    random: u64,
    spec: &Path,
) -> Vec<FieldError> {
    let kind = kind(service).to_owned();
    let load_balancer_without = kind == "LoadBalancer"
        && service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&json!(false));
    let allocate = matches!(kind.as_str(), "NodePort" | "LoadBalancer") && !load_balancer_without;
    let keep: Vec<(String, u64, u16)> = old
        .into_iter()
        .flat_map(ports)
        .filter_map(|p| Some((protocol(p).to_owned(), p.get("port")?.as_u64()?, node_port(p)?)))
        .collect();
    let mut used = taken.node_ports.clone();
    let mut errors = Vec::new();
    let Some(list) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return errors };
    for (i, port) in list.iter_mut().enumerate() {
        let protocol = protocol(port).to_owned();
        let path = spec.child("ports").index(i).child("nodePort");
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            // A Service that is no longer a NodePort gives its ports back; one that never was may not ask.
            if let (Some(number), Some(o)) = (node_port(port), port.as_object_mut()) {
                if keep.iter().any(|(_, _, n)| *n == number) {
                    o.remove("nodePort");
                }
            }
            continue;
        }
        let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
        let kept = keep.iter().find(|(p, n, _)| *p == protocol && *n == number).map(|(_, _, n)| *n);
        match node_port(port) {
            Some(given) if keep.iter().any(|(p, _, n)| *p == protocol && *n == given) => {
                used.insert((protocol, given));
            }
            Some(given) if !range.contains(&given) => errors.push(FieldError::invalid(
                path,
                given,
                &format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                ),
            )),
            Some(given) if !used.insert((protocol.clone(), given)) => {
                errors.push(FieldError::invalid(path, given, "provided port is already allocated"));
            }
            Some(_) => {}
            None if !allocate => {}
            None => {
                let size = u64::from(*range.end() - *range.start()) + 1;
                let free = kept
                    .into_iter()
                    .chain((0..size).map(|n| range.start() + ((random.wrapping_add(n)) % size) as u16));
                let found = free.into_iter().find(|n| !used.contains(&(protocol.clone(), *n)));
                match found {
                    Some(n) => {
                        used.insert((protocol, n));
                        port["nodePort"] = json!(n);
                    }
                    None => errors.push(FieldError::invalid(
                        path,
                        0,
                        "failed to allocate a nodePort: range is full",
                    )),
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(service: &mut Value, old: Option<&Value>, taken: &Taken) -> Result<(), Vec<FieldError>> {
        plan_service(service, old, taken, "10.0.0.0/28".parse().unwrap(), &(30_000..=30_003), 7)
    }

    #[test]
    fn every_service_gets_an_address_of_its_own_until_the_range_is_full() {
        let mut taken = Taken::default();
        // 14 addresses; the first one (of the band) is the kubernetes Service's and is never chosen.
        for _ in 0..13 {
            let mut service = json!({"spec": {"ports": [{"port": 80}]}});
            plan(&mut service, None, &taken).unwrap();
            let before = taken.addresses.len();
            taken.add(&service);
            assert_eq!(taken.addresses.len(), before + 1, "{service}");
        }
        let mut service = json!({"spec": {}});
        assert!(plan(&mut service, None, &taken).unwrap_err()[0].to_string().contains("range is full"));
    }

    #[test]
    fn an_address_asked_for_must_be_free_and_in_the_range_and_headless_services_have_none() {
        let mut taken = Taken::default();
        taken.add(&json!({"spec": {"clusterIP": "10.0.0.5"}}));
        let ask = |ip: &str| {
            let mut s = json!({"spec": {"clusterIP": ip}});
            plan(&mut s, None, &taken).map(|()| s["spec"]["clusterIP"].clone()).map_err(|e| e[0].to_string())
        };
        assert_eq!(ask("10.0.0.6").unwrap(), "10.0.0.6");
        assert!(ask("10.0.0.5").unwrap_err().contains("already allocated"));
        assert!(ask("10.1.0.5").unwrap_err().contains("not in the valid range"));
        assert_eq!(ask("None").unwrap(), "None");
    }

    #[test]
    fn node_ports_are_kept_over_updates_and_given_back_when_the_type_changes() {
        let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 443}]}});
        plan(&mut service, None, &Taken::default()).unwrap();
        let first = service["spec"]["ports"][0]["nodePort"].clone();
        assert!(first.is_number() && first != service["spec"]["ports"][1]["nodePort"]);
        let mut again = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        plan(&mut again, Some(&service), &Taken::default()).unwrap();
        assert_eq!(again["spec"]["ports"][0]["nodePort"], first);
        assert_eq!(again["spec"]["clusterIP"], service["spec"]["clusterIP"]);
        again["spec"]["type"] = json!("ClusterIP");
        let old = again.clone();
        plan(&mut again, Some(&old), &Taken::default()).unwrap();
        assert_eq!(again["spec"]["ports"][0].get("nodePort"), None);
    }
}

//! Which Secret's certificate is for which host. Pure.
use crate::routes::{may_claim, normal_host};
use client::k8s_openapi::api::networking::v1::Ingress;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Secret's namespace and name.
pub(crate) type SecretName = (String, String);

/// What the Ingresses ask for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Hosts, perhaps beginning with `*.`, with the Secret of the oldest Ingress that claims each.
    pub(crate) hosts: BTreeMap<String, SecretName>,
    /// Every Secret that is named, with the Ingresses that name it.
    pub(crate) secrets: BTreeMap<SecretName, Vec<Arc<Ingress>>>,
}

/// Reads `spec.tls` of the Ingresses. An entry without hosts is for the hosts of its Ingress' rules.
pub(crate) fn plan_certificates(ingresses: &[Arc<Ingress>]) -> Wanted {
    let mut ingresses: Vec<_> = ingresses.iter().collect();
    ingresses.sort_by_key(|i| {
        (i.metadata.creation_timestamp.as_ref().map(|t| t.0), &i.metadata.namespace, &i.metadata.name)
    });
    let mut wanted = Wanted::default();
    for ingress in ingresses {
        let (Some(namespace), Some(spec)) = (&ingress.metadata.namespace, &ingress.spec) else { continue };
        for entry in spec.tls.iter().flatten() {
            let Some(secret) = entry.secret_name.as_ref().filter(|name| !name.is_empty()) else { continue };
            let secret = (namespace.clone(), secret.clone());
            let asking = wanted.secrets.entry(secret.clone()).or_default();
            if !asking.iter().any(|known| Arc::ptr_eq(known, ingress)) {
                asking.push(ingress.clone());
            }
            let of_rules = || spec.rules.iter().flatten().filter_map(|rule| rule.host.as_ref());
            let hosts: Vec<&String> = match &entry.hosts {
                Some(hosts) if !hosts.is_empty() => hosts.iter().collect(),
                _ => of_rules().collect(),
            };
            for host in hosts {
                let host = normal_host(host).into_owned();
                if !host.is_empty() && may_claim(namespace, &host) {
                    wanted.hosts.entry(host).or_insert_with(|| secret.clone());
                }
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ingress(namespace: &str, name: &str, day: u32, spec: Value) -> Arc<Ingress> {
        let value = json!({ "metadata": { "name": name, "namespace": namespace,
            "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z") }, "spec": spec });
        Arc::new(serde_json::from_value(value).expect("an ingress"))
    }

    #[test]
    fn the_oldest_ingress_brings_the_certificate_of_a_host() {
        let wanted = plan_certificates(&[
            ingress(
                "b",
                "young",
                2,
                json!({ "tls": [{ "hosts": ["x.example", "y.example"], "secretName": "s" }] }),
            ),
            ingress(
                "a",
                "old",
                1,
                json!({ "rules": [{ "host": "*.example" }], "tls": [{ "hosts": ["X.example"], "secretName": "s" },
                    { "secretName": "t" }, { "hosts": ["z.example"] }, { "hosts": ["web.b.localhost"], "secretName": "u" }] }),
            ),
        ]);
        let hosts: Vec<_> = wanted.hosts.iter().map(|(h, (ns, s))| format!("{h} {ns}/{s}")).collect();
        assert_eq!(hosts, ["*.example a/t", "x.example a/s", "y.example b/s"]);
        assert_eq!(wanted.secrets.len(), 4);
    }
}
